"""Images that are in HDF5 already: dataset `cxr`, N x S x S, and a CSV with one row an image, in
the same order.

The form that CheXzero and X-VL users have. Pixels that can be used as they are stay in that file.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from data_prep import DataError, fault
from data_prep.datasets.anytable import load
from data_prep.datasets.table import add_labels, add_split, add_texts
from data_prep.reading.images import shrink_and_pad
from data_prep.reading.raw import Table, plain, sha256, short_list

NEEDS = (
    "a folder with one *.h5 (dataset cxr, N x S x S) and a CSV of N rows in the same "
    "order; or the *.h5 file itself"
)
MARKS = (("*.h5",), ("*.hdf5",))
SETTINGS = {"csv": "", "dataset": "cxr", "labels": "auto", "copy": False}
CHOICES = {"labels": ("auto", "text", "none")}
HELP = {
    "csv": "name of the CSV in that folder, when there are several",
    "dataset": "name of the pixels in the HDF5 file",
    "labels": "auto (columns named like the 14), text (found by rules in the text) or none",
    "copy": "yes: an images.h5 of its own, even where a link to the given file would do",
}
TABLES = ()
# Our column -> names it has in the tables of CheXzero, X-VL, CheXpert and MIMIC-CXR, in small
# letters.
NAMES = {
    "path": ("path", "filename", "file_name", "image", "image_path", "study"),
    "text": ("report", "text"),
    "findings": ("findings",),
    "impression": ("impression",),
    "study_id": ("study_id",),
    "patient_id": ("patient_id", "subject_id", "patient"),
    "view": ("view", "viewposition", "ap/pa"),
    "split": ("split",),
}
PATHS_WITH_IDS = (
    r"p(?P<patient>\d{8})/s(?P<study>\d{8})/(?P<image>[^/]+?)(?:\.\w{3,4})?$",  # MIMIC-CXR
    # CheXpert
    r"(?P<study>(?P<patient>patient\d+)/study\d+)(?P<image>(?:/[^/]+?)?)(?:\.\w{3,4})?$",
)
# Factor to grey levels, 0 for minimum to maximum -> how the card says it.
SCALES = {
    0.0: "scaled from minimum to maximum, image by image",
    1.0: "grey levels 0..255",
    255.0: "values 0..1 x 255",
}
DAMAGE = (OSError, KeyError, RuntimeError, ValueError)  # what h5py raises for a damaged file
SAMPLE = 64  # images looked at to tell the range of values


def own_size(raw: Path) -> int:
    """Side of the stored images in px: the size at which they need no copy; 512 where `read` will
    refuse the file.
    """
    try:
        with h5py.File(_files(Path(raw), {"csv": ""}, need_csv=False)[0], "r") as file:
            return int(max(file["cxr"].shape[1:3])) if file["cxr"].ndim == 3 else 512
    except (DataError, AttributeError, *DAMAGE):
        return 512


def read(raw: Path, settings: dict, limit: int | None = None) -> Table:
    """One row a row of the CSV; h5_row is its row in the HDF5 file, counted from 0.

    Ids come from columns of that name, else from MIMIC-CXR's or CheXpert's paths, else they are the
    path or the row's number. uint8 squares of the wanted size, all used, are linked, and the index
    keeps their order; others are sorted and copied: values 0..1 or 0..255 (by a look at 64 images)
    become 0..255, anything else is scaled from minimum to maximum, image by image.
    """
    pixels, path = _files(raw, settings)
    scale, shape, straight = _look(pixels, settings["dataset"])
    cells, rejects = load(path, keep_empty=True)
    if len(cells) + len(rejects) != shape[0]:
        found = (
            f"{len(cells) + len(rejects):,} rows in {path.name}, {shape[0]:,} images in "
            f"{pixels.name}"
        )
        raise fault(
            "one row for each image",
            found,
            "give the CSV that was written with this file: --set csv=NAME",
        )
    small = {name.lower(): name for name in reversed(cells.columns)}
    columns = {}  # our name -> column of the table
    for role, names in NAMES.items():
        same = [small[name] for name in names if name in small]
        columns |= {role: same[0]} if same else {}
    if "findings" in columns or "impression" in columns:
        columns.pop("text", None)  # the sections themselves are there
    table = Table(
        _ids(cells, columns), raw_version=f"{path.name} {sha256(path)[:12]}", rejects=rejects
    )
    table.start(f"images in {pixels.name}", f"row of {path.name} fits its header")
    table.notes.append(
        f"columns used: {', '.join(f'{name} ({role})' for role, name in columns.items()) or 'none'}"
    )
    table.drop_repeated("image_id")
    add_texts(
        table,
        cells,
        {
            f"{role}_column": columns[role]
            for role in ("text", "findings", "impression")
            if role in columns
        },
    )
    add_labels(table, cells, settings["labels"], [])
    add_split(table, cells, columns.get("split"))
    table.root = pixels
    table.decode = partial(_decoded, name=settings["dataset"], scale=scale)
    if straight and not settings["copy"] and limit is None and len(table.rows) == shape[0]:
        table.linked = (pixels, settings["dataset"])
    else:
        table.keep_first(limit)
    table.notes.append(f"pixels: {shape[0]:,} x {shape[1]} x {shape[2]}, {SCALES[scale]}")
    return table


def _files(raw: Path, settings: dict, need_csv: bool = True) -> tuple[Path, Path | None]:
    home = raw if raw.is_dir() else raw.parent
    pixels = [raw] if raw.is_file() else sorted([*home.glob("*.h5"), *home.glob("*.hdf5")])
    if len(pixels) != 1:
        raise fault(
            f"one *.h5 in {home}",
            short_list(p.name for p in pixels) or "none",
            "give the file: --raw FILE.h5",
        )
    if not need_csv:
        return pixels[0], None
    tables = sorted([*home.glob("*.csv"), *home.glob("*.csv.gz")])
    same = [p for p in tables if p.name.split(".")[0] == pixels[0].stem]
    chosen = [p for p in tables if p.name == settings["csv"]] if settings["csv"] else same or tables
    if len(chosen) != 1:
        found = short_list(p.name for p in tables) or "none"
        raise fault(
            f"the CSV of {pixels[0].name}", found, "name the one in the same folder: --set csv=NAME"
        )
    return pixels[0], chosen[0]


def _look(path: Path, name: str) -> tuple[float, tuple, bool]:
    """(factor to 0..255, 0 for minimum to maximum; shape; whether the pixels can be used as they
    are).
    """
    try:
        with h5py.File(path, "r") as file:
            found = []
            file.visititems(
                lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) else None
            )
            data = file.get(name)
            if not isinstance(data, h5py.Dataset):
                raise fault(
                    f"a dataset {name} in {path}",
                    short_list(found) or "none",
                    "name it: --set dataset=NAME",
                )
            if data.ndim != 3 or 0 in data.shape or data.dtype.kind not in "uifb":
                what = f"{' x '.join(map(str, data.shape))} of {data.dtype}"
                raise fault(
                    f"numbers N x S x S in {name} of {path}",
                    what,
                    "write the images in grey, one a row",
                )
            if data.dtype == np.uint8:
                return 1.0, data.shape, data.shape[1] == data.shape[2]
            rows = np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int))
            some = [np.asarray(data[int(row)], dtype=np.float64) for row in rows]
            some = [image[np.isfinite(image)] for image in some]
            ends = [(i.min(), i.max()) for i in some if i.size] or [(0, 0)]
            low, high = np.median(
                ends, axis=0
            )  # of most images: a single odd one is rejected later
            unit = high <= 1 and data.dtype.kind in "fb"
            return (0.0 if low < 0 or high > 255 else 255.0 if unit else 1.0), data.shape, False
    except DataError:
        raise
    except DAMAGE as problem:
        raise fault(f"an HDF5 file at {path}", f"{problem}", "copy or download it again") from None


def _ids(cells: pd.DataFrame, columns: dict) -> pd.DataFrame:
    width = len(str(len(cells)))
    number = pd.Series([f"row {k:0{width}d}" for k in cells.index], index=cells.index, dtype=object)
    path = (
        plain(cells[columns["path"]])
        if "path" in columns
        else pd.Series("", index=cells.index, dtype=object)
    )
    image = path.where(path != "", number)
    study, patient = image.copy(), image.copy()
    for pattern in PATHS_WITH_IDS:
        parts = path.str.extract(pattern)
        is_so = parts["study"].notna()
        study = study.where(~is_so, parts["study"])
        patient = patient.where(~is_so, parts["patient"])
        named = is_so & (parts["image"].fillna("") != "")
        image = image.where(~named | parts["image"].fillna("").str.startswith("/"), parts["image"])
    rows = pd.DataFrame(
        {"_record": number, "image_id": image, "study_id": study, "patient_id": patient, "view": ""}
    )
    for role in ("study_id", "patient_id", "view"):
        if role in columns:
            given = plain(cells[columns[role]])
            rows[role] = given.where((given != "") | (role == "view"), rows[role])
    if "path" in columns:
        rows["_record"] = number + " " + path
    return rows.assign(
        h5_row=[k - 1 for k in cells.index], _image=[str(k - 1) for k in cells.index]
    )


def _decoded(
    root: Path, images: list[str], todo, size: int, workers: int, name: str, scale: float
) -> Iterator[tuple]:
    """As decoding.decoded; by one process, for the disk is what takes time."""
    with h5py.File(root, "r") as file:
        data = file[name]
        for row in todo:
            try:
                grey = shrink_and_pad(to_grey(data[int(images[row])], scale), size)
                yield int(row), np.ascontiguousarray(grey), ""
            except ValueError as problem:
                yield int(row), None, str(problem)
            except (OSError, RuntimeError) as problem:
                yield int(row), None, f"cannot be read: {problem}"


def to_grey(image: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) of any numbers -> uint8; scale: factor to 0..255, 0 for minimum to maximum. ValueError
    says what is wrong.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("values that are no finite numbers")
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise ValueError(f"constant image (every pixel is {low:g})")
    if image.dtype == np.uint8:
        return image
    if scale and (low < 0 or high > 255 / scale):
        raise ValueError(f"values {low:g}..{high:g}, other images have 0..{255 / scale:g}")
    wide = image.astype(np.float64)
    wide = wide * scale if scale else (wide - low) / (high - low) * 255
    return np.rint(wide).astype(np.uint8)
