"""What the fast pass of an attacked cohort gains: full searches, computed in several ways.

    python benchmarks/passes.py

The plain stack is the architecture mapped over the models; folding leaves batch normalization out
of it; then come the layers with their own way back, of all models side by side and of one after
the other, as a CPU takes them. Below, warps of letters with torch's grid and with ours, forward and
back to the parameters. All are measured in turns in one run; what counts is the ratio.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen import affine, device, stacking
from robustgen.attack import Search, search
from robustgen.cohort import Cohort
from robustgen.datasets import Split
from robustgen.folding import folded
from robustgen.seeding import generator
from robustgen.spaces import Threat, image
from robustgen.stacking import stacked, vectorized

MODELS, EXAMPLES, STEPS, ROUNDS = 3, 50, 20, 15

here = device.setup()


def compare(what: str, ways: Mapping[str, Callable[[], object]], work: int) -> None:
    """Print how long each way takes for a piece of `work`, and the ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    first = median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        of = median(taken)
        print(f"{what}, {name}: {of / work * 1e6:.1f} µs, {first / of:.2f} times as fast")


def attacks() -> dict[str, Callable[[], object]]:
    """Searches with each kind of pass."""
    models = Cohort("convnet", (1, 28, 28), 10, range(MODELS)).to(here)
    models.initialize([generator(0, "benchmark", i) for i in range(MODELS)])
    pixels = torch.rand(EXAMPLES, 1, 28, 28, generator=generator(0, "images")).to(here)
    rows = torch.arange(EXAMPLES, device=here)
    images = Split(pixels, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
    batch = images.take(rows.expand(MODELS, -1))
    model, held = models.eval()._plain()
    state = {name: tensor.detach() for name, tensor in held.items()}
    as_it_is, stacking.SIDE_BY_SIDE = stacking.SIDE_BY_SIDE, MODELS
    side_by_side = stacked(*folded(model, state))
    stacking.SIDE_BY_SIDE = as_it_is
    passes = {
        "plain": vectorized(model, state),
        "folded": vectorized(*folded(model, state)),
        "own layers, side by side": side_by_side,
        "own layers, one by one": stacked(*folded(model, state)),
    }

    def run(passed: stacking.Pass) -> float:
        rngs = [generator(0, "start", i) for i in range(MODELS)]
        threat, how = Threat("image", "linf", 0.3), Search("adam", 0.005, STEPS)
        found = search(passed, image(batch), batch.labels, threat, how, rngs, stop_at_success=False)
        return found.loss.sum().item()

    return {name: partial(run, passed) for name, passed in passes.items()}


def warps() -> dict[str, Callable[[], object]]:
    """Letters warped with each kind of grid."""
    letters = torch.rand(MODELS * EXAMPLES, 1, 28, 28, generator=generator(0, "images")).to(here)
    codes = torch.tensor(affine.IDENTITY, device=here).repeat(len(letters), 1)
    codes += 0.3 * torch.rand(codes.shape, generator=generator(0, "codes")).to(here)
    codes.requires_grad_()

    def torchs(images: Tensor, parameters: Tensor) -> Tensor:
        grid = F.affine_grid(affine.matrices(parameters), list(images.shape), align_corners=True)
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True)

    def run(warp: Callable[[Tensor, Tensor], Tensor]) -> float:
        (gradient,) = torch.autograd.grad(warp(letters, codes).sum(), codes)
        return gradient.sum().item()

    ways = {"torch's grid": torchs, "ours": affine.transform}
    return {name: partial(run, warp) for name, warp in ways.items()}


compare("an image and iteration of an attack", attacks(), MODELS * EXAMPLES * STEPS)
compare("an image and iteration of a warp", warps(), MODELS * EXAMPLES)
print(f"on {here}")
