"""A whole search from given starts in one kernel on a GPU, for small models and the image space.

A program takes a few images of one model through all steps and ends when they have succeeded.
Images do not wait for those of other programs, and there are no further kernel launches and no
synchronization with the CPU. The activations of a program stay in the cache. Equal to
`attacks.search.ascend` up to rounding; `benchmarks/gpu.py` measures the gain.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.cuda.conv_geometry import clamped_power_of_2
from robustgen.acceleration.cuda.forward import FusedForward, FusedLayer
from robustgen.acceleration.cuda.search_step import (
    FusedActiveExamples,
    supports_step,
    supports_tensors,
)
from robustgen.acceleration.verification import VerifiedForward
from robustgen.attacks.active_examples import ActiveExamples
from robustgen.attacks.losses import cross_entropy
from robustgen.attacks.search import ascend as ascend_step_by_step
from robustgen.attacks.spaces import ImageSpace
from robustgen.attacks.step_rules import AdamStep
from robustgen.backend import BETA1, BETA2
from robustgen.models.cohort import Cohort
from robustgen.specs import SearchConfig, Threat

IMAGES_PER_PROGRAM, NUM_WARPS = 2, 4
MAX_REGISTERS = 128
"""Registers of a thread. With more, fewer programs run on a multiprocessor at a time."""
MAX_WEIGHTS = 1 << 20
"""Packed weights, forward and backward, of the largest model: a program reads all in each step."""
MAX_BLOCK_M, MAX_BLOCK_N, MAX_BLOCK_K = 32, 64, 32
"""Largest tile of a layer, as in `grouped_conv_kernels`."""
ALIGNMENT = 4
"""Numbers that a thread reads at once: offsets are multiples of it."""
CHUNK_SIZE = 512
"""Numbers of codes that a program steps or copies at a time."""

log = logging.getLogger("robustgen")

_compile_errors: list[str] = []
"""Messages of the compiler, if it cannot compile the kernel."""


@dataclass(frozen=True)
class PackedModel:
    """The layers of M models as the kernel takes them.

    Attributes:
        weights: `(M, W)`, for each layer the forward weight, the backward weight and the bias.
        layers: of each layer `ConvGeometry.kernel_constants`, whether it has a bias, and whether a
            ReLU follows.
        offsets: of each layer the offset of its input in the workspace of an image; the offsets of
            its forward weight, backward weight and bias in `weights`; whether its input is the
            output of a ReLU. One further entry has the workspace offsets of the logits and of
            their gradient.
        tiles: of each layer the three block sizes of the forward and of the backward pass.
        workspace_size: numbers in the workspace of an image.
    """

    weights: Tensor
    layers: tuple[tuple[int, ...], ...]
    offsets: tuple[tuple[int, ...], ...]
    tiles: tuple[tuple[int, ...], ...]
    workspace_size: int


class _KernelCodes(NamedTuple):
    """Codes of the active examples, in the memory layout of the first layer."""

    current: Tensor
    clean: Tensor
    best: Tensor


def ascend(
    model: Any,
    active: ActiveExamples,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
    stop_at_success: bool,
) -> None:
    """Run a restart, as `attacks.search.ascend`, in one kernel if possible, else in fused steps."""
    forward = supported_forward(model, active, threat) if stop_at_success else None
    if forward is None or not search_in_one_kernel(forward, active, threat, search, steps_done):
        fused = FusedActiveExamples.share(active)
        ascend_step_by_step(model, fused, threat, search, steps_done, stop_at_success)


def supported_forward(model: object, active: ActiveExamples, threat: Threat) -> FusedForward | None:
    """Return the forward pass of the model if the kernel supports this search, else None."""
    if _compile_errors or not isinstance(model, Cohort) or type(active.space) is not ImageSpace:
        return None
    if active.loss_fn is not cross_entropy or not supports_tensors(active.codes):
        return None
    if not supports_step(active.space, active.rule, threat):
        return None
    forward = model.eval_forward()
    if isinstance(forward, VerifiedForward) and forward.is_trusted(active.codes):
        forward = forward.accelerated
    if not isinstance(forward, FusedForward) or forward.layers[-1].relu:
        return None
    n_weights = sum(
        layer.forward_weight[0].numel() + layer.backward_weight[0].numel()
        for layer in forward.layers
    )
    return forward if n_weights <= MAX_WEIGHTS else None


def search_in_one_kernel(
    forward: FusedForward,
    active: ActiveExamples,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
) -> bool:
    """Search from the current codes until success, and record the best codes in `active`.

    Args:
        forward: from `supported_forward`.
        active: examples for which no step was taken.
        threat: the ball to search.
        search: step size and steps.
        steps_done: evaluations in earlier restarts.

    Returns:
        Whether the kernel could be compiled and launched. If not, it is never tried again.
    """
    from robustgen.acceleration.cuda import whole_search_kernel as kernels

    best = active.local_best
    codes = _KernelCodes(
        *map(forward.to_input_layout, (active.codes, active.space.clean_codes, best.codes))
    )
    arguments = _kernel_arguments(forward, active, codes, threat, search, steps_done)
    n_models, n_examples = active.labels.shape
    grid = -(-n_examples // IMAGES_PER_PROGRAM), n_models
    try:
        kernels.search_kernel[grid](*arguments, num_warps=NUM_WARPS, maxnreg=MAX_REGISTERS)
    # Triton, its C compiler and the driver raise errors of many types. After each of them the
    # kernel has not run, and the search step by step computes the same.
    except Exception as error:
        log.warning(
            "the kernel of a whole search cannot be used, so attacks run step by step and take "
            "longer: %s",
            error,
        )
        _compile_errors.append(str(error))
        return False
    if codes.best.data_ptr() != best.codes.data_ptr():
        best.codes.copy_(codes.best.permute(0, 1, 4, 2, 3))
    return True


def _kernel_arguments(
    forward: FusedForward,
    active: ActiveExamples,
    codes: _KernelCodes,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
) -> tuple[object, ...]:
    """Return the arguments of the kernel, which writes its results to `codes.best` and `active`.

    Args:
        forward, active, threat, search, steps_done: as for `search_in_one_kernel`.
        codes: of the active examples.
    """
    packed = _pack_model(forward.layers, active.codes.shape[3:])
    is_adam = isinstance(active.rule, AdamStep)
    exp_avg = exp_avg_sq = codes.current
    if is_adam:
        exp_avg, exp_avg_sq = active.rule.state["exp_avg"], active.rule.state["exp_avg_sq"]
    best = active.local_best
    n_models, n_examples = active.labels.shape
    n_programs = n_models * -(-n_examples // IMAGES_PER_PROGRAM)
    workspace = codes.current.new_empty(n_programs, IMAGES_PER_PROGRAM * packed.workspace_size)
    n_classes, code_size = forward.layers[-1].geometry.out_channels, codes.current[0, 0].numel()
    return (
        codes.current, codes.clean, exp_avg, exp_avg_sq, codes.best, active.labels,
        active.is_active.view(torch.uint8), best.loss, best.success.view(torch.uint8),
        best.step_found, packed.weights, workspace,
        _bias_corrections(search.steps, workspace.device), n_examples, search.steps, steps_done,
        search.step_size, threat.radius, active.space.lower, active.space.upper, packed.layers,
        packed.offsets, packed.tiles, packed.weights.shape[1], packed.workspace_size,
        IMAGES_PER_PROGRAM, code_size, n_classes, is_adam, clamped_power_of_2(n_classes, 1 << 20),
        CHUNK_SIZE,
    )  # fmt: skip


def _bias_corrections(steps: int, device: torch.device) -> Tensor:
    """Return the bias corrections of Adam at each step: `(steps, 2)`."""
    step_counts = torch.arange(1, steps + 1, device=device, dtype=torch.float64)
    return torch.stack([1 - BETA1**step_counts, 1 - BETA2**step_counts], 1).float()


def _pack_model(fused_layers: Sequence[FusedLayer], size: Sequence[int]) -> PackedModel:
    """Pack the layers, for images of `size` (H, W)."""
    layers, tiles, offsets, weights = [], [], [], []
    workspace_size = n_weights = 0
    is_rectified = False
    for layer in fused_layers:
        geometry = layer.geometry
        size = (1, 1) if layer.flatten_input else size
        output_size = geometry.output_size(size)
        constants = geometry.kernel_constants(size, output_size)
        layers.append((*constants, layer.bias is not None, layer.relu))
        tiles.append(_block_sizes(layer, size, output_size))
        weight_offsets = []
        for tensor in (layer.forward_weight, layer.backward_weight, layer.bias):
            weight_offsets.append(n_weights)
            if tensor is not None:
                flat = tensor.view(geometry.groups, -1)
                weights.append(F.pad(flat, (0, _round_up(flat.shape[1]) - flat.shape[1])))
                n_weights += weights[-1].shape[1]
        offsets.append((workspace_size, *weight_offsets, is_rectified))
        workspace_size += _round_up(geometry.in_channels * size[0] * size[1])
        size, is_rectified = output_size, layer.relu
    logits_size = _round_up(fused_layers[-1].geometry.out_channels)
    offsets.append((workspace_size, workspace_size + logits_size))
    return PackedModel(
        torch.cat(weights, 1),
        tuple(layers),
        tuple(offsets),
        tuple(tiles),
        workspace_size + 2 * logits_size,
    )


def _block_sizes(
    layer: FusedLayer, size: Sequence[int], output_size: Sequence[int]
) -> tuple[int, ...]:
    """Choose BLOCK_M, BLOCK_N and BLOCK_K of the forward and backward pass of a layer."""
    height, width = output_size
    _, out_channels, forward_taps = layer.forward_weight.shape
    vertical_blocks, horizontal_blocks = layer.geometry.block_counts(size)
    _, columns, backward_taps = layer.backward_weight.shape
    return (
        clamped_power_of_2(IMAGES_PER_PROGRAM * height * width, MAX_BLOCK_M),
        clamped_power_of_2(out_channels, MAX_BLOCK_N),
        clamped_power_of_2(forward_taps, MAX_BLOCK_K),
        clamped_power_of_2(IMAGES_PER_PROGRAM * vertical_blocks * horizontal_blocks, MAX_BLOCK_M),
        clamped_power_of_2(columns, MAX_BLOCK_N),
        clamped_power_of_2(backward_taps, MAX_BLOCK_K),
    )


def _round_up(count: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-count // ALIGNMENT) * ALIGNMENT
