"""The networks of a VAE-GAN (Stutz et al., CVPR 2019, supplement; Larsen et al., ICML 2016)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from robustgen.acceleration.cpu import strided_conv as strided
from robustgen.acceleration.cpu import transposed_conv as transposed
from robustgen.acceleration.cpu import winograd
from robustgen.errors import UserError
from robustgen.io.tensors import written

Shape = tuple[int, int, int]


class Convolution(nn.Conv2d):
    """As `nn.Conv2d`, of a stride that divides the kernel's size and without groups."""

    def forward(self, images: Tensor) -> Tensor:
        """The convolution, `(B, O, H', W')`."""
        if self.in_channels >= strided.MANY:
            return super().forward(images)
        return strided.convolve(images, self.weight, self.bias, self.stride, self.padding, 1)  # type: ignore[arg-type]


class Transposed(nn.ConvTranspose2d):
    """As `nn.ConvTranspose2d`, of a stride that divides the kernel's size and without groups."""

    _kept: tuple[object, strided.InputGradient] | None = None

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution, `(B, O, H', W')`; with `output_size` it is torch's own."""
        if not self._fast(images) or output_size is not None:
            return super().forward(images, output_size)
        how = (self.stride, self.padding, self.output_padding)
        kept = None if self.weight.requires_grad else self._rearranged()
        return transposed.convolve(images, self.weight, self.bias, *how, kept)  # type: ignore[arg-type]

    @staticmethod
    def of_each(layers: "Sequence[Transposed]", x: Tensor, counts: list[int]) -> Tensor:
        """What layers of one shape make of `x`, each of its own rows, so many one after another."""
        one = layers[0]
        if x.device.type != "cpu" or not one._fast(x) or one.weight.requires_grad:
            parts = zip(layers, torch.split(x, counts), strict=True)
            return torch.cat([layer(part) for layer, part in parts if len(part)])
        known = [layer.bias for layer in layers if layer.bias is not None]
        biases = torch.stack(known) if known else None
        each = [layer._rearranged() for layer in layers]
        return transposed.convolve_each(x, each, biases, counts, one.output_padding)  # type: ignore[arg-type]

    def _fast(self, x: Tensor) -> bool:
        """Whether the package's way is faster than torch's."""
        few = winograd.applies(x.shape[2:], self.kernel_size, self.stride)
        return few or self.out_channels <= strided.MANY

    def _rearranged(self) -> strided.InputGradient:
        """The constant weights as `strided` needs them, made again when they are written to."""
        now = written(self.weight)
        if self._kept is None or self._kept[0] != now:
            made = strided.InputGradient(self.weight, self.stride, self.padding, 1)  # type: ignore[arg-type]
            self._kept = now, made
        return self._kept[1]


class Encoder(nn.Module):
    """Images `(B, C, H, W)` to the mean and the log variance of their codes, each `(B, D)`.

    Convolutions of 4x4 and stride 2, each with batch normalization and ReLU, and a linear layer.
    """

    def __init__(self, shape: Shape, latent: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = _halving(shape, channels, kernel=4, padding=1)
        self.ends = nn.Linear(_numbers(shape, channels), 2 * latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance."""
        mean, log_variance = self.ends(self.features(images)).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Codes `(B, D)` to images `(B, C, H, W)` in [0, 1].

    A linear layer, and transposed convolutions of 6x6 and stride 2 back through the sizes of the
    encoder; batch normalization and ReLU after each but the last, which ends in a sigmoid.
    """

    def __init__(self, shape: Shape, latent: int, channels: Sequence[int]) -> None:
        super().__init__()
        sizes = _sizes(shape, len(channels))
        self.start = nn.Sequential(
            nn.Linear(latent, _numbers(shape, channels), bias=False),
            nn.BatchNorm1d(_numbers(shape, channels)),
            nn.ReLU(),
            nn.Unflatten(1, (channels[-1], *sizes[-1])),
        )
        layers: list[nn.Module] = []
        wide = [shape[0], *channels]
        for i in reversed(range(len(channels))):
            beyond = tuple(to - 2 * of for to, of in zip(sizes[i], sizes[i + 1], strict=True))
            last = i == 0
            layers.append(
                Transposed(wide[i + 1], wide[i], 6, 2, 2, beyond, bias=last)  # type: ignore[arg-type]
            )
            layers += [nn.Sigmoid()] if last else [nn.BatchNorm2d(wide[i]), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Tensor) -> Tensor:
        """The images."""
        images: Tensor = self.layers(self.start(codes))
        return images

    def folded(self) -> nn.Sequential:
        """The same function without batch normalization, for searches: in eval mode, constant.

        A fixed affine map is folded into the layer before it: equal up to rounding, and faster.

        Raises:
            ValueError: the decoder is in train mode.
        """
        if self.training:
            raise ValueError("a decoder in train mode cannot be folded; call eval() before")
        made: list[nn.Module] = []
        for layer in (*self.start, *self.layers):
            if isinstance(layer, nn.BatchNorm1d):
                made[-1] = fuse_linear_bn_eval(made[-1], layer)  # type: ignore[type-var]
            elif isinstance(layer, nn.BatchNorm2d):
                made[-1] = fuse_conv_bn_eval(made[-1], layer, transpose=True)  # type: ignore[type-var]
            else:
                made.append(layer)
        return nn.Sequential(*made).eval().requires_grad_(False)


class Discriminator(nn.Module):
    """Images `(B, C, H, W)` to logits `(B,)` of being real.

    Convolutions of 6x6 and stride 2, each with batch normalization and ReLU, and a linear layer.
    """

    def __init__(self, shape: Shape, channels: Sequence[int]) -> None:
        super().__init__()
        self.features = _halving(shape, channels, kernel=6, padding=2)
        self.end = nn.Linear(_numbers(shape, channels), 1)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.end(self.features(images))
        return logits[:, 0]


def _halving(shape: Shape, channels: Sequence[int], kernel: int, padding: int) -> nn.Sequential:
    """Strided convolutions with batch normalization and ReLU, flattened."""
    layers: list[nn.Module] = []
    before = shape[0]
    for wider in channels:
        layers += [
            Convolution(before, wider, kernel, 2, padding, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
        ]
        before = wider
    return nn.Sequential(*layers, nn.Flatten())


def _sizes(shape: Shape, halvings: int) -> list[tuple[int, int]]:
    """Height and width of the image and after each halving."""
    _, height, width = shape
    if min(height, width) < 2**halvings:
        least = 2**halvings
        raise UserError(
            f"images of {height}x{width} are too small to be halved {halvings} times, once for "
            f"each of a manifold's channels: {least}x{least} at least"
        )
    return [(height >> i, width >> i) for i in range(halvings + 1)]


def _numbers(shape: Shape, channels: Sequence[int]) -> int:
    height, width = _sizes(shape, len(channels))[-1]
    return channels[-1] * height * width
