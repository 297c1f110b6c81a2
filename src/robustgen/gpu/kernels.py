"""Triton kernels of convolutions in groups, for `grouped`, which says what they compute.

Images are `(G, B, H, W, C)`, and come with the strides of groups and pixels: in memory groups lie
apart, or beside one another as `(B, H, W, G, C)`; the C channels of a group are last. A program
computes a tile of a product whose left matrix is gathered from images while it goes. With
TRITON_INTERPRET=1 the kernels run on a CPU, as in tests.
"""

import triton
import triton.language as tl

# Constants of a compiled kernel:
#   H, W, Y, X: height and width of the input, and of the output;
#   C, OUT: channels of a group, in and out; KH, KW: kernel; SH, SW: stride; PH, PW: padding;
#   ROWS, COLUMNS: of a program's tile; TAPS: what is multiplied at once.


@triton.jit
def _within(number, end: tl.constexpr):
    """Whether it is one of 0 to `end` - 1."""
    return number.to(tl.uint32, bitcast=True) < end


@triton.jit(do_not_specialize=["rows"])
def forward(
    x,
    weight,
    bias,
    y,
    rows,
    x_group,
    x_pixel,
    y_group,
    y_pixel,
    H: tl.constexpr,
    W: tl.constexpr,
    Y: tl.constexpr,
    X: tl.constexpr,
    C: tl.constexpr,
    OUT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BIASED: tl.constexpr,
    RECTIFIED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """y `(G, B, H', W', OUT)`, whose rows are B H' W', of x and of weight `(G, KH KW C, OUT)`."""
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    top, left = row // X % Y * SH - PH, row % X * SW - PW
    corner = group * x_group + ((row // (Y * X) * H + top) * W + left) * x_pixel
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, KH * KW * C, TAPS):
        tap = start + tl.arange(0, TAPS)
        down, right = tap // (KW * C), tap // C % KW
        inside = _within(top[:, None] + down[None], H) & _within(left[:, None] + right[None], W)
        inside = inside & (row < rows)[:, None] & (tap < KH * KW * C)[None]
        beyond = (down * W + right) * x_pixel + tap % C
        pixels = tl.load(x + corner[:, None] + beyond[None], mask=inside, other=0.0)
        known = (tap < KH * KW * C)[:, None] & (o < OUT)[None]
        weights = weight + (group * KH * KW * C + tap[:, None]) * OUT + o[None]
        ways = tl.load(weights, mask=known, other=0.0)
        total = tl.dot(pixels, ways, total, input_precision=PRECISION)
    if BIASED:
        total += tl.load(bias + group * OUT + o, mask=o < OUT, other=0.0)[None]
    if RECTIFIED:
        total = tl.maximum(total, 0.0)
    at = group * y_group + row[:, None] * y_pixel + o[None]
    tl.store(y + at, total, mask=(row < rows)[:, None] & (o < OUT)[None])


@triton.jit(do_not_specialize=["rows"])
def to_input(
    gradient,
    weight,
    kept,
    x,
    rows,
    x_group,
    x_pixel,
    y_group,
    y_pixel,
    H: tl.constexpr,
    W: tl.constexpr,
    Y: tl.constexpr,
    X: tl.constexpr,
    C: tl.constexpr,
    OUT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RECTIFIED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient to x, in blocks of SH x SW pixels, each of which sees the same outputs.

    Rows are B blocks; weight is `(G, KH/SH KW/SW OUT, SH SW C)`; if RECTIFIED, the gradient is
    nothing where `kept`, which is x as it was, is nothing.
    """
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    high: tl.constexpr = (H - 1 + PH) // SH + 1
    wide: tl.constexpr = (W - 1 + PW) // SW + 1
    image, i, j = row // (high * wide), row // wide % high, row % wide
    corner = group * y_group + ((image * Y + i) * X + j) * y_pixel
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    many: tl.constexpr = KH // SH * (KW // SW) * OUT
    for start in range(0, many, TAPS):
        tap = start + tl.arange(0, TAPS)
        up, left = tap // (KW // SW * OUT), tap // OUT % (KW // SW)
        inside = _within(i[:, None] - up[None], Y) & _within(j[:, None] - left[None], X)
        inside = inside & (row < rows)[:, None] & (tap < many)[None]
        at = corner[:, None] + (tap % OUT - (up * X + left) * y_pixel)[None]
        outputs = tl.load(gradient + at, mask=inside, other=0.0)
        known = (tap < many)[:, None] & (column < SH * SW * C)[None]
        weights = weight + (group * many + tap[:, None]) * SH * SW * C + column[None]
        ways = tl.load(weights, mask=known, other=0.0)
        total = tl.dot(outputs, ways, total, input_precision=PRECISION)
    top, left = i * SH - PH, j * SW - PW
    down, right = column // (SW * C), column // C % SW
    inside = _within(top[:, None] + down[None], H) & _within(left[:, None] + right[None], W)
    inside = inside & (row < rows)[:, None] & (column < SH * SW * C)[None]
    corner = group * x_group + ((image * H + top) * W + left) * x_pixel
    at = corner[:, None] + ((down * W + right) * x_pixel + column % C)[None]
    if RECTIFIED:
        total = tl.where(tl.load(kept + at, mask=inside, other=0.0) > 0, total, 0.0)
    tl.store(x + at, total, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def to_weight(
    gradient,
    x,
    parts,
    rows,
    groups,
    rows_of_part,
    x_group,
    x_pixel,
    y_group,
    y_pixel,
    H: tl.constexpr,
    W: tl.constexpr,
    Y: tl.constexpr,
    X: tl.constexpr,
    C: tl.constexpr,
    OUT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    TILES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradient to the weight `(G, KH KW C, OUT)`, in parts, each of some of the rows."""
    group = tl.program_id(1)
    part = tl.program_id(0) // TILES
    tap = tl.program_id(0) % TILES * TAPS + tl.arange(0, TAPS)
    o = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    down, right = tap // (KW * C), tap // C % KW
    beyond = (down * W + right) * x_pixel + tap % C
    total = tl.zeros((TAPS, COLUMNS), tl.float32)
    end = tl.minimum(rows, (part + 1) * rows_of_part)
    for start in range(part * rows_of_part, end, ROWS):
        row = start + tl.arange(0, ROWS)
        top, left = row // X % Y * SH - PH, row % X * SW - PW
        inside = _within(top[None] + down[:, None], H) & _within(left[None] + right[:, None], W)
        inside = inside & (row < end)[None] & (tap < KH * KW * C)[:, None]
        corner = group * x_group + ((row // (Y * X) * H + top) * W + left) * x_pixel
        pixels = tl.load(x + corner[None] + beyond[:, None], mask=inside, other=0.0)
        at = group * y_group + row[:, None] * y_pixel + o[None]
        known = (row < end)[:, None] & (o < OUT)[None]
        outputs = tl.load(gradient + at, mask=known, other=0.0)
        total = tl.dot(pixels, outputs, total, input_precision=PRECISION)
    at = ((part * groups + group) * KH * KW * C + tap[:, None]) * OUT + o[None]
    tl.store(parts + at, total, mask=(tap < KH * KW * C)[:, None] & (o < OUT)[None])


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
    """What `fused.look` does, an example a program: K classes, codes of D numbers."""
    row = tl.program_id(0)
    k = tl.arange(0, CLASSES)
    z = tl.load(logits + row * K + k, mask=k < K, other=-float("inf"))
    label = tl.load(labels + row)
    top = tl.max(z, 0)
    power = tl.exp(z - top)
    total = tl.sum(power, 0)
    loss = tl.log(total) - tl.sum(tl.where(k == label, z - top, 0.0), 0)
    slope = power / total - tl.where(k == label, 1.0, 0.0)
    tl.store(uphill + row * K + k, slope, mask=k < K)
    wrong = tl.min(tl.where(z == top, k, CLASSES), 0) != label  # the first of the highest
    better = loss > tl.load(best_loss + row)
    if STOP:
        better = better | wrong
    lives = tl.load(alive + row) != 0
    better = better & lives
    tl.store(best_loss + row, loss, mask=better)
    tl.store(best_success + row, wrong.to(tl.uint8), mask=better)
    tl.store(best_when + row, tl.where(wrong, when, -1).to(tl.int64), mask=better)
    if STOP:
        tl.store(alive + row, tl.where(wrong, 0, lives.to(tl.uint8)))
    end = tl.where(better, D, 0)
    for start in range(0, D, CHUNK):
        at = start + tl.arange(0, CHUNK)
        known = at < end
        here = row.to(tl.int64) * D + at
        tl.store(best_codes + here, tl.load(codes + here, mask=known), mask=known)


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
    """What `fused.move` does, for `many` numbers."""
    at = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
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
