"""Triton kernels of grouped convolutions; `grouped_conv` describes what they compute.

Images are `(G, B, H, W, C)`, and come with the strides of groups and pixels: in memory groups lie
apart, or beside one another as `(B, H, W, G, C)`; the C channels of a group are last. A tile is
part of a product whose left matrix is gathered from images while it goes. With TRITON_INTERPRET=1
the kernels run on a CPU, as in tests.
"""

import triton
import triton.language as tl

# Constants of a compiled kernel:
#   LAYERS: `How.constants` of layers, of which number AT is computed. In them are
#     H, W, Y, X: height and width of the input, and of the output;
#     C, OUT: channels of a group, in and out; KH, KW: kernel; SH, SW: stride; PH, PW: padding;
#     BLOCK: strides of a block of pixels on a side, see `to_input_tile`;
#   ROWS, COLUMNS: of a tile; TAPS: what is multiplied at once.


@triton.jit
def _within(number, end: tl.constexpr):
    """Whether it is one of 0 to `end` - 1."""
    return number.to(tl.uint32, bitcast=True) < end


@triton.jit
def _coarse(number):
    """Its first eleven binary digits, which tensor cores multiply as they are."""
    return (number.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)


@triton.jit
def _product(left, right):
    """A product about as exact as that of single precision, in three of tensor cores.

    Triton's own "tf32x3" does the same in twice the time, for it also looks for infinities. Sums
    over more than a tile are to be taken outside: tensor cores round theirs towards 0.
    """
    of_left, of_right = _coarse(left), _coarse(right)
    part = tl.dot(of_left, right - of_right, input_precision="tf32")
    part = tl.dot(left - of_left, of_right, part, input_precision="tf32")
    return tl.dot(of_left, of_right, part, input_precision="tf32")


@triton.jit
def forward_tile(
    x,
    weight,
    bias,
    y,
    row,
    rows,
    o,
    x_pixel,
    y_pixel,
    LAYERS: tl.constexpr,
    AT: tl.constexpr,
    BIASED: tl.constexpr,
    RECTIFIED: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Outputs `o` of pixels `row` of y, of a group whose weight is `(OUT, KH KW C)`."""
    H: tl.constexpr = LAYERS[AT][0]
    W: tl.constexpr = LAYERS[AT][1]
    Y: tl.constexpr = LAYERS[AT][2]
    X: tl.constexpr = LAYERS[AT][3]
    C: tl.constexpr = LAYERS[AT][4]
    OUT: tl.constexpr = LAYERS[AT][5]
    KW: tl.constexpr = LAYERS[AT][7]
    many: tl.constexpr = LAYERS[AT][6] * KW * C
    top = row // X % Y * LAYERS[AT][8] - LAYERS[AT][10]
    left = row % X * LAYERS[AT][9] - LAYERS[AT][11]
    corner = ((row // (Y * X) * H + top) * W + left) * x_pixel
    total = tl.zeros((row.shape[0], o.shape[0]), tl.float32)
    for start in range(0, many, TAPS):
        tap = start + tl.arange(0, TAPS)
        down, right = tap // (KW * C), tap // C % KW
        inside = _within(top[:, None] + down[None], H) & _within(left[:, None] + right[None], W)
        inside = inside & (row < rows)[:, None] & (tap < many)[None]
        beyond = (down * W + right) * x_pixel + tap % C
        pixels = tl.load(x + corner[:, None] + beyond[None], mask=inside, other=0.0)
        known = (tap < many)[:, None] & (o < OUT)[None]
        ways = tl.load(weight + o[None] * many + tap[:, None], mask=known, other=0.0)
        total += _product(pixels, ways)
    if BIASED:
        total += tl.load(bias + o, mask=o < OUT, other=0.0)[None]
    if RECTIFIED:
        total = tl.maximum(total, 0.0)
    at = row[:, None] * y_pixel + o[None]
    tl.store(y + at, total, mask=(row < rows)[:, None] & (o < OUT)[None])


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
    LAYERS: tl.constexpr,
    BIASED: tl.constexpr,
    RECTIFIED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """y `(G, B, H', W', OUT)`, whose rows are B H' W', of x and of weight `(G, OUT, KH KW C)`."""
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    x += group * x_group
    y += group * y_group
    weight += group * (LAYERS[0][6] * LAYERS[0][7] * LAYERS[0][4] * LAYERS[0][5])
    if BIASED:
        bias += group * LAYERS[0][5]
    forward_tile(
        x, weight, bias, y, row, rows, o, x_pixel, y_pixel, LAYERS, 0, BIASED, RECTIFIED, TAPS,
    )  # fmt: skip


@triton.jit
def to_input_tile(
    gradient,
    weight,
    kept,
    x,
    row,
    rows,
    column,
    x_pixel,
    y_pixel,
    LAYERS: tl.constexpr,
    AT: tl.constexpr,
    RECTIFIED: tl.constexpr,
    TAPS: tl.constexpr,
):
    """The gradient to blocks `row` of x, and of these to numbers `column`, in a group.

    Blocks are of BLOCK SH x BLOCK SW pixels, which see UP x ACROSS outputs; weight is
    `(BLOCK SH BLOCK SW C, UP ACROSS OUT)`; if RECTIFIED, the gradient is nothing where `kept`,
    which is x as it was, is nothing.
    """
    H: tl.constexpr = LAYERS[AT][0]
    W: tl.constexpr = LAYERS[AT][1]
    Y: tl.constexpr = LAYERS[AT][2]
    X: tl.constexpr = LAYERS[AT][3]
    C: tl.constexpr = LAYERS[AT][4]
    OUT: tl.constexpr = LAYERS[AT][5]
    BLOCK: tl.constexpr = LAYERS[AT][12]
    SH: tl.constexpr = LAYERS[AT][8] * BLOCK
    SW: tl.constexpr = LAYERS[AT][9] * BLOCK
    PH: tl.constexpr = LAYERS[AT][10]
    PW: tl.constexpr = LAYERS[AT][11]
    ACROSS: tl.constexpr = LAYERS[AT][7] // LAYERS[AT][9] + BLOCK - 1
    many: tl.constexpr = (LAYERS[AT][6] // LAYERS[AT][8] + BLOCK - 1) * ACROSS * OUT
    high: tl.constexpr = (H - 1 + PH) // SH + 1
    wide: tl.constexpr = (W - 1 + PW) // SW + 1
    image, i, j = row // (high * wide), row // wide % high, row % wide
    last, end = i * BLOCK + BLOCK - 1, j * BLOCK + BLOCK - 1
    corner = ((image * Y + last) * X + end) * y_pixel
    total = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, many, TAPS):
        tap = start + tl.arange(0, TAPS)
        up, left = tap // (ACROSS * OUT), tap // OUT % ACROSS
        inside = _within(last[:, None] - up[None], Y) & _within(end[:, None] - left[None], X)
        inside = inside & (row < rows)[:, None] & (tap < many)[None]
        at = corner[:, None] + (tap % OUT - (up * X + left) * y_pixel)[None]
        outputs = tl.load(gradient + at, mask=inside, other=0.0)
        known = (tap < many)[:, None] & (column < SH * SW * C)[None]
        weights = weight + column[None] * many + tap[:, None]
        ways = tl.load(weights, mask=known, other=0.0)
        total += _product(outputs, ways)
    top, left = i * SH - PH, j * SW - PW
    down, right = column // (SW * C), column // C % SW
    inside = _within(top[:, None] + down[None], H) & _within(left[:, None] + right[None], W)
    inside = inside & (row < rows)[:, None] & (column < SH * SW * C)[None]
    corner = ((image * H + top) * W + left) * x_pixel
    at = corner[:, None] + ((down * W + right) * x_pixel + column % C)[None]
    if RECTIFIED:
        total = tl.where(tl.load(kept + at, mask=inside, other=0.0) > 0, total, 0.0)
    tl.store(x + at, total, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def to_input(
    gradient,
    weight,
    kept,
    x,
    rows,
    weights,
    x_group,
    x_pixel,
    y_group,
    y_pixel,
    LAYERS: tl.constexpr,
    RECTIFIED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """The gradient to x, whose rows are B blocks, of the weights of groups one after another."""
    group = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    gradient += group * y_group
    x += group * x_group
    if RECTIFIED:
        kept += group * x_group
    weight += group * weights
    to_input_tile(
        gradient, weight, kept, x, row, rows, column, x_pixel, y_pixel, LAYERS, 0, RECTIFIED, TAPS,
    )  # fmt: skip


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
    LAYERS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    TILES: tl.constexpr,
):
    """The gradient to the weight `(G, OUT, C, KH, KW)`, in parts, each of some of the rows."""
    H: tl.constexpr = LAYERS[0][0]
    W: tl.constexpr = LAYERS[0][1]
    Y: tl.constexpr = LAYERS[0][2]
    X: tl.constexpr = LAYERS[0][3]
    C: tl.constexpr = LAYERS[0][4]
    OUT: tl.constexpr = LAYERS[0][5]
    KW: tl.constexpr = LAYERS[0][7]
    many: tl.constexpr = LAYERS[0][6] * KW * C
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
        top = row // X % Y * LAYERS[0][8] - LAYERS[0][10]
        left = row % X * LAYERS[0][9] - LAYERS[0][11]
        inside = _within(top[None] + down[:, None], H) & _within(left[None] + right[:, None], W)
        inside = inside & (row < end)[None] & (tap < many)[:, None]
        corner = group * x_group + ((row // (Y * X) * H + top) * W + left) * x_pixel
        pixels = tl.load(x + corner[None] + beyond[:, None], mask=inside, other=0.0)
        at = group * y_group + row[:, None] * y_pixel + o[None]
        known = (row < end)[:, None] & (o < OUT)[None]
        outputs = tl.load(gradient + at, mask=known, other=0.0)
        total += _product(pixels, outputs)
    weight = tap % C * (many // C) + tap // C  # in the order of PyTorch's own weights
    at = ((part * groups + group) * OUT + o[None]) * many + weight[:, None]
    tl.store(parts + at, total, mask=(tap < many)[:, None] & (o < OUT)[None])
