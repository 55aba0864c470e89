"""Prepared datasets: which one serves which role, and reading them."""

import ast
import difflib
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import data_prep
from data_prep import (
    DATASETS as NAMES,
)  # `phantom` is the default; the package itself is the standard library alone
from data_prep import MAY_BE_A_FILE  # noqa: F401  (with the rest of what launch asks about data)

from . import paths

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
            raise ValueError(f"unknown role {role!r}: expected one of {', '.join(ROLES)}")
        if dot:
            continue
        if name not in (*NAMES, "phantom"):
            raise ValueError(
                f"unknown dataset {name!r} for role {role}: expected phantom or one of "
                f"{', '.join(NAMES)}"
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
        near = difflib.get_close_matches(setting, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"data {item!r}: {name} has no setting {setting!r}{hint}: expected one of "
            f"{', '.join(known)}"
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
    for module in (name, "prepared"):
        source = (Path(data_prep.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
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
    if source.folder == source.raw:
        return source.folder
    if source.synthetic:
        from data_prep import phantom

        phantom.write_raw(source.raw.parent, preset.studies, preset.phantom_seed, workers, progress)
    settings = {"max_reject_share": preset.max_reject_share}
    if source.name == "mimic_cxr":
        settings |= {"views": preset.views} | (
            {"reports": preset.reports} if preset.reports else {}
        )
    try:
        return data_prep.prepare(
            source.name,
            source.raw,
            source.folder,
            size=preset.store_size,
            workers=workers,
            settings=settings | source.settings,
            progress=progress,
        )
    except data_prep.DataError as problem:
        here = f" (here: --data {source.role}.NAME=VALUE)" if "--set" in str(problem) else ""
        raise data_prep.DataError(f"{problem}{here}") from None


class Dataset:
    """One prepared folder: `.index` (one row an image), `.card`, `.images(rows)`, `.rejects`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        if not (self.folder / "card.json").is_file():
            raise FileNotFoundError(
                f"{folder}: expected a prepared dataset (card.json); prepare it with python "
                "-m data_prep"
            )
        self.card = json.loads((self.folder / "card.json").read_text(encoding="utf-8"))
        self.label = self.card["label"]
        self.synthetic = bool(self.card["synthetic"])
        prints = self.card["fingerprint"]
        self.fingerprint = hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()[
            :12
        ]

    @cached_property
    def index(self):
        import pandas as pd

        text = ("study_id", "patient_id", "image_id", "split", "view", "findings", "impression")
        head = pd.read_csv(self.folder / "index.csv", nrows=0).columns
        empty = {
            column: [] if column in text else [""] for column in head
        }  # an empty report is a text, not a gap
        kinds = {column: str for column in text if column in head}
        return pd.read_csv(
            self.folder / "index.csv", dtype=kinds, keep_default_na=False, na_values=empty
        )

    @cached_property
    def rejects(self):
        import pandas as pd

        return pd.read_csv(self.folder / "rejects.csv", dtype=str, keep_default_na=False)

    @property
    def has_images(self) -> bool:
        return (self.folder / "images.h5").is_file()

    @cached_property
    def _pixels(self):
        import h5py

        path = self.folder / "images.h5"
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.label}: expected images, found reports or labels only ({self.folder})"
            )
        return h5py.File(path, "r")["cxr"]  # opened on first use: once a process, after any fork

    def images(self, rows):
        """Pixels of index rows `rows` (n,) in their order, (n, S, S) uint8."""
        import numpy as np

        unique, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        if len(unique) and len(unique) > 0.5 * (
            unique[-1] - unique[0] + 1
        ):  # dense: one contiguous read is far faster
            block = self._pixels[unique[0] : unique[-1] + 1]
            return block[unique - unique[0]][back]
        return self._pixels[unique][back]

    def rows(self, split: str):
        """Row numbers of a split, (n,)."""
        import numpy as np

        return np.flatnonzero(self.index["split"].to_numpy() == split)


class Pixels:
    """Pictures of some rows of a dataset, by their place among these rows: a small set is read into
    memory once, a large one batch by batch from disk."""

    IN_MEMORY = 2**30  # bytes

    def __init__(self, dataset: Dataset, rows):
        self.dataset, self.rows, self._all = dataset, rows, None

    def __call__(self, picked):
        """(n, S, S) uint8 tensor."""
        import numpy as np
        import torch

        if self._all is None and len(self.rows) * self.dataset.card["size"] ** 2 <= self.IN_MEMORY:
            self._all = torch.from_numpy(self.dataset.images(self.rows))
        if self._all is not None:
            return self._all[torch.as_tensor(picked)]
        return torch.from_numpy(self.dataset.images(self.rows[np.asarray(picked)]))


CHEXPERT_14 = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def open(folder) -> Dataset:  # noqa: A001  (data.open reads well)
    return Dataset(folder)
