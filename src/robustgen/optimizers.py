"""The interface of optimizers that training, checkpoints and distances use."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """The part of `torch.optim.Optimizer` that this package uses.

    Attributes:
        param_groups: dictionaries with `params` and the learning rate `lr`.
    """

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any:
        """Return the dictionaries of tensors by parameter."""

    def zero_grad(self) -> None:
        """Drop the gradients."""

    def step(self) -> object:
        """Update every parameter that has a gradient."""


BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Constants of Adam, equal to the defaults of PyTorch."""

MakeAdam = Callable[[Iterable[Tensor], float, float], Optimizer]
"""A function that makes Adam from parameters, a learning rate and a weight decay."""


def make_adam(params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Make PyTorch's Adam (Kingma and Ba, ICLR 2015), with weight decay as an L2 penalty."""
    return torch.optim.Adam(params, lr, weight_decay=weight_decay)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # a CUDA graph reads it from memory at each step
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
