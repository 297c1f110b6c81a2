"""Measure the accelerated layers of VAE-GANs: training steps, and decoding in a search.

    python benchmarks/vaegan.py

The variants are PyTorch's layers, PyTorch's layers with their weights channels-last, and those of
the accelerated backend. A search step decodes codes and takes the gradient with respect to them,
also with folded batch normalization. Codes of ten classes are decoded by the decoder of their
class, one decoder after another or all decoders layer by layer. The variants take turns. Compare
their ratios.
"""

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from timing import compare
from torch import Tensor, nn

from robustgen import device
from robustgen.acceleration.backends import for_vaegans
from robustgen.acceleration.fold_batch_norm import fold_decoder
from robustgen.data.decoders import ClassDecoders, apply_per_class
from robustgen.models.vaegan import VaeGan
from robustgen.sampling import make_generator
from robustgen.specs import VaeGanConfig
from robustgen.training.vaegan import _update

ROUNDS = {(16, 32, 64): 40, (64, 128, 256): 8}
"""Rounds of measurements, by the channels of the networks."""
BATCH_SIZE, CODES, CLASSES = 100, 256, 10
DEVICE = device.setup()


def make_vaegan(
    channels: tuple[int, ...], *, channels_last: bool, prepare: bool, gamma: float = 1.0
) -> VaeGan:
    """Make a VAE-GAN, with PyTorch's layers or, if `prepare`, with those of the backend."""
    model = VaeGan((1, 28, 28), VaeGanConfig(channels=channels, gamma=gamma))
    model.initialize(make_generator(0, "benchmark"))
    model = model.to(DEVICE)
    if prepare:
        for_vaegans(DEVICE).prepare(model)
    elif channels_last:
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.clone(memory_format=torch.channels_last)
    return model


def make_update(model: VaeGan) -> Callable[[], object]:
    """Make a training step of the model."""
    images = torch.rand(BATCH_SIZE, 1, 28, 28, generator=make_generator(0, "images")).to(DEVICE)
    networks = model.train().children()
    optimizers = [torch.optim.Adam(network.parameters(), 0.005) for network in networks]
    return partial(_update, model, optimizers, images, make_generator(0, "training"))


def make_codes() -> Tensor:
    """Make random codes of which gradients are taken."""
    codes = torch.randn(CODES, 10, generator=make_generator(0, "codes"))
    return codes.to(DEVICE).requires_grad_()


def make_search_step(decoder: nn.Module) -> Callable[[], object]:
    """Make a search step: decode codes, and take the gradient with respect to them."""
    codes = make_codes()
    return lambda: torch.autograd.grad(decoder(codes).sum(), codes)[0].sum().item()


def apply_one_by_one(modules: Sequence[nn.Module], x: Tensor, counts: Sequence[int]) -> Tensor:
    """Apply each decoder with all its layers to its own rows."""
    row_groups = zip(modules, x.split(counts), strict=True)
    return torch.cat([module(rows) for module, rows in row_groups])


def make_class_search_step(
    decoders: list[nn.Module], *, layer_by_layer: bool
) -> Callable[[], object]:
    """Make a search step with codes of all classes."""
    class_decoders, codes = ClassDecoders(decoders), make_codes()
    labels = torch.arange(CODES, device=DEVICE) % CLASSES
    apply = apply_per_class if layer_by_layer else apply_one_by_one

    def run() -> None:
        with patch("robustgen.data.decoders.apply_per_class", apply):
            torch.autograd.grad(class_decoders(codes, labels).sum(), codes)[0].sum().item()

    return run


def compare_layers(channels: tuple[int, ...], rounds: int) -> None:
    """Compare training steps and search steps for networks with these channels."""
    name = "-".join(map(str, channels))
    models = {
        "PyTorch's layers": make_vaegan(channels, channels_last=False, prepare=False),
        "channels-last": make_vaegan(channels, channels_last=True, prepare=False),
        "accelerated": make_vaegan(channels, channels_last=True, prepare=True),
    }
    vae = make_vaegan(channels, channels_last=True, prepare=True, gamma=0.0)
    updates = {variant: make_update(model) for variant, model in models.items()}
    updates["accelerated, gamma 0"] = make_update(vae)
    compare(f"{name}: training step", updates, rounds)
    decoders = {
        variant: model.eval().requires_grad_(False).decoder for variant, model in models.items()
    }
    steps = {variant: make_search_step(decoder) for variant, decoder in decoders.items()}
    steps["accelerated, folded"] = make_search_step(fold_decoder(decoders["accelerated"]))
    compare(f"{name}: search step", steps, rounds)
    class_decoders = [fold_decoder(decoders["accelerated"]) for _ in range(CLASSES)]
    class_steps = {
        "one decoder after another": make_class_search_step(class_decoders, layer_by_layer=False),
        "layer by layer": make_class_search_step(class_decoders, layer_by_layer=True),
    }
    compare(f"{name}: search step, {CLASSES} classes", class_steps, rounds)


if __name__ == "__main__":
    for channels, rounds in ROUNDS.items():
        compare_layers(channels, rounds)
    print(f"{BATCH_SIZE} images per training step, {CODES} codes, on {DEVICE}")
