"""The Triton kernel of a whole search, for `whole_search`."""

import triton
import triton.language as tl

from robustgen.acceleration.cuda.grouped_conv_kernels import forward_tile, to_input_tile
from robustgen.acceleration.cuda.search_step_kernels import copy, judged, step

# Constants of the compiled kernel:
#   LAYERS: as in `grouped_conv_kernels`, and whether a layer has a bias and a ReLU;
#   PLACES, TILES: as in `whole_search.Packed`; N: images of a program; D: numbers of an image.
# Layers are functions that are called: as parts of one, addresses of all would take registers.


@triton.jit(noinline=True)
def _forth(
    x,
    weight,
    bias,
    y,
    images,
    LAYERS: tl.constexpr,
    AT: tl.constexpr,
    TILES: tl.constexpr,
):
    """A layer of all images of a program, tile by tile."""
    rows = images * (LAYERS[AT][2] * LAYERS[AT][3])
    for first in range(0, rows, TILES[AT][0]):
        for column in range(0, LAYERS[AT][5], TILES[AT][1]):
            forward_tile(
                x, weight, bias, y, first + tl.arange(0, TILES[AT][0]), rows,
                column + tl.arange(0, TILES[AT][1]), LAYERS[AT][4], LAYERS[AT][5], LAYERS, AT,
                LAYERS[AT][13], LAYERS[AT][14], TILES[AT][2],
            )  # fmt: skip


@triton.jit(noinline=True)
def _back(
    gradient,
    weight,
    x,
    images,
    LAYERS: tl.constexpr,
    AT: tl.constexpr,
    RECTIFIED: tl.constexpr,
    TILES: tl.constexpr,
):
    """The gradient to what a layer was given, which takes the place of that."""
    high: tl.constexpr = LAYERS[AT][8] * LAYERS[AT][12]
    wide: tl.constexpr = LAYERS[AT][9] * LAYERS[AT][12]
    down: tl.constexpr = (LAYERS[AT][0] - 1 + LAYERS[AT][10]) // high + 1
    across: tl.constexpr = (LAYERS[AT][1] - 1 + LAYERS[AT][11]) // wide + 1
    rows = images * (down * across)
    for first in range(0, rows, TILES[AT][3]):
        for column in range(0, high * wide * LAYERS[AT][4], TILES[AT][4]):
            to_input_tile(
                gradient, weight, x, x, first + tl.arange(0, TILES[AT][3]), rows,
                column + tl.arange(0, TILES[AT][4]), LAYERS[AT][4], LAYERS[AT][5], LAYERS, AT,
                RECTIFIED, TILES[AT][5],
            )  # fmt: skip


@triton.jit
def _all_forth(
    codes,
    weights,
    room,
    images,
    LAYERS: tl.constexpr,
    PLACES: tl.constexpr,
    TILES: tl.constexpr,
    N: tl.constexpr,
):
    """One layer after the other, from the codes to the logits."""
    _forth(
        codes, weights + PLACES[0][1], weights + PLACES[0][3], room + N * PLACES[1][0], images,
        LAYERS, 0, TILES,
    )  # fmt: skip
    tl.debug_barrier()
    for at in tl.static_range(1, len(LAYERS)):
        _forth(
            room + N * PLACES[at][0], weights + PLACES[at][1], weights + PLACES[at][3],
            room + N * PLACES[at + 1][0], images, LAYERS, at, TILES,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _all_back(
    slopes,
    weights,
    room,
    images,
    LAYERS: tl.constexpr,
    PLACES: tl.constexpr,
    TILES: tl.constexpr,
    N: tl.constexpr,
):
    """And back, from the gradient to the logits to that to the codes."""
    end: tl.constexpr = len(LAYERS) - 1
    _back(
        slopes, weights + PLACES[end][2], room + N * PLACES[end][0], images, LAYERS, end,
        PLACES[end][4], TILES,
    )  # fmt: skip
    tl.debug_barrier()
    for before in tl.static_range(1, len(LAYERS)):
        _back(
            room + N * PLACES[end - before + 1][0], weights + PLACES[end - before][2],
            room + N * PLACES[end - before][0], images, LAYERS, end - before,
            PLACES[end - before][4], TILES,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["many", "steps", "before"])
def climb(
    codes,
    origin,
    mean,
    square,
    best_codes,
    labels,
    alive,
    best_loss,
    best_success,
    best_when,
    weights,
    room,
    shares,
    many,
    steps,
    before,
    step_size,
    radius,
    low,
    high,
    LAYERS: tl.constexpr,
    PLACES: tl.constexpr,
    TILES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    ROOM: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    ADAM: tl.constexpr,
    CLASSES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """What `whole_search.search_in_one_kernel` does, for N of the `many` images of a model."""
    member, first, i = tl.program_id(1), tl.program_id(0) * N, tl.arange(0, N)
    images = tl.minimum(many - first, N)
    known, here = i < images, member * many + first + i
    start = (member * many + first).to(tl.int64) * D
    weights += member.to(tl.int64) * WEIGHTS
    room += (member * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * (N * ROOM)
    logits = room + N * PLACES[len(LAYERS)][0]
    slopes = room + N * PLACES[len(LAYERS)][1]
    label = tl.load(labels + here, mask=known, other=0)
    lives = tl.load(alive + here, mask=known, other=0) != 0
    best = tl.load(best_loss + here, mask=known, other=0.0)
    success = tl.load(best_success + here, mask=known, other=0) != 0
    when = tl.load(best_when + here, mask=known, other=-1).to(tl.int32)
    number = i[:, None] * K + tl.arange(0, CLASSES)[None]
    is_class = (tl.arange(0, CLASSES) < K)[None]
    left, taken = tl.sum(lives.to(tl.int32), 0), 0
    while (taken <= steps) & (left > 0):
        _all_forth(codes + start, weights, room, images, LAYERS, PLACES, TILES, N)
        z = tl.load(logits + number, mask=known[:, None] & is_class, other=-float("inf"))
        z = tl.where(known[:, None], z, 0.0)
        loss, slope, wrong = judged(z, label, CLASSES)
        tl.store(slopes + number, slope, mask=is_class)
        better = ((loss > best) | wrong) & lives
        best = tl.where(better, loss, best)
        success = tl.where(better, wrong, success)
        when = tl.where(better, tl.where(wrong, before + taken, -1), when)
        lives = lives & (wrong == 0)
        left = tl.sum(lives.to(tl.int32), 0)
        if tl.sum(better.to(tl.int32), 0) > 0:
            copy(codes + start, best_codes + start, i * D, better, D, CHUNK)
        if (taken < steps) & (left > 0):
            tl.debug_barrier()
            _all_back(slopes, weights, room, images, LAYERS, PLACES, TILES, N)
            of_mean, of_square = tl.load(shares + 2 * taken), tl.load(shares + 2 * taken + 1)
            for at in range(0, images * D, CHUNK):
                step(
                    codes + start, room + N * PLACES[0][0], origin + start, codes + start,
                    mean + start, square + start, at + tl.arange(0, CHUNK), images * D, step_size,
                    radius, low, high, of_mean, of_square, ADAM,
                )  # fmt: skip
            tl.debug_barrier()
        taken += 1
    tl.store(best_loss + here, best, mask=known)
    tl.store(best_success + here, success.to(tl.uint8), mask=known)
    tl.store(best_when + here, when.to(tl.int64), mask=known)
    tl.store(alive + here, lives.to(tl.uint8), mask=known)
