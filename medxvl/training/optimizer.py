"""What the optimizer is given: parameter groups, and gradients that are cut."""

import torch


def clip_each(parameters, limit: float) -> None:
    """Cut the gradient norm of each parameter to `limit` (X-VL's release does so, for the vision
    encoder alone).
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    scales = [(limit / (n + 1e-6)).clamp(max=1.0) for n in torch._foreach_norm(grads)]
    torch._foreach_mul_(grads, scales)


UNDECAYED = ("pos_embed", "cls_token", "position_embeddings")


def decay_groups(named, decay: float, scale: float = 1.0) -> list[dict]:
    """Groups for AdamW of the `named` parameters that are trained: those with weight decay, then
    those without, which are biases, norms, class token and position embeddings. `scale`: factor of
    their learning rate.
    """
    groups = {False: [], True: []}
    for name, parameter in named:
        if parameter.requires_grad:
            whole = any(part in name for part in UNDECAYED)
            groups[parameter.ndim < 2 or whole].append(parameter)
    return [
        {"params": groups[spared], "weight_decay": rate, "scale": scale}
        for spared, rate in ((False, decay), (True, 0.0))
    ]
