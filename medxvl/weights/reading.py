"""Read a checkpoint file of any common form without running anything that lies in it.

Foreign checkpoints are pickles, and a pickle is a program: they are only ever read by
`torch.load(weights_only=True)`, which builds tensors, numbers, text and plain containers. Two kinds
of harmless values that released checkpoints hold are let in besides: `argparse.Namespace` (iBOT's
`args`: names and values, no code of its own) and numpy's numbers (best scores).
"""

import argparse
import json
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# numbers in one checkpoint; the largest published one (X-VL with its twins) has 0.7 billion
LARGEST = 4_000_000_000
BRANCHES = (
    "teacher",
    "student",
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
)  # of a training's checkpoint
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

_scalar = np._core.multiarray.scalar
_SAFE = [
    argparse.Namespace,
    np.dtype,
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]
_SAFE += [
    getattr(np.dtypes, f"{kind}DType") for kind in ("Float64", "Float32", "Int64", "Int32", "Bool")
]


@dataclass
class Raw:
    """A checkpoint as it lies in its file: `state` key -> tensor, `beside` what else is there,
    `about` what it says of itself.
    """

    file: Path
    form: str  # safetensors, PyTorch zip, PyTorch before 1.6
    state: dict[str, Tensor]
    branch: str = ""  # of a training's checkpoint: teacher, student, model, ...
    beside: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(path, branch: str = "") -> Raw:
    """The checkpoint at `path`: a file, a Hugging Face folder, or a folder with one file an epoch
    (the last is taken).

    `branch` names a part of a training's checkpoint, such as student; without it the teacher where
    there is one, as the X-VL release does. Raises FileNotFoundError, and ValueError when the file
    is damaged, is no checkpoint, or asks for more than plain data.
    """
    files, notes = pick(Path(path))
    parts = [_read_file(file, branch) for file in files]
    raw = parts[0]
    for more in parts[1:]:
        raw.state |= more.state
    raw.notes = notes + raw.notes
    _check(raw)
    return raw


def _read_file(file: Path, branch: str) -> Raw:
    form, about = form_of(file), {}
    if form == "safetensors":
        content, about = _read_safetensors(file)
    else:
        content = _unpickle(file, mmap=form == "PyTorch zip")
    if not isinstance(content, dict):
        raise ValueError(
            f"{file}: expected a dictionary of weights, found {type(content).__name__}"
        )
    name, notes = _choose_branch(file, content, branch)
    state = content[name] if name else content
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    beside = {str(k): v for k, v in content.items() if k != name and not isinstance(v, Tensor)}
    return Raw(file, form, tensors, name, beside, about, notes)


# --- which file -----------------------------------------------------------------------------------
def pick(path: Path) -> tuple[list[Path], list[str]]:
    """The file that `path` means (several when a Hugging Face folder is in shards), and remarks on
    the choice.
    """
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: expected a weights file or a folder with one, found nothing"
        )
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name], _remarks_on_config(path)
        if (path / f"{name}.index.json").is_file():
            return _shards(path, path / f"{name}.index.json"), _remarks_on_config(path)
    if (path / "best.json").is_file():  # our own: best first
        best = [Path(str(name)).name for name in _json(path / "best.json")]
        return [path / best[0]], [f"{best[0]} of {len(best)} kept checkpoints, the best"]
    if (
        path / "model_best.pt"
    ).is_file():  # MedViLL's classification keeps it beside the last state
        return [path / "model_best.pt"], ["model_best.pt of the folder"]
    files = sorted(
        f
        for f in path.iterdir()
        if f.suffix in SUFFIXES and f.is_file() and not f.name.startswith("optim")
    )
    if not files:
        raise FileNotFoundError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, found none in this folder"
        )
    if len(files) == 1:
        return files, []
    epochs = {f: re.fullmatch(r"(.*?)(\d+)(\D*)", f.name) for f in files}
    series = {(m[1], m[3]) if m else f.name for f, m in epochs.items()}
    if len(series) > 1 or None in epochs.values():
        raise ValueError(
            f"{path}: several weights files ({_some([f.name for f in files])}); give the one "
            "that is meant"
        )
    last = max(files, key=lambda f: int(epochs[f][2]))
    return [last], [f"{last.name}, the last of {len(files)} epochs in the folder"]


def _shards(folder: Path, index: Path) -> list[Path]:
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(
            f"{index}: expected the list weight_map of shards, found none; download the "
            "folder again"
        )
    files = [
        folder / Path(str(name)).name for name in sorted(set(listed.values()))
    ]  # a name alone: nothing outside the folder
    absent = [f.name for f in files if not f.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder}: {len(absent)} of {len(files)} shards are missing, such as {absent[0]}"
        )
    return files


def _remarks_on_config(folder: Path) -> list[str]:
    if not (folder / "config.json").is_file():
        return []
    config = _json(folder / "config.json")
    asks = isinstance(config, dict) and "auto_map" in config
    return (
        ["config.json asks for code of its own: not run, the weights go into a plain BERT"]
        if asks
        else []
    )


def _json(file: Path):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{file}: not readable as JSON ({fault}); download it again") from None


# --- what form ------------------------------------------------------------------------------------
def form_of(file: Path) -> str:
    """Form of a weights file, told from its content, not its name. Raises ValueError for anything
    that is none.
    """
    with open(file, "rb") as stream:
        head = stream.read(512)
    if not head:
        raise ValueError(f"{file}: the file is empty; download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{file}: only the pointer of a large file (git LFS); fetch the file itself with "
            "git lfs pull"
        )
    if head.lstrip()[:1] == b"<":
        raise ValueError(
            f"{file}: a web page, not weights; open the link in a browser and download the "
            "file itself"
        )
    if head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b" or head[:6] == b"\xfd7zXZ\x00":
        raise ValueError(f"{file}: an archive (tar or compressed), not weights; unpack it and "
                         "give the file inside. "
                         "PyTorch's own tar files, from before 2017, are not read: they "
                         "cannot be read safely")  # fmt: skip
    if head[:4] == b"PK\x03\x04":
        _check_zip(file)
        return "PyTorch zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return "safetensors"
    if head[:1] == b"\x80":  # a pickle of protocol 2 or later
        return "PyTorch before 1.6"
    raise ValueError(
        f"{file}: expected weights (safetensors or PyTorch), found neither; it may be "
        "damaged: download it again"
    )


def _check_zip(file: Path) -> None:
    """A PyTorch archive stores its entries as they are: one that unpacks to more than its own size
    is none.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ValueError(
            f"{file}: the archive is cut short or damaged; download it again"
        ) from None
    names = [Path(e.filename).name for e in entries]
    if "constants.pkl" in names or any("/code/" in f"/{e.filename}" for e in entries):
        raise ValueError(f"{file}: a TorchScript archive, which holds a program: not run. "
                         "Save its state_dict() where the model was made, and give "
                         "that")  # fmt: skip
    if "data.pkl" not in names:
        raise ValueError(
            f"{file}: a zip archive without PyTorch weights; unpack it and give the file inside"
        )
    declared, size = sum(e.file_size for e in entries), file.stat().st_size
    if declared > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ValueError(f"{file}: refused, its entries unpack to {declared:,} bytes and the "
                         f"file has {size:,}; "
                         "PyTorch's own files are not compressed")  # fmt: skip


# --- the content ----------------------------------------------------------------------------------
def _read_safetensors(file: Path) -> tuple[dict, dict]:
    """Weights by name, those of a teacher and a student each under its own, and what the file says
    of itself.
    """
    try:
        with safe_open(file, framework="pt") as stream:
            keys = list(stream.keys())
            state = {key: stream.get_tensor(key) for key in keys}
            text = (stream.metadata() or {}).get("medxvl", "{}")
    except (SafetensorError, OSError, RuntimeError, ValueError) as fault:
        raise ValueError(
            f"{file}: damaged or cut short ({_first_line(fault)}); download or make it again"
        ) from None
    try:
        about = json.loads(text)
    except ValueError:
        about = {}
    if {key.partition(".")[0] for key in state} <= {"teacher", "student"}:
        pairs = [(*key.partition(".")[::2], value) for key, value in state.items()]
        state = {
            branch: {key: v for b, key, v in pairs if b == branch}
            for branch in sorted({b for b, _, _ in pairs})
        }
    return state, about if isinstance(about, dict) else {}


def _unpickle(file: Path, mmap: bool):
    """`torch.load` that builds plain data only; with `mmap` weights are read from the disk when
    they are first used.
    """
    try:
        with torch.serialization.safe_globals(_SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap or None)
    except Exception as fault:  # a damaged pickle can raise anything
        said = str(fault)
        asked = re.search(r"GLOBAL ([\w.<>]+)|function ([\w.<>]+)", said)
        if asked or "nsupported" in said:
            what = (
                next(g for g in asked.groups() if g)
                if asked
                else "more than plain data, or is damaged"
            )
            raise ValueError(
                f"{file}: refused, it asks for {what}, where only tensors, numbers and text "
                "are let in: reading it would run "
                "code. If it is a whole model from a source you trust, save its state_dict() "
                "where it was made, and give that"
            ) from None
        if "allocate" in said or isinstance(fault, MemoryError):
            raise ValueError(
                f"{file}: declares more numbers than fit into memory; it is damaged or forged"
            ) from None
        raise ValueError(
            f"{file}: damaged, cut short or no checkpoint ({_first_line(fault)}); download it again"
        ) from None


def _choose_branch(file: Path, content: dict, wanted: str) -> tuple[str, list[str]]:
    """Which entry of a checkpoint holds the weights ("" = the top itself), and a remark when there
    was a choice.
    """
    found = [
        b
        for b in BRANCHES
        if isinstance(content.get(b), dict)
        and any(isinstance(v, Tensor) for v in content[b].values())
    ]
    if wanted:
        if wanted not in found:
            raise ValueError(
                f"{file}: no part {wanted!r}, expected one of: "
                f"{', '.join(found) or 'none, there is only one'}"
            )
        return wanted, []
    both = (
        [f"read {found[0]}; the file also holds {', '.join(found[1:])}"] if len(found) > 1 else []
    )
    return (found[0], both) if found else ("", [])


def _check(raw: Raw) -> None:
    """Refuse what is no plain tensor, and a declared size that no published model has."""
    if not raw.state:
        raise ValueError(
            f"{raw.file}: expected weights by name, found {_some(list(raw.beside)) or 'nothing'}"
        )
    odd = [
        k
        for k, v in raw.state.items()
        if v.layout != torch.strided or v.is_quantized or v.device.type != "cpu"
    ]
    if odd:
        raise ValueError(f"{raw.file}: expected plain tensors, found another kind at {_some(odd)}")
    declared = sum(v.numel() for v in raw.state.values())
    if declared > LARGEST:
        raise ValueError(
            f"{raw.file}: refused, it declares {declared:,} numbers; at most {LARGEST:,} are read"
        )


def _some(names: list[str], n: int = 4) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def _first_line(fault: Exception) -> str:
    return (
        re.sub(r"\x1b\[\d*m", "", str(fault)).strip().split("\n")[0][:160] or type(fault).__name__
    )
