"""The operations of a search between two forward passes, on a GPU: two kernels instead of thirty.

Equal to `attacks.active_examples.ActiveExamples` up to rounding; `benchmarks/gpu.py` measures the
gain.
"""

from typing import Self

import torch
from torch import Tensor

from robustgen.acceleration.cuda import grouped_conv
from robustgen.attacks.active_examples import ActiveExamples
from robustgen.attacks.losses import cross_entropy
from robustgen.attacks.spaces import Space
from robustgen.attacks.step_rules import AdamStep, FixedStepRule, SignStep, StepRule
from robustgen.specs import SearchConfig, Threat

NUMBERS_PER_PROGRAM = 1024
"""Numbers that a program of a kernel steps, or copies at a time."""


class FusedActiveExamples(ActiveExamples):
    """`ActiveExamples` whose operations are single kernels, where the kernels support them."""

    @classmethod
    def share(cls, active: ActiveExamples) -> Self:
        """Return fused examples that share the attributes of `active`.

        A change of one of the two objects is a change of both.
        """
        fused = cls.__new__(cls)
        fused.__dict__ = active.__dict__
        return fused

    def update_best(self, logits: Tensor, steps_done: int, stop_at_success: bool) -> Tensor:
        """Record the better codes, as `ActiveExamples.update_best` does, by one kernel."""
        is_supported = self.loss_fn is cross_entropy and isinstance(self.rule, FixedStepRule)
        if not (is_supported and supports_tensors(logits)):  # other rules need the losses
            return super().update_best(logits, steps_done, stop_at_success)
        from robustgen.acceleration.cuda import search_step_kernels as kernels

        logits = logits.contiguous()
        best = self.local_best
        grad_logits = torch.empty_like(logits)
        n_classes, code_size = logits.shape[-1], self.codes[0, 0].numel()
        kernels.update_best_kernel[(self.labels.numel(),)](
            logits, self.labels, self.codes, self.is_active.view(torch.uint8), best.codes,
            best.loss, best.success.view(torch.uint8), best.step_found, grad_logits, steps_done,
            n_classes, code_size, stop_at_success, 1 << (n_classes - 1).bit_length(),
            NUMBERS_PER_PROGRAM,
        )  # fmt: skip
        return grad_logits

    def step(self, gradient: Tensor, threat: Threat, search: SearchConfig) -> None:
        """Move and project the codes, as `ActiveExamples.step` does, by one kernel."""
        if not (supports_tensors(gradient) and supports_step(self.space, self.rule, threat)):
            super().step(gradient, threat, search)
            return
        from robustgen.acceleration.cuda import search_step_kernels as kernels

        codes, gradient = self.codes, gradient.contiguous()
        clean_codes = self.space.clean_codes.contiguous()
        stepped = torch.empty_like(codes)
        exp_avg = exp_avg_sq = codes
        bias_corrections = 1.0, 1.0
        if isinstance(self.rule, AdamStep):
            exp_avg, exp_avg_sq = self.rule.state["exp_avg"], self.rule.state["exp_avg_sq"]
            bias_corrections = self.rule.bias_corrections()
        kernels.step_kernel[(-(-codes.numel() // NUMBERS_PER_PROGRAM),)](
            codes, gradient, clean_codes, stepped, exp_avg, exp_avg_sq, codes.numel(),
            search.step_size, threat.radius, self.space.lower, self.space.upper, *bias_corrections,
            isinstance(self.rule, AdamStep), NUMBERS_PER_PROGRAM,
        )  # fmt: skip
        self.codes = stepped


def supports_tensors(template: Tensor) -> bool:
    """Whether the kernels support tensors with the device and type of this one."""
    is_supported_type = template.is_cuda and template.dtype == torch.float32
    return is_supported_type and grouped_conv.is_triton_available()


def supports_step(space: Space, rule: StepRule, threat: Threat) -> bool:
    """Whether the kernels support the step rule, and ball and bounds are boxes of one width."""
    is_known_rule = type(rule) in (AdamStep, SignStep)
    return is_known_rule and threat.norm == "linf" and isinstance(space.lower, float)
