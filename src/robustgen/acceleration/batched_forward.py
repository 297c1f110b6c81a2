"""The forward pass of M models at once.

`vectorized` maps the architecture's own pass over the models. `stacked` computes a chain of common
layers by faster means: in eval mode for attacks, which take most of the time of a study, with
constant weights; in train mode with gradients to them. On a GPU the M models are one wide model, by
the kernels of `gpu`, or with their channels side by side, convolutions in groups and linear layers
as a batched product. On a CPU a few at most are, and these take turns: what one holds fits the
cache of a core, and convolutions in groups are slower.
All equal the models one by one up to rounding; `benchmarks/passes.py` measures what is gained.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap

from robustgen.acceleration.cpu import training_layers as learning
from robustgen.acceleration.cpu.inference_layers import Layer, chain, last
from robustgen.acceleration.cuda import forward as on_gpu
from robustgen.device import WIDE

State = Mapping[str, Tensor]
Pass = Callable[[Tensor], Tensor]

AT_ONCE = 512
"""Images, of models side by side together, that go through the layers at once on a CPU: what these
hold of more does not fit its cache."""
SIDE_BY_SIDE = 3 if WIDE else 1
"""Models that are one wide model on a CPU: of few images each, only more fill wide vectors."""


def vectorized(model: nn.Module, state: State) -> Pass:
    """The forward pass of M models: images `(M, B, C, H, W)` to logits `(M, B, K)`.

    Args:
        model: the architecture, in the mode of the pass; its own parameters are not used.
        state: parameters and buffers `(M, ...)` of the models by name. Batch normalization in
            train mode updates its buffers in place.
    """
    return partial(vmap(partial(alone, model)), dict(state))


def stacked(model: nn.Module, state: State) -> Pass:
    """As `vectorized`, but faster for a chain of known layers.

    In eval mode weights are constants of this pass: gradients go to the images alone, and once.
    """
    first = next(iter(state.values()))
    size = SIDE_BY_SIDE if first.device.type == "cpu" else len(first)
    parts = zip(*(torch.split(of, size) for of in state.values()), strict=True)
    passes = [_pass(model, dict(zip(state, part, strict=True))) for part in parts]
    known = [run for run in passes if run is not None]
    if len(known) < len(passes):
        return vectorized(model, state)
    if len(known) == 1:
        return known[0]
    return lambda images: _joined(
        [run(some) for run, some in zip(known, torch.split(images, size), strict=True)]
    )


def _pass(model: nn.Module, state: State) -> Pass | None:
    """That of models side by side; None if it is not for them."""
    if model.training:
        return learning.chain(model, state)
    if fast := on_gpu.chain(model, state):
        return fast
    layers = chain(model, state)
    return None if layers is None else partial(_Chain.apply, layers)


def alone(model: nn.Module, state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Logits `(B, K)` of one model with parameters and buffers `state`."""
    logits: Tensor = functional_call(model, state, (images,))
    return logits


class _Chain(torch.autograd.Function):
    """Layers one after the other, and back."""

    @staticmethod
    def forward(ctx: Any, layers: list[Layer], images: Tensor) -> Tensor:
        """Logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        ctx.parts, made = [], []
        for part in torch.tensor_split(images, _parts(images), dim=1):
            x, pulls = last(part.transpose(0, 1).flatten(1, 2)), []
            for layer in layers:
                x, pull = layer(x)
                pulls.append(pull)
            made.append(_apart(x, len(images)))
            if ctx.needs_input_grad[1]:
                ctx.parts.append(pulls)
        return _joined(made, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """The gradient to the images."""
        made = []
        for pulls, part in zip(
            ctx.parts, torch.tensor_split(gradient, _parts(gradient), dim=1), strict=True
        ):
            x = last(part.transpose(0, 1).flatten(1, 2)).clone()  # the layers may overwrite theirs
            for pull in reversed(pulls):
                x = pull(x)
            made.append(_apart(x, len(gradient)).contiguous())
        return None, _joined(made, 1)


def _parts(x: Tensor) -> int:
    """In how many parts of like size B goes through the layers, of `(M, B, ...)`."""
    many = -(-x.shape[0] * x.shape[1] // AT_ONCE) if x.device.type == "cpu" else 1
    return max(1, min(x.shape[1], many))


def _apart(x: Tensor, members: int) -> Tensor:
    """`(B, M C, ...)` as `(M, B, C, ...)`."""
    return x.reshape(len(x), members, -1, *x.shape[2:]).transpose(0, 1)


def _joined(parts: list[Tensor], axis: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
