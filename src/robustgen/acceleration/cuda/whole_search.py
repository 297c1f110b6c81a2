"""A whole search from given starts in one kernel on a GPU, for small models attacked by pixels.

A program takes a few images of a model through all steps, and ends when they have succeeded: images
do not wait for those of others, and nothing is started or asked for in between. What a program
holds of its images stays in the cache. Equal to `attacks.search.ascend` up to rounding;
`benchmarks/gpu.py` measures the gain.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.cuda.conv_geometry import power
from robustgen.acceleration.cuda.forward import Chain, Product
from robustgen.acceleration.cuda.search_step import (
    FusedActiveExamples,
    supports_step,
    supports_tensors,
)
from robustgen.acceleration.verification import VerifiedForward
from robustgen.attacks.search import ActiveExamples
from robustgen.attacks.search import ascend as ascend_step_by_step
from robustgen.attacks.spaces import ImageSpace
from robustgen.attacks.step_rules import AdamStep
from robustgen.models.cohort import Cohort
from robustgen.optimizers import BETA1, BETA2
from robustgen.specs import SearchConfig, Threat

IMAGES, WARPS = 2, 4
"""Images of a program, and its warps."""
REGISTERS = 128
"""Of a thread: with more, fewer programs share a multiprocessor."""
SMALL = 1 << 20
"""Weights, forth and back, of a model that is still small: a program reads all at each step."""
HIGH, BROAD, DEEP = 32, 64, 32
"""Rows and columns of a tile, and what is multiplied at once, at most."""
ALIGNED = 4
"""Numbers that are read at once."""
CHUNK = 512
"""Numbers that are moved at once."""

log = logging.getLogger("robustgen")

_compile_errors: list[str] = []
"""What a compiler that cannot make the kernel has said."""


@dataclass(frozen=True)
class Packed:
    """The layers of M models as the kernel takes them.

    Attributes:
        weights: `(M, W)` of all layers, for the way forth and back, and biases.
        layers: constants of each layer, and whether there are a bias and a ReLU.
        places: of each layer where in the room of an image its input lies; where weights forth,
            back and bias begin; whether its input had been rectified. The last says where logits
            lie, and their gradient.
        tiles: of each layer, forth and back.
        room: numbers of an image.
    """

    weights: Tensor
    layers: tuple[tuple[int, ...], ...]
    places: tuple[tuple[int, ...], ...]
    tiles: tuple[tuple[int, ...], ...]
    room: int


def ascend(
    model: Any,
    active: ActiveExamples,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
    stop_at_success: bool,
) -> None:
    """As `attacks.search.ascend`: in one kernel if it supports the search, else in fused steps."""
    forward = supported_forward(model, active, threat) if stop_at_success else None
    if forward is None or not search_in_one_kernel(forward, active, threat, search, steps_done):
        fused = FusedActiveExamples.share(active)
        ascend_step_by_step(model, fused, threat, search, steps_done, stop_at_success)


def supported_forward(model: object, active: ActiveExamples, threat: Threat) -> Chain | None:
    """The forward pass of the model if the kernel supports this search with it, else None."""
    if _compile_errors or not isinstance(model, Cohort) or type(active.space) is not ImageSpace:
        return None
    if not supports_tensors(active.codes):
        return None
    if not supports_step(active.space, active.rule, threat):
        return None
    forward = model.eval_forward()
    if isinstance(forward, VerifiedForward) and forward.is_trusted(active.codes):
        forward = forward.accelerated
    if not isinstance(forward, Chain) or forward.products[-1].rectified:
        return None
    weights = sum(layer.forth[0].numel() + layer.back[0].numel() for layer in forward.products)
    return forward if weights <= SMALL else None


def search_in_one_kernel(
    forward: Chain,
    active: ActiveExamples,
    threat: Threat,
    search: SearchConfig,
    steps_done: int,
) -> bool:
    """Search from the current codes until success, and record the best codes in `active`.

    Args:
        forward: of `supported_forward`.
        active: examples on which no step was taken.
        threat: the ball to search.
        search: step size and steps.
        steps_done: evaluations in earlier restarts.

    Returns:
        Whether the kernel could be compiled. If not, it is never tried again.
    """
    from robustgen.acceleration.cuda import whole_search_kernel as kernel

    packed = _packed(forward.products, active.codes.shape[3:])
    is_adam = isinstance(active.rule, AdamStep)
    is_flat, best = forward.products[0].flattens, active.local_best
    codes, clean_codes, best_codes = (
        tensor.contiguous() if is_flat else _last(tensor)
        for tensor in (active.codes, active.space.clean_codes, best.codes)
    )
    members, examples = active.labels.shape
    programs = -(-examples // IMAGES)
    exp_avg = exp_avg_sq = codes
    if is_adam:
        exp_avg, exp_avg_sq = active.rule.state["exp_avg"], active.rule.state["exp_avg_sq"]
    classes, numbers = forward.products[-1].how.to_channels, codes[0, 0].numel()
    arguments = (
        codes, clean_codes, exp_avg, exp_avg_sq, best_codes, active.labels,
        active.is_active.view(torch.uint8), best.loss, best.success.view(torch.uint8),
        best.step_found, packed.weights, codes.new_empty(members * programs, IMAGES * packed.room),
        _bias_corrections(search.steps, codes.device), examples, search.steps, steps_done,
        search.step_size, threat.radius, active.space.lower, active.space.upper, packed.layers,
        packed.places, packed.tiles, packed.weights.shape[1], packed.room, IMAGES, numbers,
        classes, is_adam, power(classes, 1 << 20), CHUNK,
    )  # fmt: skip
    try:
        kernel.climb[programs, members](*arguments, num_warps=WARPS, maxnreg=REGISTERS)
    except Exception as error:  # a compiler may raise anything
        log.warning("no search in one kernel here, so a step at a time and slower: %s", error)
        _compile_errors.append(str(error))
        return False
    if best_codes.data_ptr() != best.codes.data_ptr():
        best.codes.copy_(best_codes.permute(0, 1, 4, 2, 3))
    return True


def _last(images: Tensor) -> Tensor:
    """`(M, B, C, H, W)` as `(M, B, H, W, C)`, as they are to lie."""
    return images.permute(0, 1, 3, 4, 2).contiguous()


def _bias_corrections(steps: int, device: torch.device) -> Tensor:
    """The bias corrections of Adam at each step: `(steps, 2)`."""
    step_counts = torch.arange(1, steps + 1, device=device, dtype=torch.float64)
    return torch.stack([1 - BETA1**step_counts, 1 - BETA2**step_counts], 1).float()


def _packed(products: list[Product], size: Sequence[int]) -> Packed:
    """The layers, for images of a height and width."""
    layers, tiles, places, pieces = [], [], [], []
    room, start, rectified = 0, 0, False
    for product in products:
        how, size = product.how, (1, 1) if product.flattens else size
        to_size, bias = how.size(size), product.bias
        layers.append((*how.constants(size, to_size), bias is not None, product.rectified))
        tiles.append(_tiles(product, layers[-1]))
        place = [room]
        for of in (product.forth, product.back, bias):
            place.append(start)
            if of is not None:
                flat = of.view(how.groups, -1)
                pieces.append(F.pad(flat, (0, _aligned(flat.shape[1]) - flat.shape[1])))
                start += pieces[-1].shape[1]
        places.append((*place, rectified))
        room += _aligned(how.channels * size[0] * size[1])
        size, rectified = to_size, product.rectified
    logits = _aligned(products[-1].how.to_channels)
    ends = room, room + logits
    weights = torch.cat(pieces, 1)
    return Packed(weights, tuple(layers), (*places, ends), tuple(tiles), room + 2 * logits)


def _tiles(product: Product, layer: tuple[int, ...]) -> tuple[int, ...]:
    """Rows, columns and taps of a tile, forth and back."""
    height, width, to_height, to_width, *_ = layer
    down, across = product.how.blocks((height, width))
    columns, taps = product.back.shape[1:]
    return (
        power(IMAGES * to_height * to_width, HIGH),
        power(product.forth.shape[1], BROAD),
        power(product.forth.shape[2], DEEP),
        power(IMAGES * down * across, HIGH),
        power(columns, BROAD),
        power(taps, DEEP),
    )


def _aligned(numbers: int) -> int:
    return -(-numbers // ALIGNED) * ALIGNED
