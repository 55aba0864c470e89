"""One module a raw dataset; what each of them has is listed in `data_prep`."""

import importlib

from data_prep import DATASETS, fault


def load(name: str):
    """The module that reads dataset `name`; raises DataError, listing the valid names, for an
    unknown one.
    """
    if name not in DATASETS:
        raise fault(
            f"the name of a dataset: {', '.join(DATASETS)}",
            f"{name!r}",
            "see `python -m data_prep list`",
        )
    return importlib.import_module(f"data_prep.datasets.{name}")
