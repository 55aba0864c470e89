"""What a run on real data would take on this machine, before it is started: what is missing and
where to get it, time and disk.

`./run_all.sh paper --dry-run` prints it. Time is a count of operations (medxvl.pipeline.operations)
over the matrix rate of this machine, measured now; it is a rough answer to "hours, days or weeks?",
and says what it assumes.
"""

import shutil
from dataclasses import dataclass

import medxvl
from data_prep import datasets as raw_datasets
from medxvl.config import notebooks, paths, records, roles, threads
from medxvl.pipeline import operations as pipeline_operations

SHARE = {
    "cpu": 0.5,
    "cuda": 0.3,
}  # of the matrix rate that a training step reaches; tests/benchmarks measure it at published size
GPU = 300e12  # operations a second of the GPU that is named for comparison
REPORT, SENTENCES, QUESTION = 90, 6, 10  # tokens of a report, its sentences, tokens of a question
USUAL = {
    "main": "mimic_cxr",
    "transfer": "openi",
    "questions": "vqa_rad",
}  # whose counts stand in for data that are not given


@dataclass(frozen=True)
class Work:
    """A part of a notebook: what it does, and its operations."""

    notebook: str
    what: str
    operations: float


def report(preset, names: list[str], data: str = "") -> str:
    """The estimate for the notebooks `names` as text; measures this machine for about a second."""
    device, kind, rate = measured(preset)
    sources = roles.sources(preset, data)
    lines = ["", "what is missing", *(missing(preset, names, sources) or ["  nothing"])]
    sizes, assumed = studies(sources)
    parts = [part for part in work(preset, sizes) if part.notebook in names]
    speed = rate * SHARE[device]
    rows = [
        [f"{p.notebook[:2]} {p.what}", f"{p.operations:.1e}", duration(p.operations / speed)]
        for p in parts
    ]
    total = sum(part.operations for part in parts)
    rows.append(["together", f"{total:.1e}", duration(total / speed)])
    lines += ["", records.table(rows, ["training or scoring", "operations", "time here"]), ""]
    lines += [
        f"assumed: {rate / 1e12:.2g} TFLOP/s, the {kind} matrix rate of this "
        f"{'GPU' if device == 'cuda' else 'CPU'} measured now, of "
        f"which a step reaches {SHARE[device]:.0%}; one process",
        f"assumed: {sizes['train']:,} studies to train on, {sizes['test']:,} to test "
        f"({assumed}), {REPORT} tokens a report in "
        f"{SENTENCES} sentences",
        "not counted: preparing the data, decoding reports, other evaluation, waiting for "
        "disks; expect up to twice the time",
    ]
    counted = {part.notebook for part in parts}
    others = [
        name[:2]
        for name in names
        if name not in counted
        and "evaluate" in notebooks.notebook(name).groups
        and name[:2] != "00"
    ]
    if others:
        lines.append(f"not counted: notebooks {', '.join(others)}")
    if device == "cpu":
        there = duration(total / (GPU * SHARE["cuda"]))
        lines.append(
            f"for comparison: {there} on a GPU of {GPU / 1e12:.0f} TFLOP/s in half precision"
        )
    if device == "cpu" and preset.precision == "fp16":
        lines.append(
            "note: precision=fp16 needs a GPU; on this machine add --set precision=fp32 (or bf16)"
        )
    return "\n".join([*lines, "", *disk(preset, names, sizes)])


def measured(preset) -> tuple[str, str, float]:
    """Device that the preset would use, number type, and matrix operations a second there."""
    medxvl.set_up()
    import torch

    device = "cuda" if preset.device != "cpu" and torch.cuda.is_available() else "cpu"
    kind = preset.precision if device == "cuda" else "fp32"
    if device == "cpu":
        torch.set_num_threads(preset.threads or threads.cores())
    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return device, kind, pipeline_operations.matrix_rate(device, types[kind])


def missing(preset, names: list[str], sources: dict) -> list[str]:
    """Data and weights that the notebooks need and that are not there, each with where to get
    it.
    """
    lines = []
    for role in notebooks.roles(notebooks.with_needs(names), prepared=True):
        if role not in sources:
            lines += [
                f"  data, role {role}: {roles.ROLES[role][1]}",
                f"    {roles.GET[role]}",
                f"    then --data {role}=NAME:PATH",
            ]
    from medxvl.weights import convert

    starts = {
        "21_xvl_pretrain": ("vision_weights", "text_weights"),
        "11_medvill_pretrain": ("medvill_vision_weights", "medvill_text_weights"),
    }
    wanted = [setting for name in starts if name in names for setting in starts[name]]
    for setting in wanted:
        file = getattr(preset, setting)
        if not file:
            continue
        try:
            convert.locate(file)
        except FileNotFoundError:
            lines += [
                f"  weights: {file}",
                f"    {convert.where(file)}",
                f"    then into {paths.WEIGHTS}, or --set {setting}=PATH",
            ]
    return lines


def studies(sources: dict) -> tuple[dict[str, int], str]:
    """Numbers of training and test studies and of questions, and where they are from: prepared
    data, or published counts.
    """
    main = sources.get("main")
    name = main.name if main else USUAL["main"]
    counts = dict(
        getattr(raw_datasets.load(name), "EXPECTED", raw_datasets.load(USUAL["main"]).EXPECTED)[
            "counts"
        ]
    )
    told = (
        "published counts of "
        f"{name if main and hasattr(raw_datasets.load(name), 'EXPECTED') else USUAL['main']}"
    )
    if main and (main.folder / "card.json").is_file():
        from medxvl.data.dataset import Dataset  # with torch: seconds that a start has not

        dataset = Dataset(main.folder)
        counts = {split: len(dataset.rows(split)) for split in ("train", "valid", "test")} | {
            "studies": len(dataset.index)
        }
        told = f"{dataset.label}, prepared"
    counts["questions"] = raw_datasets.load("vqa_rad").EXPECTED["counts"]["train questions"]
    return counts, told


def work(preset, sizes: dict[str, int]) -> list[Work]:
    """The long parts of the notebooks, with their operations."""
    p, train = preset, sizes["train"]
    cell = 32 if p.medvill_trunk == "resnet50" else p.medvill_patch
    places = (p.medvill_image_size // cell) ** 2  # image tokens of MedViLL, all of them
    words = min(REPORT, p.medvill_text)

    def tuned(text):  # one sample forward, all image tokens, the image encoder included
        return pipeline_operations.trunk(p) + pipeline_operations.medvill(p, places, text)

    masked = p.mask_share * words
    pretrain = 3 * (
        pipeline_operations.trunk(p)
        + pipeline_operations.medvill(p, p.medvill_positions, words)
        + pipeline_operations.words_head(p, masked)
    )
    written = words if p.generate_objective == "every" else masked
    sentence = max(1, REPORT // SENTENCES) + 2
    n = p.batch_size
    step = pipeline_operations.xvl_step(
        p, [REPORT] * n, [sentence] * (n * SENTENCES), round(p.mask_share * REPORT * n)
    )
    pool = p.retrieve_pool or sizes["test"]
    aligned = p.medvill_alignment_epochs
    start = (
        [
            Work(
                "10_medvill_model",
                f"alignment, {aligned} epochs",
                aligned * train * 3 * pipeline_operations.trunk(p),
            )
        ]
        if aligned
        else []
    )
    return start + [
        Work(
            "11_medvill_pretrain",
            f"pre-training, {p.medvill_epochs} epochs",
            p.medvill_epochs * train * pretrain,
        ),
        Work(
            "12_medvill_classify",
            f"fine-tuning, {p.classify_epochs} epochs",
            p.classify_epochs * train * 3 * tuned(words),
        ),
        Work(
            "13_medvill_retrieve",
            f"fine-tuning, {p.retrieve_epochs} epochs",
            p.retrieve_epochs * train * 3 * tuned(words),
        ),
        Work(
            "13_medvill_retrieve",
            f"{pool:,} x {pool:,} pairs scored",
            pool**2 * pipeline_operations.medvill(p, places, words),
        ),
        Work(
            "14_medvill_vqa",
            f"fine-tuning, {p.vqa_epochs} epochs",
            p.vqa_epochs * sizes["questions"] * 3 * tuned(QUESTION),
        ),
        Work(
            "15_medvill_generate",
            f"fine-tuning, {p.generate_epochs} epochs",
            p.generate_epochs
            * train
            * 3
            * (tuned(words) + pipeline_operations.words_head(p, written)),
        ),
        Work(
            "20_xvl_vision_pretrain",
            f"iBOT, {p.ibot_epochs} epochs",
            p.ibot_epochs * train * pipeline_operations.ibot_image(p),
        ),
        Work("21_xvl_pretrain", f"pre-training, {p.epochs} epochs", p.epochs * train / n * step),
        Work(
            "22_xvl_zero_shot",
            f"fine-tuning on labels, {p.supervised_epochs} epochs, twice",
            2 * p.supervised_epochs * train * 3 * pipeline_operations.image(p),
        ),
    ]


def disk(preset, names: list[str], sizes: dict[str, int]) -> list[str]:
    """Space for the prepared images and for checkpoints, beside what is free; lines of text."""
    images = sizes["studies"] * preset.store_size**2
    kept = sum(checkpoints(preset, names).values())
    lines = []
    for what, need, folder in (
        ("prepared images of main", images, paths.DATA),
        ("checkpoints and training states", kept, paths.RUNS),
    ):
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        lines.append(
            f"disk: {need / 1e9:.0f} GB for {what}, {free / 1e9:.0f} GB free at {folder}"
            + "  TOO LITTLE" * (need > free)
        )
    return lines


def checkpoints(preset, names: list[str]) -> dict[str, float]:
    """Bytes that each training leaves: kept epochs, and the state to go on from (weights, twins,
    two moments a weight).
    """
    medxvl.set_up()
    import torch

    from medxvl.medvill import model as medvill
    from medxvl.xvl import ibot
    from medxvl.xvl import model as xvl

    def size(model, keeps):
        every = 4 * sum(tensor.numel() for tensor in model.state_dict().values())
        trained = 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        return keeps * every + every + 2 * trained

    with torch.device("meta"):
        made = {
            "11_medvill_pretrain": lambda: size(
                medvill.MedViLL(preset, preset.vocabulary), preset.checkpoints
            ),
            "20_xvl_vision_pretrain": lambda: size(ibot.IBOT(preset), 1),
            "21_xvl_pretrain": lambda: size(xvl.XVL(preset, preset.vocabulary), preset.checkpoints),
        }
        tasks = [
            name
            for name in notebooks.NAMES
            if name[3:].startswith("medvill_") and "tune" in notebooks.notebook(name).groups
        ]
        made |= dict.fromkeys(tasks, made["11_medvill_pretrain"])
        return {name: make() for name, make in made.items() if name in names}


def duration(seconds: float) -> str:
    """``"3 d 4 h"``, ``"2 h 10 min"``, ``"5 min"``."""
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // (24 * 60)
    if days:
        return f"{days} d {hours % 24} h"
    return (
        f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else "under 1 min"
    )
