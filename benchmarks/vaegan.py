"""What the layers of VAE-GANs gain: updates in training, and codes decoded in a search.

    python benchmarks/vaegan.py

Plain are PyTorch's own layers. Then their weights are laid out with the channels last; then the
layers are those of the accelerated backend, without and with `winograd`. A search decodes codes and
takes the gradient with respect to them, in the end without batch normalization; codes of ten
classes are decoded by the decoder of each, one after another or layer by layer. All are measured in
turns in one run; what counts is the ratio.
"""

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import patch

import torch
from timing import compare
from torch import Tensor, nn

from robustgen import device
from robustgen.acceleration.backends import for_vaegans
from robustgen.acceleration.cpu import winograd
from robustgen.data import learned_manifold as manifolds
from robustgen.data.learned_manifold import ClassDecoders
from robustgen.models.vaegan import VaeGan
from robustgen.seeding import generator
from robustgen.specs import VaeGanConfig
from robustgen.training.vaegan import _update

WIDTHS = {(16, 32, 64): 40, (64, 128, 256): 8}
"""Rounds by channels."""
BATCH, CODES, CLASSES = 100, 256, 10

here = device.setup()
images = torch.rand(BATCH, 1, 28, 28, generator=generator(0, "images")).to(here)
codes = torch.randn(CODES, 10, generator=generator(0, "codes")).to(here).requires_grad_()


def made(channels: tuple[int, ...], *, laid_out: bool, ours: bool, gamma: float = 1.0) -> VaeGan:
    """A VAE-GAN with or without what is measured."""
    model = VaeGan((1, 28, 28), VaeGanConfig(channels=channels, gamma=gamma))
    model.initialize(generator(0, "benchmark"))
    model = model.to(here)
    if ours:
        for_vaegans(here).prepare(model)
    elif laid_out:
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.clone(memory_format=torch.channels_last)
    return model


def update(model: VaeGan) -> Callable[[], object]:
    """An update of the model."""
    optimizers = [torch.optim.Adam(part.parameters(), 0.005) for part in model.train().children()]
    return partial(_update, model, optimizers, images, generator(0, "training"))


def unspared(run: Callable[[], object]) -> Callable[[], object]:
    """The same without `winograd`, which needs points."""

    def alike() -> None:
        with patch.object(winograd, "INTERPOLATION_POINTS", ()):
            run()

    return alike


def decode(decoder: nn.Module) -> Callable[[], object]:
    """An iteration of a search."""
    return lambda: torch.autograd.grad(decoder(codes).sum(), codes)[0].sum().item()


def one_by_one(modules: Sequence[nn.Module], x: Tensor, counts: Sequence[int]) -> Tensor:
    """Each decoder with all its layers, of its own rows."""
    return torch.cat([of(part) for of, part in zip(modules, x.split(counts), strict=True)])


def of_classes(decoders: list[nn.Module], layered: bool) -> Callable[[], object]:
    """An iteration of a search with codes of all classes."""
    several, of = ClassDecoders(decoders), torch.arange(CODES, device=here) % CLASSES
    way = manifolds.apply_per_class if layered else one_by_one

    def run() -> None:
        with patch.object(manifolds, "apply_per_class", way):
            torch.autograd.grad(several(codes, of).sum(), codes)[0].sum().item()

    return run


for channels, rounds in WIDTHS.items():
    kinds = {
        "plain": made(channels, laid_out=False, ours=False),
        "laid out": made(channels, laid_out=True, ours=False),
        "ours": made(channels, laid_out=True, ours=True),
    }
    said = "-".join(map(str, channels))
    alone = made(channels, laid_out=True, ours=True, gamma=0.0)
    ways = {name: update(of) for name, of in {**kinds, "ours, gamma 0": alone}.items()}
    ways["ours, gamma 0, no products spared"] = unspared(ways["ours, gamma 0"])
    compare(f"{said}: update", ways, rounds)
    constant = {name: kinds[name].eval().requires_grad_(False).decoder for name in kinds}
    ways = {name: decode(decoder) for name, decoder in constant.items()}
    ways["ours, folded"] = decode(constant["ours"].fold_batch_norm())
    ways["ours, folded, no products spared"] = unspared(ways["ours, folded"])
    compare(f"{said}: decode", ways, rounds)
    several = [constant["ours"].fold_batch_norm() for _ in range(CLASSES)]
    ways = {
        "one after another": of_classes(several, layered=False),
        "layer by layer": of_classes(several, layered=True),
    }
    compare(f"{said}: decode, {CLASSES} classes", ways, rounds)
print(f"{BATCH} images per update, {CODES} codes, on {here}")
