"""The forward pass of M models at once.

A sequence of common layers is computed faster than by `vmap`. In eval mode, for attacks, which take
most of the time of a study, the weights are constant. In train mode there are gradients with
respect to the weights. On a GPU the M models are one wide model: Triton kernels, or grouped
convolutions and batched matrix products over the concatenated channels of all models. On a CPU, at
most `MODELS_PER_CHUNK` models are batched, and groups of models run one after another, because one
group's activations fit the cache and grouped convolutions are slower. The results equal those of
the models one by one up to rounding; `benchmarks/passes.py` measures the gain.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robustgen.acceleration.cpu.inference_layers import Layer, build_layers
from robustgen.acceleration.cuda.forward import build_fused_forward
from robustgen.acceleration.fold_batch_norm import fold_batch_norm
from robustgen.acceleration.supported_layers import to_channels_last
from robustgen.acceleration.training_layers import build_training_forward
from robustgen.backend import ForwardFn, State, vmapped_forward
from robustgen.device import HAS_AVX512

CPU_CHUNK_IMAGES = 512
"""Images of all batched models that are computed together on a CPU. The activations of more images
do not fit its cache."""
MODELS_PER_CHUNK = 3 if HAS_AVX512 else 1
"""Models that are batched on a CPU. With AVX-512 one model with few images does not fill the vector
registers."""


def batched_forward(model: nn.Module, state: State) -> ForwardFn:
    """Return the forward pass of `backend.vmapped_forward`, faster for sequences of known layers.

    In eval mode batch normalization is folded into the layer before it, and the weights are
    constants: gradients are with respect to images only, and can be taken once per output.
    """
    if not model.training:
        model, state = fold_batch_norm(model, state)
    first = next(iter(state.values()))
    size = MODELS_PER_CHUNK if first.device.type == "cpu" else len(first)
    chunks = zip(*(torch.split(tensor, size) for tensor in state.values()), strict=True)
    forwards = [_accelerate(model, dict(zip(state, chunk, strict=True))) for chunk in chunks]
    supported = [forward for forward in forwards if forward is not None]
    if len(supported) < len(forwards):
        return vmapped_forward(model, state)
    if len(supported) == 1:
        return supported[0]
    return lambda images: _concatenate(
        [
            forward(chunk)
            for forward, chunk in zip(supported, torch.split(images, size), strict=True)
        ]
    )


def _accelerate(model: nn.Module, state: State) -> ForwardFn | None:
    """Return the fast forward pass of a chunk of models; None if a layer is not supported."""
    if model.training:
        return build_training_forward(model, state)
    if fused := build_fused_forward(model, state):
        return fused
    layers = build_layers(model, state)
    return None if layers is None else partial(_LayerSequence.apply, layers)


class _LayerSequence(torch.autograd.Function):
    """Layers one after another, in chunks of images, with the VJPs of the layers."""

    @staticmethod
    def forward(ctx: Any, layers: list[Layer], images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`."""
        ctx.chunk_vjps, outputs = [], []
        for chunk in torch.tensor_split(images, _chunk_count(images), dim=1):
            x, vjps = to_channels_last(chunk.transpose(0, 1).flatten(1, 2)), []
            for layer in layers:
                x, vjp = layer(x)
                vjps.append(vjp)
            outputs.append(_split_members(x, len(images)))
            if ctx.needs_input_grad[1]:
                ctx.chunk_vjps.append(vjps)
        return _concatenate(outputs, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Return the gradient with respect to the images."""
        chunk_grads = []
        chunks = torch.tensor_split(gradient, _chunk_count(gradient), dim=1)
        for vjps, chunk in zip(ctx.chunk_vjps, chunks, strict=True):
            # Cloned, because VJPs may overwrite their argument.
            x = to_channels_last(chunk.transpose(0, 1).flatten(1, 2)).clone()
            for vjp in reversed(vjps):
                x = vjp(x)
            chunk_grads.append(_split_members(x, len(gradient)).contiguous())
        return None, _concatenate(chunk_grads, 1)


def _chunk_count(x: Tensor) -> int:
    """Count chunks of `x` `(M, B, ...)` along B, so that each fits the cache of a CPU."""
    count = -(-x.shape[0] * x.shape[1] // CPU_CHUNK_IMAGES) if x.device.type == "cpu" else 1
    return max(1, min(x.shape[1], count))


def _split_members(x: Tensor, n_models: int) -> Tensor:
    """Return `(B, M C, ...)` as `(M, B, C, ...)`."""
    return x.reshape(len(x), n_models, -1, *x.shape[2:]).transpose(0, 1)


def _concatenate(chunks: list[Tensor], dim: int = 0) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=dim)
