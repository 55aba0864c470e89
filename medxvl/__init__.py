"""medxvl: reproduce MedViLL and Medical X-VL, notebook by notebook."""

__version__ = "0.1.0"
