"""One policy for every test that compares numbers: how far two right results may lie apart.

Another processor, thread count or library adds the same numbers up in another order. The error of
a sum of n terms grows like sqrt(n) times the epsilon of the data type times the size of the terms
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2), so the tolerance
follows these three and is never typed in by hand. Tensors that the papers' released code recorded
have tolerances of their own, those of the recordings.
"""

import numpy as np
import torch

SAFETY = 16  # orders of summation differ, and errors of several steps add up
RECORDED_VALUES = 1e-5  # absolute: activations, logits, losses of the released code
RECORDED_GRADIENTS = 1e-4  # relative to the largest number of the gradient


def rounding(values, terms: int = 1, dtype: torch.dtype | None = None) -> float:
    """Largest difference that rounding explains.

    Parameters
    ----------
    values : array, tensor or number
        The expected result; its largest magnitude is the size of the terms.
    terms : int
        How many terms are added up for one number of the result, along the longest chain: the
        width of a matrix product times the layers it passes, the rows of a mean.
    dtype : torch.dtype, optional
        Data type of the computation where it is coarser than that of `values`: a Python float
        that comes out of a float32 model says ``dtype=torch.float32``.
    """
    tensor = _tensor(values)
    if dtype is None:
        dtype = tensor.dtype if tensor.is_floating_point() else torch.float64
    finite = tensor[tensor.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 1.0
    return SAFETY * torch.finfo(dtype).eps * max(terms, 1) ** 0.5 * max(size, 1e-30)


def assert_close(found, expected, terms: int = 1, dtype: torch.dtype | None = None) -> None:
    """Assert that `found` is `expected` but for rounding (see `rounding`); shapes must agree.

    Without `dtype` the coarser of the two data types counts. NaN and infinity must stand in the
    same places.
    """
    a, b = _tensor(found), _tensor(expected)
    if dtype is None:
        kinds = [t.dtype for t in (a, b) if t.is_floating_point()] or [torch.float64]
        dtype = max(kinds, key=lambda kind: torch.finfo(kind).eps)
    torch.testing.assert_close(
        a.double(), b.double(), rtol=0, atol=rounding(b, terms, dtype), equal_nan=True
    )


def assert_recorded(found, expected, gradient: bool = False) -> None:
    """Assert that `found` is what the released code computed, within the recordings' tolerance."""
    a, b = _tensor(found).double(), _tensor(expected).double()
    limit = RECORDED_VALUES
    if gradient:
        limit = RECORDED_GRADIENTS * max(float(b.abs().max()), 1e-30)
    torch.testing.assert_close(a, b, rtol=0, atol=limit, equal_nan=True)


def _tensor(values) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    return (
        torch.from_numpy(np.array(array))
        if array.ndim
        else torch.tensor(array.item(), dtype=_kind(array))
    )


def _kind(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, array.dtype)).dtype
