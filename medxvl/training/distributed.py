"""Several processes that train as one: gathering with gradients, own share of a batch, shared batch
statistics.

Each process holds an equal part of the batch, in the order of the ranks. A loss may then be written
in two ways, or a sum of both, and its gradient is that of one process with the whole batch, after
the mean over processes that DDP takes: the loss of the whole batch, from gathered tensors, the same
in each process; or a mean over the own part, whose mean over processes is the mean over the batch.
In one process every function here gives its input back, and nothing is computed.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def alone() -> bool:
    """Whether this process trains alone, known before the others are met: torchrun sets
    WORLD_SIZE.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def rank() -> int:
    return dist.get_rank() if processes() > 1 else 0


def wait() -> None:
    """Until every process has come here."""
    if processes() > 1:
        dist.barrier()


def own(total: int) -> slice:
    """The part of a batch of `total` that is this process's. Raises ValueError when the parts are
    not equal.
    """
    share, rest = divmod(total, processes())
    if rest:
        raise ValueError(
            f"expected a batch that {processes()} processes can share equally, found {total}"
        )
    return slice(rank() * share, (rank() + 1) * share)


class _Gather(torch.autograd.Function):
    """The functions of torch.distributed.nn are deprecated, and their sums over three and more
    processes have another order.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows, x = len(x), x.contiguous()
        parts = [torch.empty_like(x) for _ in range(processes())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)  # every process's loss may have used this process's rows
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, (n, ...) -> (processes * n, ...), with gradients. `x` is of equal
    shape in each.
    """
    return _Gather.apply(x) if processes() > 1 else x


def gather_ragged(x: Tensor) -> Tensor:
    """As `gather`, for a number of rows that differs between processes: (n_r, ...) -> (sum of n_r,
    ...).
    """
    if processes() == 1:
        return x
    counts = gather(torch.tensor([len(x)], device=x.device)).tolist()
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    return torch.cat(
        [part[:n] for part, n in zip(gather(padded).split(max(counts)), counts, strict=True)]
    )


def mean_weight(count: Tensor, like: Tensor) -> float | Tensor:
    """Factor that turns a mean over `count` own rows into this process's part of the mean over all
    processes' rows.

    It is as exact as `like`, the float32 of half-precision numbers at least.
    """
    if processes() == 1:
        return 1.0
    total = count.to(torch.float64)
    return (total * processes() / _Sum.apply(total).clamp(min=1)).to(
        torch.promote_types(like.dtype, torch.float32)
    )


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with the mean and variance of all processes' images; works on CPU, where torch's
    own does not.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        given, axes, n = x.dtype, (0, 2, 3), x.numel() // x.shape[1] * processes()
        x = x.to(self.weight.dtype)  # under autocast too the sums are not of half precision
        mean = _Sum.apply(x.mean(axes)) / processes()
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().mean(axes)) / processes()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var) * (n / (n - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(given)


def share_batch_statistics(model: nn.Module) -> None:
    """Make each BatchNorm2d of `model` see the whole batch. Parameters, buffers and their names
    stay.
    """
    if processes() > 1:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _SharedBatchNorm2d
