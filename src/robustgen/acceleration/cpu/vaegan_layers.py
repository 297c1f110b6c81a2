"""Faster convolutions of VAE-GANs on a CPU.

Equal to PyTorch's up to rounding; `benchmarks/vaegan.py` measures the gain.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustgen.acceleration.cpu.strided_conv import (
    MIN_CHANNELS_FOR_NATIVE_GRAD,
    PolyphaseInputGrad,
    conv2d,
)
from robustgen.acceleration.cpu.transposed_conv import conv_transpose2d, conv_transpose2d_per_group
from robustgen.acceleration.fold_batch_norm import fold_decoder
from robustgen.acceleration.supported_layers import stride_divides_kernel, to_channels_last
from robustgen.io.tensors import version_key


class StridedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a stride that divides the size of the kernel, without groups."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution, `(B, O, H', W')`."""
        images = to_channels_last(images)
        if self.in_channels >= MIN_CHANNELS_FOR_NATIVE_GRAD:
            return super().forward(images)
        return conv2d(images, self.weight, self.bias, self.stride, self.padding, 1)  # type: ignore[arg-type]


class StridedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with a stride that divides the size of the kernel, without groups."""

    _cached_weight: tuple[object, PolyphaseInputGrad] | None = None

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution, `(B, O, H', W')`; PyTorch's own with `output_size`."""
        if not self._is_faster or output_size is not None:
            return super().forward(images, output_size)
        geometry = (self.stride, self.padding, self.output_padding)
        prepared = None if self.weight.requires_grad else self._prepared_weight()
        return conv_transpose2d(images, self.weight, self.bias, *geometry, prepared)  # type: ignore[arg-type]

    @staticmethod
    def apply_per_class(
        layers: "Sequence[StridedConvTranspose2d]", x: Tensor, counts: list[int]
    ) -> Tensor:
        """Apply layers of one shape to `x`, each to its own rows; see `data.decoders`."""
        first = layers[0]
        if x.device.type != "cpu" or not first._is_faster or first.weight.requires_grad:
            parts = zip(layers, torch.split(x, counts), strict=True)
            return torch.cat([layer(part) for layer, part in parts if len(part)])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        stacked_biases = torch.stack(biases) if biases else None
        prepared = [layer._prepared_weight() for layer in layers]
        return conv_transpose2d_per_group(x, prepared, stacked_biases, counts, first.output_padding)  # type: ignore[arg-type]

    @property
    def _is_faster(self) -> bool:
        """Whether this implementation is faster than PyTorch's."""
        return self.out_channels <= MIN_CHANNELS_FOR_NATIVE_GRAD

    def _prepared_weight(self) -> PolyphaseInputGrad:
        """Return the constant weight as `strided_conv` prepares it; cached until it is modified."""
        key = version_key(self.weight)
        if self._cached_weight is None or self._cached_weight[0] != key:
            prepared = PolyphaseInputGrad(self.weight, self.stride, self.padding, 1)  # type: ignore[arg-type]
            self._cached_weight = key, prepared
        return self._cached_weight[1]


FASTER_TYPES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: StridedConv2d,
    nn.ConvTranspose2d: StridedConvTranspose2d,
}


def prepare(module: nn.Module) -> nn.Module:
    """Replace the convolutions of `module` in place by faster ones, with weights channels-last.

    The state dictionary keeps its names and values. Weights are cloned, because for one channel
    both memory layouts are valid and PyTorch keeps the original strides, which makes later layers
    mix layouts.
    """
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for layer in convolutions:
        if type(layer) in FASTER_TYPES and _is_supported(layer):
            layer.__class__ = FASTER_TYPES[type(layer)]  # type: ignore[assignment]
            layer.weight.data = layer.weight.data.clone(memory_format=torch.channels_last)
    return module


def prepare_decoder(decoder: nn.Module) -> nn.Module:
    """Return a decoder in eval mode with folded batch normalization and faster convolutions.

    The result is one sequence of layers, so that the decoders of several classes can be computed
    together, layer by layer.
    """
    return prepare(fold_decoder(decoder))


def _is_supported(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether the layer has no groups and no dilation, and a stride that divides its kernel."""
    has_plain_padding = layer.padding_mode == "zeros"
    return stride_divides_kernel(layer) and has_plain_padding and layer.groups == 1
