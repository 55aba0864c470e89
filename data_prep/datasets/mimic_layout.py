"""Where the files of MIMIC-CXR lie: official folders, JPG or DICOM, and the layout that MedViLL
draws.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_prep import fault
from data_prep.reading.images import ABSENT, path_inside
from data_prep.reading.raw import short_list

TOPS = ("files", "Dataset", "dataset", "")  # folders with the images, "" = the raw folder itself
MOST_FOLDERS = 20_000  # looked into for the first image


@dataclass(frozen=True)
class Layout:
    """How a subject and a study become a folder: {top}/p10/p10000032/s50414267, or less of it."""

    top: str = "files"
    grouped: bool = True  # with the folder p10
    subject: str = "p"  # what stands before the subject's number
    study: str = "s"
    suffix: str = ".jpg"

    def folder(self, subject: pd.Series, study: pd.Series) -> pd.Series:
        start = f"{self.top}/" if self.top else ""
        group = "p" + subject.str[:2] + "/" if self.grouped else ""
        return start + group + self.subject + subject + "/" + self.study + study


def find_layout(raw: Path) -> Layout:
    """The layout of the first image below `raw` (.jpg before .dcm in one folder); the official one
    when there is none.
    """
    usual = Layout(suffix=".dcm" if any(raw.glob("cxr-record-list.csv*")) else ".jpg")
    for top in TOPS:
        if not (raw / top).is_dir():
            continue
        for count, (place, folders, names) in enumerate(os.walk(raw / top)):
            folders[:] = sorted(
                f for f in folders if re.fullmatch(r"[ps]?\d+", f)
            )  # nothing else is a subject
            suffix = next(
                (s for s in (".jpg", ".dcm") if any(n.lower().endswith(s) for n in names)), ""
            )
            parts = Path(place).relative_to(raw / top).parts
            if suffix and len(parts) >= 2:
                subject, study = parts[-2:]
                return Layout(
                    top,
                    len(parts) > 2,
                    "p" * subject.startswith("p"),
                    "s" * study.startswith("s"),
                    suffix,
                )
            if count > MOST_FOLDERS:
                break
    return usual


def find_table(raw: Path, *kinds: str, needed: bool = True) -> Path | None:
    """The first table there is among `kinds`, unzipped or zipped, in the raw folder or beside it.

    Raises DataError when it is `needed` and not there.
    """
    for kind in kinds:
        for folder in (raw, raw.parent):
            for suffix in (".csv", ".csv.gz"):
                for path in sorted(folder.glob(f"mimic-cxr-2*-{kind}{suffix}"), reverse=True):
                    return path
    if not needed:
        return None
    names = " or ".join(f"mimic-cxr-2.0.0-{kind}.csv.gz" for kind in kinds)
    here = short_list(sorted(p.name for p in raw.iterdir()))
    do = "download it from PhysioNet (MIMIC-CXR-JPG)"
    if "split" in kinds:
        do += ", or draw a split of your own by patient: --set split=patient"
    raise fault(f"{names} in {raw}", f"only {here}", do)


def header_view(raw: Path, image: str) -> tuple[str, str]:
    """(ViewPosition, "") of the header of a DICOM file, or ("", why it cannot be read); pixels are
    not touched.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        header = dcmread(
            path_inside(raw, image), stop_before_pixels=True, specific_tags=["ViewPosition"]
        )
        return str(header.get("ViewPosition") or "").strip().upper(), ""
    except FileNotFoundError:
        return "", ABSENT
    except InvalidDicomError:
        return "", "view cannot be read: not a DICOM file"
    except (
        Exception
    ) as problem:  # damaged headers raise many kinds; each is a fault of this one record
        return "", f"view cannot be read: {problem or type(problem).__name__}"
