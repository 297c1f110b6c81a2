"""Adam as torch has it, without what torch does first on a CPU: to import its compiler.

`torch.optim.Adam` spends more than a second of every job on that import, as much as many of them
work. The steps here are the same to the bit (a test).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam with weight decay as an L2 penalty (Kingma and Ba, ICLR 2015), as `torch.optim.Adam`.

    Attributes:
        param_groups: one, of `params` and the rate `lr`, which may be changed between steps.
        state: per parameter `step`, `exp_avg` and `exp_avg_sq`, after its first step.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(params), "lr": lr}]
        self.weight_decay = weight_decay
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._move(parameter, group["lr"])

    def _move(self, parameter: Tensor, rate: float) -> None:
        state = self.state.setdefault(parameter, {})
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        taken = state["step"].item()
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        if self.weight_decay:
            gradient = gradient.add(parameter, alpha=self.weight_decay)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - 0.9)
        square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        root = (square.sqrt() / (1 - 0.999**taken) ** 0.5).add_(1e-8)
        parameter.addcdiv_(mean, root, value=-rate / (1 - 0.9**taken))


Optimizer = Adam | torch.optim.Adam


def adam(params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> Optimizer:
    """The Adam that is fastest where `params` are: on a GPU torch's in one kernel."""
    params = list(params)
    device = params[0].device
    if device.type == "cpu":
        return Adam(params, lr, weight_decay)
    rate = torch.tensor(lr, device=device)  # not a number, so that it is read at each step
    fused: Any = {"fused": True, "capturable": True} if device.type == "cuda" else {}
    return torch.optim.Adam(params, rate if fused else lr, weight_decay=weight_decay, **fused)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the steps to come."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
