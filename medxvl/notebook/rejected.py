"""Pictures of records that were not used, each with its reason: image files of the raw data that
can still be opened.
"""

import glob
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFile

from data_prep.reading.decoding import decoded
from data_prep.reading.images import FORMATS, path_inside, shrink_and_pad
from medxvl.notebook import data_tables

SIZE = 192  # px
TRIES = 40  # records looked at for each reason
MOST_PIXELS = 60_000_000  # of a damaged file that is opened all the same


def pictures(dataset, show="open", reasons=6, each=3) -> list[tuple[np.ndarray, str, str]]:
    """(uint8 (SIZE, SIZE), record, reason) of up to `each` rejected images for each of the
    `reasons` most frequent.

    [] where the raw data are gone, lie in archives, or may not be shown. Never raises for a bad
    record.
    """
    raw = raw_folder(dataset)
    if raw is None or not data_tables.may_show(dataset, show).any():
        return []
    home = raw if raw.is_dir() else raw.parent
    rejects, found = dataset.rejects, []
    licences = _licences(dataset, home, show)
    for reason in rejects["reason"].value_counts().index[:reasons]:
        records = rejects["record"][rejects["reason"] == reason]
        records = records.iloc[
            np.unique(np.linspace(0, len(records) - 1, min(TRIES, len(records))).astype(int))
        ]
        here = []
        for record in records:
            place = locate(record, home, dataset.card["name"])
            if place is None or (licences is not None and Path(place[1]).name not in licences):
                continue
            picture = _open(*place)
            if picture is not None:
                here.append((picture, record, reason))
            if len(here) == each:
                break
        found += here
    return found


def titles(found) -> list[str]:
    """Reason and file name of each of `pictures`, short enough to stand above it."""
    return [f"{reason[:80]} ({record.split('/')[-1][-24:]})" for _, record, reason in found]


def why_none(dataset, show="open") -> str:
    """A sentence for the place of the pictures."""
    if not len(dataset.rejects):
        return "every record was used"
    if not data_tables.may_show(dataset, show).any():
        return "no picture is shown (not known to be open data, or show=none)"
    if raw_folder(dataset) is None:
        return "the raw data are not there any more"
    return "no rejected record names an image file that can be opened"


def raw_folder(dataset) -> Path | None:
    """The raw folder or file that the card names, relative to the prepared one; None when it is not
    there.
    """
    raw = Path(os.path.normpath(dataset.folder.resolve() / dataset.card.get("raw", "")))
    return raw if dataset.card.get("raw") and raw.exists() else None


def locate(record: str, home: Path, name: str) -> tuple[Path, str] | None:
    """(root, path below it) of the image file that a record of rejects.csv names; None when there
    is none.

    A record is a path, a file's name, or either of them after the place in a table ("row 12
    images/a.png").
    """
    words = record.split(" ")
    for k in range(len(words)):
        path = " ".join(words[k:])
        if not path or "\0" in path:
            continue
        if os.path.isabs(path):
            if name == "table" and os.path.isfile(path):  # the one reader that takes absolute paths
                return Path("/"), os.path.normpath(path).lstrip("/")
            continue
        names = [path] if "/" in path else [path, f"{path}.png"]
        patterns = ("",) if "/" in path else ("", "*/", "*/*/")
        for pattern in [p + glob.escape(n) for p in patterns for n in names]:
            found = next(glob.iglob(pattern, root_dir=home), None)
            if found and _is_file_inside(home, found):
                return home, found
    return None


def _is_file_inside(home: Path, path: str) -> bool:
    try:
        return os.path.isfile(path_inside(home, path))
    except (ValueError, OSError):
        return False


def _licences(dataset, home: Path, show: str) -> set[str] | None:
    """File names with an open licence, where it is given for each image; None where all may be
    shown.
    """
    if not data_tables.by_licence(dataset, show):
        return None
    try:
        table = pd.read_csv(home / "metadata.csv", dtype=str, keep_default_na=False)
        return set(
            table["filename"][table["license"].str.contains(data_tables.OPEN_LICENSE, case=False)]
        )
    except (OSError, ValueError, KeyError):
        return set()


def _open(root: Path, path: str) -> np.ndarray | None:
    """As the preparation reads it, in a process of its own where the kind of file might crash it;
    else as far as it goes.
    """
    grey = next(iter(decoded(root, [path], np.array([0]), SIZE, 1)), (0, None, ""))[1]
    return grey if grey is not None else _as_far_as_it_goes(Path(path_inside(root, path)))


def _as_far_as_it_goes(path: Path) -> np.ndarray | None:
    """What there is of a truncated or a constant picture."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # what is missing is grey (JPEG) or black (PNG)
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height > MOST_PIXELS:
                return None
            return shrink_and_pad(np.asarray(image.convert("L")), SIZE)
    except Exception:  # of whatever kind: it is rejected already, and there is nothing to be seen
        return None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
