"""Which dataset serves which role of the notebooks, and where its prepared form lies."""

import ast
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from data_prep import DATASETS as NAMES  # besides these there is `phantom`, the default
from data_prep import DataError
from medxvl.config import paths, presets

# role: (reader of the phantom's tree that stands in for it, what it is for)
ROLES = {
    "main": ("mimic_cxr", "radiographs with reports: pre-training and zero-shot detection"),
    "unseen_disease": (
        "covid_cxr",
        "radiographs with and without a disease that is absent from the training data",
    ),
    "readers": (
        "chexpert_test",
        "readings of radiologists, and predictions of other models, on one test set",
    ),
    "transfer": (
        "openi",
        "radiographs with reports from another place: does what was learned on main hold there?",
    ),
    "questions": ("vqa_rad", "questions and answers on radiographs"),
}

# The datasets that a role can be given. Any can be looked at as main (notebooks 01 and 02);
# training needs images with reports.
ACCEPTS = {
    "main": NAMES,
    "unseen_disease": ("covid_cxr", "covidx"),
    "readers": ("chexpert_test",),
    "transfer": NAMES,
    "questions": ("vqa_rad",),
}

# Where the usual data of a role are to be had.
GET = {
    "main": "mimic_cxr: physionet.org/content/mimic-cxr-jpg, and mimic-cxr-reports.zip of "
    "physionet.org/content/mimic-cxr "
    "(credentialed: an account, a training course, a signed agreement); or your own as table",
    "unseen_disease": "covid_cxr: github.com/ieee8023/covid-chestxray-dataset (public); "
    "covidx: Kaggle, COVIDx CXR (public)",
    "readers": "chexpert_test: github.com/rajpurkarlab/cheXpert-test-set-labels (public)",
    "transfer": "openi: openi.nlm.nih.gov/faq, NLMCXR_reports.tgz and NLMCXR_png.tgz (public)",
    "questions": "vqa_rad: osf.io/89kps (public)",
}

TABLE_READS = (
    "image_column",
    "text_column",
    "findings_column",
    "impression_column",
)  # a table is read by one at least


@dataclass(frozen=True)
class Source:
    """Where the data of one role come from and where their prepared form lies; settings: of the
    dataset, as text.
    """

    role: str
    name: str
    raw: Path
    folder: Path
    synthetic: bool
    settings: dict = field(default_factory=dict)


def phantom_raw(preset) -> Path:
    return paths.RAW / f"phantom-{preset.studies}-s{preset.phantom_seed}"


def parse(data: str) -> dict[str, tuple[str, str]]:
    """``"main=mimic_cxr:/path"`` -> ``{"main": ("mimic_cxr", "/path")}``; ValueError lists valid
    roles and names.
    """
    given = {}
    for item in shlex.split(data):
        left, equals, rest = item.partition("=")
        role, dot, setting = left.partition(".")
        name, _, path = rest.partition(":")
        if not equals or not rest or (dot and not setting):
            raise ValueError(
                f"data {item!r}: expected ROLE=NAME:PATH, for example main=mimic_cxr:/path/to/raw"
            )
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}{presets.hint(role, ROLES)}")
        if dot:
            continue
        if name not in (*NAMES, "phantom"):
            raise ValueError(
                f"unknown dataset {name!r} for role {role}"
                f"{presets.hint(name, (*ACCEPTS[role], 'phantom'))}; python -m data_prep list "
                "shows them all"
            )
        if name not in (*ACCEPTS[role], "phantom"):
            raise ValueError(
                f"dataset {name!r} does not fit role {role}: expected phantom or "
                f"{', '.join(ACCEPTS[role])}"
            )
        if name != "phantom" and not path:
            raise ValueError(f"data {item!r}: expected a path, {role}={name}:PATH")
        if name == "phantom" and path:
            raise ValueError(f"data {item!r}: the phantom is generated, it takes no path")
        given[role] = (name, path)
    return given


def settings(data: str) -> dict[str, dict[str, str]]:
    """``"main=table:/t.csv main.text_column=report"`` -> ``{"main": {"text_column": "report"}}``.

    Settings of a dataset, as data_prep's --set takes them. ValueError for a role without data of
    its own, for a name that its dataset does not have and for a share that is none.
    """
    own, found = {role: name for role, (name, _) in parse(data).items() if name != "phantom"}, {}
    for item in shlex.split(data):
        left, _, value = item.partition("=")
        role, dot, setting = left.partition(".")
        if dot and role not in own:
            raise ValueError(
                f"data {item!r}: a setting of your own data for {role}: give {role}=NAME:PATH too"
            )
        if dot:
            _check_setting(item, own[role], setting, value)
            found.setdefault(role, {})[setting] = value
    return found


def _check_setting(item: str, name: str, setting: str, value: str) -> None:
    known = settings_of(name)
    if setting not in known:
        raise ValueError(
            f"data {item!r}: {name} has no setting {setting!r}{presets.hint(setting, known)}"
        )
    if setting == "max_reject_share":
        try:
            good = 0 <= float(value) <= 1
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"data {item!r}: expected a share from 0 to 1")


@cache
def settings_of(name: str) -> dict:
    """SETTINGS of dataset `name` and those of every dataset, with their defaults; read without
    importing the modules, which need more than the standard library."""
    found = {}
    for module in (f"datasets/{name}.py", "prepared/preparation.py"):
        source = (paths.ROOT / "data_prep" / module).read_text(encoding="utf-8")
        for line in ast.parse(source).body:
            targets = (
                line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
            )
            if any(isinstance(target, ast.Name) and target.id == "SETTINGS" for target in targets):
                found |= ast.literal_eval(line.value)
    return found


def sources(preset, data: str = "") -> dict[str, Source]:
    """The source of every role. In a preset without phantom a role that is not given is left
    out.
    """
    given, chosen, found = parse(data), settings(data), {}
    for role, (default, _) in ROLES.items():
        name, path = given.get(role, ("phantom", ""))
        synthetic = name == "phantom"
        if synthetic and not preset.studies:
            continue
        raw = phantom_raw(preset) / default if synthetic else Path(path).expanduser().absolute()
        name = default if synthetic else name
        own = chosen.get(role, {})
        if (raw / "card.json").is_file():
            folder = raw  # prepared already
            found_name = json.loads((raw / "card.json").read_text(encoding="utf-8")).get("name")
            if found_name != name:
                raise ValueError(
                    f"data {role}={name}:{path}: expected prepared {name}, found prepared "
                    f"{found_name}"
                )
            if own:
                raise ValueError(
                    f"data {role}.{'='.join(next(iter(own.items())))}: {path} is prepared "
                    "already, so it takes no "
                    "settings; give the raw data, or prepare it with python -m data_prep "
                    "--set NAME=VALUE"
                )
        else:
            if name == "table" and not any(own.get(column) for column in TABLE_READS):
                raise ValueError(
                    f"data {role}=table:{path}: say which columns to read: "
                    f"{role}.image_column=NAME, {role}.text_column=NAME "
                    f"or both (with run_all.sh: --data {role}.image_column=NAME)"
                )
            key = json.dumps(
                [name, str(raw), preset.store_size, preset.views, preset.reports]
                + ([own] if own else [])
            )
            label = f"phantom-{name}" if synthetic else name
            folder = paths.PREPARED / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        found[role] = Source(role, name, raw, folder, synthetic, own)
    return found


def prepare(source: Source, preset, workers: int = 1, progress: bool = True) -> Path:
    """Make the prepared form of `source` unless it is there; the phantom is drawn first. Returns
    its folder.
    """
    from data_prep.prepared import preparation  # needs more than the standard library

    if source.folder == source.raw:
        return source.folder
    if source.synthetic:
        from data_prep.phantom import write

        write.write_raw(source.raw.parent, preset.studies, preset.phantom_seed, workers, progress)
    settings = {"max_reject_share": preset.max_reject_share}
    if source.name == "mimic_cxr":
        settings |= {"views": preset.views} | (
            {"reports": preset.reports} if preset.reports else {}
        )
    try:
        return preparation.prepare(
            source.name,
            source.raw,
            source.folder,
            size=preset.store_size,
            workers=workers,
            settings=settings | source.settings,
            progress=progress,
        )
    except DataError as problem:
        here = f" (here: --data {source.role}.NAME=VALUE)" if "--set" in str(problem) else ""
        raise DataError(f"{problem}{here}") from None
