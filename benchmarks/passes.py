"""What the fast pass of an attacked cohort gains: full searches, computed in several ways.

    python benchmarks/passes.py

The plain stack is the architecture mapped over the models; folding leaves batch normalization out
of it; then come the layers with their own way back, of models one after the other and side by side,
with torch's gradient to the pixels of all layers, with that of `strided` to those of the first
layer, and of every one; and what is taken on a processor like this, with `winograd` besides. Below,
searches on a batch of 100 images for each model, of which so many go through the layers at once;
gradients to the weights in training, of the mapped architecture, and of the layers with batch
normalization by its formula, by torch's kernels with the channels last, which are not exact, and
by ours; warps of letters with torch's grid and with ours, forward and back to the parameters; and
whole processes that search, with freed memory kept or given back. All are measured in turns in one
run; what counts is the ratio.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timing import compare, seconds_of
from torch import Tensor

from robustgen import device
from robustgen.acceleration import backends
from robustgen.acceleration import batched_forward as stacking
from robustgen.acceleration import training_layers as learning
from robustgen.acceleration.batched_forward import batched_forward
from robustgen.acceleration.cpu import inference_layers as layers
from robustgen.acceleration.cpu import strided_conv as strided
from robustgen.acceleration.cpu import winograd
from robustgen.acceleration.fold_batch_norm import fold_batch_norm
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import make_image_space
from robustgen.backend import vmapped_forward
from robustgen.data import affine
from robustgen.data.split import Split
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import SearchConfig, Threat

MODELS, EXAMPLES, STEPS, ROUNDS = 3, 50, 20, 15
BATCH = 100

Made = tuple[Tensor, Tensor, Tensor]
"""Columns of mean 0 and variance 1, and their means and variances before."""

AS_HERE = "own layers, as here"

if len(sys.argv) > 1:
    device.RETAINED_BYTES = int(sys.argv[1])
here = device.setup()


def fresh() -> Cohort:
    """Models that have not learned."""
    models = Cohort("convnet", (1, 28, 28), 10, range(MODELS), backends.for_cohorts(here)).to(here)
    models.initialize([generator(0, "benchmark", i) for i in range(MODELS)])
    return models


def batch_of(examples: int) -> Split:
    """So many random images, the same for each model."""
    pixels = torch.rand(examples, 1, 28, 28, generator=generator(0, "images")).to(here)
    rows = torch.arange(examples, device=here)
    images = Split(pixels, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
    return images.expand(MODELS)


def searched(passed: stacking.ForwardFn, batch: Split) -> float:
    """The loss that a search through this pass comes to."""
    rngs = [generator(0, "start", i) for i in range(MODELS)]
    threat, how = Threat("image", "linf", 0.3), SearchConfig("adam", 0.005, STEPS)
    args = passed, make_image_space(batch), batch.labels, threat, how, rngs
    return run_search(*args, stop_at_success=False).loss.sum().item()


def attacks() -> dict[str, Callable[[], object]]:
    """Searches with each kind of pass."""
    batch = batch_of(EXAMPLES)
    model, held = fresh().eval()._module_and_state()
    state = {name: tensor.detach() for name, tensor in held.items()}

    def own(models: int, few: int) -> stacking.ForwardFn:
        ways = (
            patch.object(stacking, "MODELS_PER_CHUNK", models),
            patch.object(layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", few),
        )
        with ways[0], ways[1]:
            return batched_forward(model, state)

    sides = {"one by one": 1, "side by side": MODELS}
    layered = {"none": 0, "the first": strided.MIN_CHANNELS_FOR_NATIVE_GRAD, "every": 1 << 30}
    passes = {
        "plain": vmapped_forward(model, state),
        "folded": vmapped_forward(*fold_batch_norm(model, state)),
        **{
            f"own layers, {side}, our gradient in {which}": own(models, few)
            for side, models in sides.items()
            for which, few in layered.items()
        },
        AS_HERE: batched_forward(model, state),
    }

    def run(passed: stacking.ForwardFn, points: tuple[float, ...]) -> float:
        with patch.object(winograd, "INTERPOLATION_POINTS", points):
            return searched(passed, batch)

    points = {AS_HERE: winograd.INTERPOLATION_POINTS}  # without any it is not taken
    return {name: partial(run, passed, points.get(name, ())) for name, passed in passes.items()}


def parts() -> dict[str, Callable[[], object]]:
    """Searches on a batch for each model, more or fewer of whose images go at once."""
    batch, models = batch_of(BATCH), fresh().eval()

    def run(at_once: int) -> float:
        with patch.object(stacking, "CPU_CHUNK_IMAGES", at_once):
            return searched(models.eval_forward(), batch)

    return {f"{size} at once": partial(run, size) for size in (128, 256, stacking.CPU_CHUNK_IMAGES)}


def updates() -> dict[str, Callable[[], object]]:
    """Gradients to the weights of models that learn, with each kind of batch normalization."""
    models = fresh().train()
    images = torch.rand(MODELS, BATCH, 1, 28, 28, generator=generator(0, "images")).to(here)
    held, weights = models._module_and_state(), list(models.parameters())

    def formula(rows: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool) -> Made:
        mean, variance = rows.mean(0), rows.var(0, unbiased=False)
        made = (rows - mean) * (weight * (variance + eps).rsqrt()) + bias
        return made.relu() if rectified else made, mean.detach(), variance.detach()

    def torchs(rows: Tensor, weight: Tensor, bias: Tensor, eps: float, rectified: bool) -> Made:
        known = weight, bias, None, None
        made, mean, inverse = torch.native_batch_norm(rows, *known, True, 0.0, eps)
        variance = inverse.detach() ** -2 - eps
        return made.relu() if rectified else made, mean.detach(), variance

    def run(passed: stacking.ForwardFn, way: Callable[..., Made]) -> float:
        with patch.object(learning, "batch_norm_train", way):
            gradients = torch.autograd.grad(passed(images).square().sum(), weights)
        return gradients[0].sum().item()

    plain, ours = vmapped_forward(*held), batched_forward(*held)
    ways = {"by its formula": formula, "torch's": torchs, "ours": learning.batch_norm_train}
    named = {f"batch normalization {name}": partial(run, ours, way) for name, way in ways.items()}
    return {"plain": partial(run, plain, formula), **named}


def warps() -> dict[str, Callable[[], object]]:
    """Letters warped with each kind of grid."""
    letters = torch.rand(MODELS * EXAMPLES, 1, 28, 28, generator=generator(0, "images")).to(here)
    codes = torch.tensor(affine.IDENTITY, device=here).repeat(len(letters), 1)
    codes += 0.3 * torch.rand(codes.shape, generator=generator(0, "codes")).to(here)
    codes.requires_grad_()

    def torchs(images: Tensor, parameters: Tensor) -> Tensor:
        grid = F.affine_grid(
            affine.affine_matrices(parameters), list(images.shape), align_corners=True
        )
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True)

    def run(warp: Callable[[Tensor, Tensor], Tensor]) -> float:
        (gradient,) = torch.autograd.grad(warp(letters, codes).sum(), codes)
        return gradient.sum().item()

    ways = {"torch's grid": torchs, "ours": affine.warp}
    return {name: partial(run, warp) for name, warp in ways.items()}


def process(kept: int) -> float:
    """Seconds of a search in a process that keeps so many bytes of freed memory."""
    command = [sys.executable, __file__, str(kept)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def kept() -> None:
    """Processes that keep freed memory, or give it back."""
    taken: dict[int, list[float]] = {0: [], device.RETAINED_BYTES: []}
    for _ in range(3):
        for kept, seconds in taken.items():
            seconds.append(process(kept))
    back, held = (median(seconds) for seconds in taken.values())
    print(f"freed memory kept instead of given back: {back / held:.2f} times as fast")


if len(sys.argv) > 1:
    run = attacks()[AS_HERE]
    run()
    print(min(seconds_of(run) for _ in range(5)))
else:
    work = MODELS * EXAMPLES
    compare("an image and iteration of an attack", attacks(), ROUNDS, work * STEPS)
    compare("an image and iteration of a batch", parts(), ROUNDS, MODELS * BATCH * STEPS)
    compare("an image of an update", updates(), ROUNDS, MODELS * BATCH)
    compare("an image and iteration of a warp", warps(), ROUNDS, work)
    kept()
    print(f"on {here}")
