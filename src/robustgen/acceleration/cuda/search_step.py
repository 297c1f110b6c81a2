"""What a search does between two passes, on a GPU in two kernels instead of some thirty.

Equal to the plain operations in `front` up to rounding; `benchmarks/gpu.py` measures the gain.
"""

import torch
from torch import Tensor

from robustgen.acceleration.cuda import grouped_conv as grouped
from robustgen.attacks.spaces import Space, Threat
from robustgen.attacks.step_rules import Adam, Signed, StepRule

AT_ONCE = 1024
"""Numbers that a program moves, or copies at once."""


def applies(like: Tensor) -> bool:
    """Whether kernels can be used for tensors like this one."""
    return like.is_cuda and like.dtype == torch.float32 and grouped.works()


def moves(space: Space, rule: StepRule, threat: Threat) -> bool:
    """Whether `move` knows the rule, and the ball and the bounds are boxes of one width."""
    known = type(rule) in (Adam, Signed)
    return known and threat.norm == "linf" and isinstance(space.low, float)


def look(
    logits: Tensor,
    labels: Tensor,
    codes: Tensor,
    alive: Tensor,
    best_codes: Tensor,
    best_loss: Tensor,
    best_success: Tensor,
    best_when: Tensor,
    when: int,
    stop_at_success: bool,
) -> Tensor:
    """As `Front.look`, in place: gradients of the losses to the logits `(M, B, K)`.

    Args:
        logits: `(M, B, K)`.
        labels: `(M, B)`.
        codes: `(M, B, *D)`, which are kept where they beat the best.
        alive: `(M, B)`, what is still searched.
        best_codes: `(M, B, *D)` so far.
        best_loss: `(M, B)` there.
        best_success: `(M, B)` whether it is one.
        best_when: `(M, B)` after how many steps it was met, or -1.
        when: steps so far.
        stop_at_success: whether successes are no longer alive, and beat any loss.
    """
    from robustgen.acceleration.cuda import search_step_kernels as search_kernels

    logits = logits.contiguous()
    alive, best_success = alive.view(torch.uint8), best_success.view(torch.uint8)
    uphill = torch.empty_like(logits)
    classes, numbers = logits.shape[-1], codes[0, 0].numel()
    search_kernels.look[(labels.numel(),)](
        logits, labels, codes, alive, best_codes, best_loss, best_success, best_when, uphill, when,
        classes, numbers, stop_at_success, 1 << (classes - 1).bit_length(), AT_ONCE,
    )  # fmt: skip
    return uphill


def move(
    codes: Tensor,
    gradient: Tensor,
    space: Space,
    rule: StepRule,
    radius: float,
    step_size: float,
) -> Tensor:
    """As `Front.move`: the codes `(M, B, *D)` one step further; the rule's state is changed."""
    from robustgen.acceleration.cuda import search_step_kernels as search_kernels

    moved, origin, gradient = (
        torch.empty_like(codes),
        space.origin.contiguous(),
        gradient.contiguous(),
    )
    mean = square = codes
    shares = 1.0, 1.0
    if isinstance(rule, Adam):
        mean, square = rule.state["mean"], rule.state["square"]
        shares = rule.advance()
    search_kernels.move[(-(-codes.numel() // AT_ONCE),)](
        codes, gradient, origin, moved, mean, square, codes.numel(), step_size, radius,
        space.low, space.high, *shares, isinstance(rule, Adam), AT_ONCE,
    )  # fmt: skip
    return moved
