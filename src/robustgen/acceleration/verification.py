"""The check of accelerated operations on a GPU before a job uses them.

A kernel that was not tested on the GPU of a job must not give wrong results. Each job compares the
two operations that have kernels of their own, the forward pass and the search, once with the plain
ones, on a few of its own images. If they differ by more than rounding, the job logs this and
computes plainly. The other operations use PyTorch's own kernels.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustgen.backend import ForwardFn, State, vmapped_forward

log = logging.getLogger("robustgen")

CHECKED_IMAGES = 8
"""Images per model that are compared."""
TOLERANCE = 1e-3
"""Difference that counts as rounding, relative to the largest absolute value of a tensor."""
MIN_SHARE_WITHIN_TOLERANCE = 0.95
"""Share of values that must agree. It is below 1, because rounding can change the sign of a
gradient, or the side of the kink of a ReLU, and thereby some values by more than the tolerance."""

Forward = Callable[[nn.Module, State], ForwardFn]
"""The signature of the `forward` of a backend."""


class Verifier:
    """Decides once for each accelerated operation whether it may be used."""

    def __init__(self) -> None:
        self._trusted: dict[str, bool] = {}

    def trusts(self, operation: str, compare: Callable[[], float]) -> bool:
        """Whether an operation agrees with the plain one.

        Args:
            operation: its name in the log.
            compare: returns the share of values that agree; called once for each operation.
        """
        if operation not in self._trusted:
            agreement = compare()
            self._trusted[operation] = agreement >= MIN_SHARE_WITHIN_TOLERANCE
            if not self._trusted[operation]:
                log.warning(
                    "%s differs from its plain definition in %.1f %% of the values on this "
                    "device, so the job computes it plainly and takes longer",
                    operation,
                    100 * (1 - agreement),
                )
        return self._trusted[operation]


def share_of_equal_values(results: Sequence[Tensor], expected_results: Sequence[Tensor]) -> float:
    """Return the smallest share, over pairs of tensors, of values equal up to rounding."""
    shares = []
    for result, expected_result in zip(results, expected_results, strict=True):
        values, expected = result.double(), expected_result.double()
        magnitudes = expected[expected.isfinite()].abs()
        scale = magnitudes.max().item() if magnitudes.numel() else 0.0
        is_close = torch.isclose(
            values, expected, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True
        )
        shares.append(is_close.double().mean().item())
    return min(shares, default=1.0)


class VerifiedForward:
    """An accelerated forward pass that is compared with the plain one at its first call.

    Attributes:
        accelerated: the accelerated forward pass.
    """

    def __init__(
        self, verifier: Verifier, forward: Forward, model: nn.Module, state: State
    ) -> None:
        self._verifier, self._forward, self._model, self._state = verifier, forward, model, state
        self._mode = "training" if model.training else "attacks"
        self.accelerated = forward(model, state)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        if self.is_trusted(images):
            return self.accelerated(images)
        return vmapped_forward(self._model, self._state)(images)

    def is_trusted(self, images: Tensor) -> bool:
        """Whether the accelerated forward pass agrees with the plain one on these images."""
        return self._verifier.trusts(
            f"the accelerated forward pass of {self._mode}", lambda: self._compare(images)
        )

    def _compare(self, images: Tensor) -> float:
        images = images[:, :CHECKED_IMAGES].detach()
        results = [self._evaluate(forward, images) for forward in (self._forward, vmapped_forward)]
        return share_of_equal_values(*results)

    def _evaluate(self, forward: Forward, images: Tensor) -> list[Tensor]:
        """Return logits, gradients and buffers, computed with copies of images and state."""
        images = images.clone().requires_grad_()
        state = {name: tensor.detach().clone() for name, tensor in self._state.items()}
        inputs = [images]
        if self._model.training:
            params = [name for name, _ in self._model.named_parameters()]
            inputs += [state[name].requires_grad_() for name in params]
        with torch.enable_grad():
            logits = forward(self._model, state)(images)
            gradients = torch.autograd.grad(logits.square().sum(), inputs)
        buffers = [state[name] for name, _ in self._model.named_buffers()]
        return [logits.detach(), *gradients, *buffers]


def verify_forward(verifier: Verifier, forward: Forward) -> Forward:
    """Wrap the `forward` of a backend, so that it is verified at the first call."""

    def verified_forward(model: nn.Module, state: State) -> ForwardFn:
        """Return the verified forward pass of M models."""
        return VerifiedForward(verifier, forward, model, state)

    return verified_forward
