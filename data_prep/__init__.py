"""Raw datasets in, one prepared form out: one module a dataset, all read and written the same way.

Kept light on purpose: worker processes import this package anew.
"""

# Each name is a module of data_prep.datasets with
#   NEEDS     what --raw must point to, one line
#   MARKS     alternatives: patterns of files that tell the dataset apart
#   SETTINGS  name -> default
#   TABLES    patterns of files to watch for changes, besides the tables in the raw folder itself
#   read(raw, settings, limit) -> raw.Table
# and, where it applies,
#   CHOICES   setting -> the values it may have
#   HELP      setting -> what it does, one line
#   PATHS     settings that are paths of files or folders to watch too (default: reports)
#   EXPECTED  {"source": ..., "counts": {what: number}}: published counts, shown with those found;
#             `what` is studies, images, train, valid, test (studies of a split), or a name that
#             read() counts in Table.found
DATASETS = (
    "mimic_cxr", "openi", "covid_cxr", "chexpert_test", "nih", "vqa_rad", "covidx",
    "table", "medvill_jsonl", "cxr_h5",
)  # fmt: skip
# --raw may name a file of these; the others need the folder that holds it.
MAY_BE_A_FILE = ("openi", "vqa_rad", "table", "medvill_jsonl", "cxr_h5")


class DataError(ValueError):
    """A fault of a whole dataset: its message says what was expected, what was found and what to
    do.
    """


def fault(expected: str, found: str, do: str) -> DataError:
    """The DataError to raise, its three parts in their order."""
    return DataError(f"expected {expected}; found {found}; {do}")
