"""Triton kernels of a search between two forward passes, for `search_step`."""

import triton
import triton.language as tl


@triton.jit
def judged(z, label, CLASSES: tl.constexpr):
    """Of logits `(N, CLASSES)`: losses, their gradients to the logits, and which are wrong."""
    k = tl.arange(0, CLASSES)[None]
    top = tl.max(z, 1)[:, None]
    power = tl.exp(z - top)
    total = tl.sum(power, 1)
    is_label = k == label[:, None]
    loss = tl.log(total) - tl.sum(tl.where(is_label, z - top, 0.0), 1)
    slope = power / total[:, None] - tl.where(is_label, 1.0, 0.0)
    wrong = tl.min(tl.where(z == top, k, CLASSES), 1) != label  # the first of the highest
    return loss, slope, wrong


@triton.jit(do_not_specialize=["when"])
def look(
    logits,
    labels,
    codes,
    alive,
    best_codes,
    best_loss,
    best_success,
    best_when,
    uphill,
    when,
    K: tl.constexpr,
    D: tl.constexpr,
    STOP: tl.constexpr,
    CLASSES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """`FusedActiveExamples.update_best` of one example: K classes, codes of D numbers."""
    row = tl.program_id(0) + tl.arange(0, 1)
    at = row[:, None] * K + tl.arange(0, CLASSES)[None]
    known = (tl.arange(0, CLASSES) < K)[None]
    z = tl.load(logits + at, mask=known, other=-float("inf"))
    loss, slope, wrong = judged(z, tl.load(labels + row), CLASSES)
    tl.store(uphill + at, slope, mask=known)
    lives = tl.load(alive + row) != 0
    better = loss > tl.load(best_loss + row)
    if STOP:
        better = better | wrong
        tl.store(alive + row, (lives & (wrong == 0)).to(tl.uint8))
    better = better & lives
    tl.store(best_loss + row, loss, mask=better)
    tl.store(best_success + row, wrong.to(tl.uint8), mask=better)
    tl.store(best_when + row, tl.where(wrong, when, -1).to(tl.int64), mask=better)
    copy(codes, best_codes, row.to(tl.int64) * D, better, D, CHUNK)


@triton.jit
def copy(codes, best_codes, first, better, D: tl.constexpr, CHUNK: tl.constexpr):
    """Codes of D numbers that begin at `first`, where they are better."""
    for start in range(0, D, CHUNK):
        number = start + tl.arange(0, CHUNK)
        at, known = first[:, None] + number[None], better[:, None] & (number < D)[None]
        tl.store(best_codes + at, tl.load(codes + at, mask=known), mask=known)


@triton.jit
def step(
    codes,
    gradient,
    origin,
    moved,
    mean,
    square,
    at,
    many,
    step_size,
    radius,
    low,
    high,
    of_mean,
    of_square,
    ADAM: tl.constexpr,
):
    """Numbers `at` of the codes, of `many`, one step further."""
    known = at < many
    uphill = tl.load(gradient + at, mask=known)
    if ADAM:
        first = tl.load(mean + at, mask=known)
        first += (uphill - first) * 0.1
        second = tl.load(square + at, mask=known) * 0.999 + uphill * uphill * 0.001
        tl.store(mean + at, first, mask=known)
        tl.store(square + at, second, mask=known)
        step = first / of_mean / (tl.sqrt(second / of_square) + 1e-8)
    else:
        step = tl.where(uphill > 0, 1.0, tl.where(uphill < 0, -1.0, 0.0))
    start = tl.load(origin + at, mask=known)
    away = tl.load(codes + at, mask=known) + step_size * step - start
    away = tl.minimum(tl.maximum(away, -radius), radius)
    tl.store(moved + at, tl.minimum(tl.maximum(start + away, low), high), mask=known)


@triton.jit
def move(
    codes,
    gradient,
    origin,
    moved,
    mean,
    square,
    many,
    step_size,
    radius,
    low,
    high,
    of_mean,
    of_square,
    ADAM: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """`FusedActiveExamples.step` of `many` numbers."""
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    step(
        codes, gradient, origin, moved, mean, square, at, many, step_size, radius, low, high,
        of_mean, of_square, ADAM,
    )  # fmt: skip
