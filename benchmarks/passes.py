"""Measure the accelerations of cohorts on a CPU: searches, training steps, warps, freed memory.

    python benchmarks/passes.py

Searches are measured with these forward passes: the architecture mapped over the models by `vmap`
(plain); the same with folded batch normalization; the folded models one by one, compiled by
`torch.compile`, whose compilation is timed apart; the layers that training uses, with constant
weights; layers with hand-written backward passes, for models one by one and batched, where the
input gradients of no layer, the first layer or every layer are those of `strided_conv`; and the
setting of this processor. Then follow searches on batches of 100 images per model, of which more or
fewer are computed together; gradients of training, with batch normalization by its formula, by
PyTorch's kernels, which are inexact with the channels last, and by `batch_norm`; warps of letters
with PyTorch's grid and with that of `affine`, and their gradients; and processes that keep freed
memory or return it to the system. The variants take turns. Compare their ratios.
"""

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timing import compare, seconds_of
from torch import Tensor, nn

from robustgen import device
from robustgen.acceleration import backends, batched_forward, training_layers
from robustgen.acceleration.cpu import inference_layers, strided_conv
from robustgen.acceleration.fold_batch_norm import fold_batch_norm
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import make_image_space
from robustgen.backend import ForwardFn, State, vmapped_forward
from robustgen.data.decoders import IDENTITY, affine_matrices, warp
from robustgen.data.split import Split
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import SearchConfig, Threat

MODELS, EXAMPLES, STEPS, ROUNDS, BATCH_SIZE = 3, 50, 20, 15, 100
CURRENT_SETTING = "layers as on this processor"

BatchNormResult = tuple[Tensor, Tensor, Tensor]
"""The output, and the mean and the variance of the columns."""


def make_cohort(compute_device: torch.device) -> Cohort:
    """Make a cohort of untrained models."""
    backend = backends.for_cohorts(compute_device)
    cohort = Cohort("convnet", (1, 28, 28), 10, range(MODELS), backend).to(compute_device)
    cohort.initialize([make_generator(0, "benchmark", i) for i in range(MODELS)])
    return cohort


def make_batch(examples: int, compute_device: torch.device) -> Split:
    """Make random images, which are the same for each model."""
    rng = make_generator(0, "images")
    pixels = torch.rand(examples, 1, 28, 28, generator=rng).to(compute_device)
    rows = torch.arange(examples, device=compute_device)
    images = Split(pixels, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
    return images.expand(MODELS)


def search_images(forward: ForwardFn, batch: Split) -> float:
    """Search in all steps with a forward pass; return the sum of the losses."""
    generators = [make_generator(0, "start", i) for i in range(MODELS)]
    threat, search = Threat("image", "linf", 0.3), SearchConfig("adam", 0.005, STEPS)
    arguments = forward, make_image_space(batch), batch.labels, threat, search, generators
    return run_search(*arguments, stop_at_success=False).loss.sum().item()


def compile_models(model: nn.Module, state: State) -> ForwardFn:
    """Return the forward pass of the folded models, one by one, compiled by `torch.compile`."""
    folded_model, folded_state = fold_batch_norm(model, state)
    compiled_models = []
    for i in range(MODELS):
        member = deepcopy(folded_model)
        member_state = {name: tensor[i] for name, tensor in folded_state.items()}
        member.load_state_dict(member_state, assign=True)
        compiled_models.append(torch.compile(member.requires_grad_(False)))

    def forward(images: Tensor) -> Tensor:
        pairs = zip(compiled_models, images, strict=True)
        return torch.stack([compiled_model(x) for compiled_model, x in pairs])

    return forward


def build_training_layers(model: nn.Module, state: State) -> ForwardFn:
    """Return the forward pass of the folded models with the layers that training uses."""
    folded_model, folded_state = fold_batch_norm(model, state)
    training_model = deepcopy(folded_model).train()  # it has no batch normalization
    forward = training_layers.build_training_forward(training_model, folded_state)
    assert forward is not None, "the layers of the network are not supported"
    return forward


def make_searches(compute_device: torch.device) -> dict[str, Callable[[], object]]:
    """Make searches with each kind of forward pass."""
    batch = make_batch(EXAMPLES, compute_device)
    model, params = make_cohort(compute_device).eval()._module_and_state()
    state = {name: tensor.detach() for name, tensor in params.items()}
    compiled_forward = compile_models(model, state)
    compile_seconds = seconds_of(partial(search_images, compiled_forward, batch))
    print(f"first search with models compiled by torch.compile: {compile_seconds:.0f} s")

    def build_forward(models_per_chunk: int, max_channels: int) -> ForwardFn:
        with (
            patch.object(batched_forward, "MODELS_PER_CHUNK", models_per_chunk),
            patch.object(inference_layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", max_channels),
        ):
            return batched_forward.batched_forward(model, state)

    chunk_sizes = {"models one by one": 1, "batched models": MODELS}
    max_channels = {
        "no layer": 0,
        "the first layer": strided_conv.MIN_CHANNELS_FOR_NATIVE_GRAD,
        "every layer": 1 << 30,
    }
    forwards = {
        "plain": vmapped_forward(model, state),
        "folded": vmapped_forward(*fold_batch_norm(model, state)),
        "folded, compiled by torch.compile": compiled_forward,
        "folded, layers of training": build_training_layers(model, state),
        **{
            f"layers, {chunks}, strided gradient in {layers}": build_forward(size, channels)
            for chunks, size in chunk_sizes.items()
            for layers, channels in max_channels.items()
        },
        CURRENT_SETTING: batched_forward.batched_forward(model, state),
    }
    return {name: partial(search_images, forward, batch) for name, forward in forwards.items()}


def make_chunked_searches(compute_device: torch.device) -> dict[str, Callable[[], object]]:
    """Make searches whose forward passes compute more or fewer images together."""
    batch, cohort = make_batch(BATCH_SIZE, compute_device), make_cohort(compute_device).eval()

    def run(chunk_images: int) -> float:
        with patch.object(batched_forward, "CPU_CHUNK_IMAGES", chunk_images):
            return search_images(cohort.eval_forward(), batch)

    sizes = (128, 256, batched_forward.CPU_CHUNK_IMAGES)
    return {f"{size} images together": partial(run, size) for size in sizes}


def make_training_steps(compute_device: torch.device) -> dict[str, Callable[[], object]]:
    """Make gradients of training with each kind of batch normalization."""
    cohort = make_cohort(compute_device).train()
    images = torch.rand(MODELS, BATCH_SIZE, 1, 28, 28, generator=make_generator(0, "images"))
    images = images.to(compute_device)
    model, state = cohort._module_and_state()
    weights = list(cohort.parameters())

    def normalize_by_formula(
        rows: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
    ) -> BatchNormResult:
        mean, variance = rows.mean(0), rows.var(0, unbiased=False)
        output = (rows - mean) * (weight * (variance + eps).rsqrt()) + bias
        return output.relu() if relu else output, mean.detach(), variance.detach()

    def normalize_by_pytorch(
        rows: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
    ) -> BatchNormResult:
        output, mean, inv_std = torch.native_batch_norm(
            rows, weight, bias, None, None, True, 0.0, eps
        )
        variance = inv_std.detach() ** -2 - eps
        return output.relu() if relu else output, mean.detach(), variance

    def run(forward: ForwardFn, batch_norm: Callable[..., BatchNormResult]) -> float:
        with patch.object(training_layers, "batch_norm_train", batch_norm):
            gradients = torch.autograd.grad(forward(images).square().sum(), weights)
        return gradients[0].sum().item()

    fast_forward = batched_forward.batched_forward(model, state)
    batch_norms = {
        "its formula": normalize_by_formula,
        "PyTorch": normalize_by_pytorch,
        "this package": training_layers.batch_norm_train,
    }
    return {"plain": partial(run, vmapped_forward(model, state), normalize_by_formula)} | {
        f"batch normalization by {name}": partial(run, fast_forward, batch_norm)
        for name, batch_norm in batch_norms.items()
    }


def make_warps(compute_device: torch.device) -> dict[str, Callable[[], object]]:
    """Make warps of letters, and gradients with respect to the parameters, with each grid."""
    letters = torch.rand(MODELS * EXAMPLES, 1, 28, 28, generator=make_generator(0, "images"))
    letters = letters.to(compute_device)
    codes = torch.tensor(IDENTITY, device=compute_device).repeat(len(letters), 1)
    codes += 0.3 * torch.rand(codes.shape, generator=make_generator(0, "codes")).to(compute_device)
    codes.requires_grad_()

    def warp_by_pytorch(images: Tensor, parameters: Tensor) -> Tensor:
        grid = F.affine_grid(affine_matrices(parameters), list(images.shape), align_corners=True)
        return F.grid_sample(images, grid, "bilinear", "zeros", align_corners=True)

    def run(warp: Callable[[Tensor, Tensor], Tensor]) -> float:
        (gradient,) = torch.autograd.grad(warp(letters, codes).sum(), codes)
        return gradient.sum().item()

    return {
        "PyTorch's grid": partial(run, warp_by_pytorch),
        "the grid of this package": partial(run, warp),
    }


def run_process(kept_bytes: int) -> float:
    """Measure the seconds of a search in a process that keeps so many bytes of freed memory."""
    command = [sys.executable, __file__, str(kept_bytes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare_freed_memory() -> None:
    """Compare processes that keep freed memory with those that return it to the system."""
    seconds: dict[int, list[float]] = {0: [], device.RETAINED_BYTES: []}
    for _ in range(3):
        for kept_bytes, times in seconds.items():
            times.append(run_process(kept_bytes))
    returning, keeping = (median(times) for times in seconds.values())
    print(f"freed memory kept instead of returned: {returning / keeping:.2f} times as fast")


def print_search_seconds(kept_bytes: int) -> None:
    """Print the seconds of a search while this process keeps so many bytes of freed memory."""
    device.RETAINED_BYTES = kept_bytes
    run = make_searches(device.setup())[CURRENT_SETTING]
    run()
    print(min(seconds_of(run) for _ in range(5)))


def main() -> None:
    """Print all comparisons."""
    compute_device = device.setup()
    images = MODELS * EXAMPLES
    batch_images = MODELS * BATCH_SIZE
    compare("search, image x step", make_searches(compute_device), ROUNDS, images * STEPS)
    chunked_searches = make_chunked_searches(compute_device)
    compare("search on a batch, image x step", chunked_searches, ROUNDS, batch_images * STEPS)
    compare("training step, image", make_training_steps(compute_device), ROUNDS, batch_images)
    compare("warp, image", make_warps(compute_device), ROUNDS, images)
    compare_freed_memory()
    print(f"on {compute_device}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_search_seconds(int(sys.argv[1]))
    else:
        main()
