"""medxvl: reproduce MedViLL and Medical X-VL, notebook by notebook."""

import gc

__version__ = "0.1.0"

# torch, transformers and the rest make a million objects that stay. At Python's threshold of 700
# new ones the collector walks them so often that it takes a third of the time they need to load.
gc.set_threshold(20_000, 20, 20)
