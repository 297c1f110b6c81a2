"""Adam without the import of PyTorch's compiler, which takes a second of each job on a CPU.

Equal to `torch.optim.Adam`, bit for bit.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from robustgen.backend import BETA1, BETA2, EPS, Optimizer, make_adam


class SlimAdam:
    """Adam with weight decay as an L2 penalty (Kingma and Ba, ICLR 2015), as `torch.optim.Adam`.

    Attributes:
        param_groups: one group, with `params` and the learning rate `lr`, which may be changed.
        state: for each parameter `step`, `exp_avg` and `exp_avg_sq`, after its first step.
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
        """Update every parameter that has a gradient."""
        group = self.param_groups[0]
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._update_parameter(parameter, group["lr"])

    def _update_parameter(self, parameter: Tensor, lr: float) -> None:
        state = self.state.setdefault(parameter, {})
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        step_count = state["step"].item()
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        if self.weight_decay:
            gradient = gradient.add(parameter, alpha=self.weight_decay)
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
        exp_avg.lerp_(gradient, 1 - BETA1)
        exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        denominator = (exp_avg_sq.sqrt() / (1 - BETA2**step_count) ** 0.5).add_(EPS)
        parameter.addcdiv_(exp_avg, denominator, value=-lr / (1 - BETA1**step_count))


def make_fast_adam(params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Make the Adam that is fastest on the device of `params`; on a GPU, PyTorch's fused kernel."""
    params = list(params)
    device = params[0].device
    if device.type == "cpu":
        return SlimAdam(params, lr, weight_decay)
    if device.type != "cuda":
        return make_adam(params, lr, weight_decay)
    lr_tensor = torch.tensor(lr, device=device)  # a CUDA graph reads it from memory at each step
    return torch.optim.Adam(
        params, lr_tensor, weight_decay=weight_decay, fused=True, capturable=True
    )
