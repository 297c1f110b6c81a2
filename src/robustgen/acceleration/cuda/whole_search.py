"""A whole search from given starts in one kernel on a GPU, for small models attacked by pixels.

A program takes a few images of a model through all steps, and ends when they have succeeded: images
do not wait for those of others, and nothing is started or asked for in between. What a program
holds of its images stays in the cache. Equal to the steps of `front` one by one up to rounding;
`benchmarks/gpu.py` measures the gain.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.cuda import search_step as fused
from robustgen.acceleration.cuda.conv_geometry import power
from robustgen.acceleration.cuda.forward import Chain, Product
from robustgen.attacks.active_examples import Front
from robustgen.attacks.spaces import ImageSpace, Threat
from robustgen.attacks.step_rules import Adam
from robustgen.models.cohort import Cohort

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

_refused: list[str] = []
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


def chain_of(model: object, front: Front, threat: Threat) -> Chain | None:
    """The pass of the model if the kernel can do this search by it."""
    if _refused or not isinstance(model, Cohort) or type(front.space) is not ImageSpace:
        return None
    if not (fused.applies(front.codes) and fused.moves(front.space, front.rule, threat)):
        return None
    chain = model.frozen()
    if not isinstance(chain, Chain) or chain.products[-1].rectified:
        return None
    weights = sum(of.forth[0].numel() + of.back[0].numel() for of in chain.products)
    return chain if weights <= SMALL else None


def climb(
    chain: Chain, front: Front, threat: Threat, steps: int, step_size: float, before: int
) -> bool:
    """Search from the codes of `front` until success; what is found is there.

    Args:
        chain: of `chain_of`.
        front: `(M, B)` images, on which no step was taken.
        threat: the ball to search.
        steps: iterations.
        step_size: length of a step.
        before: steps of other restarts.

    Returns:
        Whether it was done: it is not where the kernel cannot be compiled, and then never again.
    """
    from robustgen.acceleration.cuda import whole_search_kernel as climb_kernel

    packed, adam = _packed(chain.products, front.codes.shape[3:]), isinstance(front.rule, Adam)
    flat = chain.products[0].flattens
    held = front.codes, front.space.origin, front.found.codes
    codes, origin, best = (of.contiguous() if flat else _last(of) for of in held)
    members, many = front.labels.shape
    programs = -(-many // IMAGES)
    mean, square = (front.rule.state[of] for of in ("mean", "square")) if adam else (codes, codes)
    classes, numbers = chain.products[-1].how.to_channels, codes[0, 0].numel()
    given = (
        codes, origin, mean, square, best, front.labels, front.alive.view(torch.uint8),
        front.found.loss, front.found.success.view(torch.uint8), front.found.when, packed.weights,
        codes.new_empty(members * programs, IMAGES * packed.room), _shares(steps, codes.device),
        many, steps, before, step_size, threat.radius, front.space.low, front.space.high,
        packed.layers, packed.places, packed.tiles, packed.weights.shape[1], packed.room, IMAGES,
        numbers, classes, adam, power(classes, 1 << 20), CHUNK,
    )  # fmt: skip
    try:
        climb_kernel.climb[programs, members](*given, num_warps=WARPS, maxnreg=REGISTERS)
    except Exception as error:  # whatever a compiler says
        log.warning("no search in one kernel here, so a step at a time and slower: %s", error)
        _refused.append(str(error))
        return False
    if best.data_ptr() != front.found.codes.data_ptr():
        front.found.codes.copy_(best.permute(0, 1, 4, 2, 3))
    return True


def _last(images: Tensor) -> Tensor:
    """`(M, B, C, H, W)` as `(M, B, H, W, C)`, as they are to lie."""
    return images.permute(0, 1, 3, 4, 2).contiguous()


def _shares(steps: int, device: torch.device) -> Tensor:
    """Of each step, by what mean and mean square are too small in Adam: `(steps, 2)`."""
    taken = torch.arange(1, steps + 1, device=device, dtype=torch.float64)
    return torch.stack([1 - 0.9**taken, 1 - 0.999**taken], 1).float()


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
