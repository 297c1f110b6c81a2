"""Triton kernels of grouped convolutions; `grouped_conv` describes what they compute.

Images are `(G, B, H, W, C)` and are passed with their strides between groups and between pixels. In
memory the groups are one after another, or interleaved as `(B, H, W, G, C)`; the C channels of a
group are adjacent. A convolution is a matrix product whose left matrix is gathered from the images:
a row for each output pixel, a column for each tap, which is a kernel row, kernel column and
channel. A program computes one tile of the product. With TRITON_INTERPRET=1 the kernels run on a
CPU, as in tests.
"""

import triton
import triton.language as tl

# Compile-time constants of the kernels:
#   LAYERS: tuples of `ConvGeometry.kernel_constants`; LAYER is the index of the computed one.
#   BLOCK_M, BLOCK_N, BLOCK_K: rows and columns of a tile, and taps that are multiplied at a time.
# Positions in a tuple of layer constants; heights are vertical, widths horizontal:
HEIGHT = tl.constexpr(0)
WIDTH = tl.constexpr(1)
OUT_HEIGHT = tl.constexpr(2)
OUT_WIDTH = tl.constexpr(3)
IN_CHANNELS = tl.constexpr(4)
OUT_CHANNELS = tl.constexpr(5)
KERNEL_HEIGHT = tl.constexpr(6)
KERNEL_WIDTH = tl.constexpr(7)
STRIDE_Y = tl.constexpr(8)
STRIDE_X = tl.constexpr(9)
PADDING_Y = tl.constexpr(10)
PADDING_X = tl.constexpr(11)
BLOCK = tl.constexpr(12)  # strides on a side of a block of pixels, see `input_grad_tile`


@triton.jit
def _in_range(number, END: tl.constexpr):
    """Whether 0 <= number < END."""
    return number.to(tl.uint32, bitcast=True) < END


@triton.jit
def _is_inside(row, col, LAYERS: tl.constexpr, LAYER: tl.constexpr):
    """Whether an image of the layer's input has a pixel in this row and column."""
    return _in_range(row, LAYERS[LAYER][HEIGHT]) & _in_range(col, LAYERS[LAYER][WIDTH])


@triton.jit
def _row_and_col(index, COLS: tl.constexpr, CHANNELS: tl.constexpr):
    """Row and column of an index into an array `(rows, COLS, CHANNELS)`."""
    return index // (COLS * CHANNELS), index // CHANNELS % COLS


@triton.jit
def _window_corner(pixel, LAYERS: tl.constexpr, LAYER: tl.constexpr):
    """Row and column of the first input pixel on which an output pixel depends."""
    OUT_W: tl.constexpr = LAYERS[LAYER][OUT_WIDTH]
    out_row, out_col = pixel // OUT_W % LAYERS[LAYER][OUT_HEIGHT], pixel % OUT_W
    row = out_row * LAYERS[LAYER][STRIDE_Y] - LAYERS[LAYER][PADDING_Y]
    col = out_col * LAYERS[LAYER][STRIDE_X] - LAYERS[LAYER][PADDING_X]
    return row, col


@triton.jit
def _truncate_tf32(number):
    """Round to the eleven significant bits that tensor cores multiply without rounding."""
    return (number.to(tl.uint32, bitcast=True) & 0xFFFFE000).to(tl.float32, bitcast=True)


@triton.jit
def _dot_3xtf32(a, b):
    """Return a matrix product about as exact as in single precision, from three of tensor cores.

    Triton's own "tf32x3" does the same in twice the time, because it also handles infinities. Sums
    over several tiles must be taken by the caller: tensor cores round theirs towards 0.
    """
    a_high, b_high = _truncate_tf32(a), _truncate_tf32(b)
    product = tl.dot(a_high, b - b_high, input_precision="tf32")
    product = tl.dot(a - a_high, b_high, product, input_precision="tf32")
    return tl.dot(a_high, b_high, product, input_precision="tf32")


@triton.jit
def forward_tile(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    pixel,
    n_pixels,
    out_channel,
    x_stride,
    y_stride,
    LAYERS: tl.constexpr,
    LAYER: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Channels `out_channel` of the output pixels `pixel`, in one group.

    The weight is `(O, KH KW C)`; `x_stride` and `y_stride` are those between pixels.
    """
    W: tl.constexpr = LAYERS[LAYER][WIDTH]
    C: tl.constexpr = LAYERS[LAYER][IN_CHANNELS]
    OUT_C: tl.constexpr = LAYERS[LAYER][OUT_CHANNELS]
    KW: tl.constexpr = LAYERS[LAYER][KERNEL_WIDTH]
    TAPS: tl.constexpr = LAYERS[LAYER][KERNEL_HEIGHT] * KW * C
    OUT_PIXELS: tl.constexpr = LAYERS[LAYER][OUT_HEIGHT] * LAYERS[LAYER][OUT_WIDTH]
    row, col = _window_corner(pixel, LAYERS, LAYER)
    corner = ((pixel // OUT_PIXELS * LAYERS[LAYER][HEIGHT] + row) * W + col) * x_stride
    total = tl.zeros((pixel.shape[0], out_channel.shape[0]), tl.float32)
    for start in range(0, TAPS, BLOCK_K):
        tap = start + tl.arange(0, BLOCK_K)
        kernel_row, kernel_col = _row_and_col(tap, KW, C)
        mask = _is_inside(
            row[:, None] + kernel_row[None], col[:, None] + kernel_col[None], LAYERS, LAYER
        )
        mask = mask & (pixel < n_pixels)[:, None] & (tap < TAPS)[None]
        tap_offset = (kernel_row * W + kernel_col) * x_stride + tap % C
        x = tl.load(x_ptr + corner[:, None] + tap_offset[None], mask=mask, other=0.0)
        weight_mask = (tap < TAPS)[:, None] & (out_channel < OUT_C)[None]
        weight_ptrs = weight_ptr + out_channel[None] * TAPS + tap[:, None]
        weight = tl.load(weight_ptrs, mask=weight_mask, other=0.0)
        total += _dot_3xtf32(x, weight)
    if HAS_BIAS:
        total += tl.load(bias_ptr + out_channel, mask=out_channel < OUT_C, other=0.0)[None]
    if RELU:
        total = tl.maximum(total, 0.0)
    offsets = pixel[:, None] * y_stride + out_channel[None]
    tl.store(y_ptr + offsets, total, mask=(pixel < n_pixels)[:, None] & (out_channel < OUT_C)[None])


@triton.jit(do_not_specialize=["n_pixels"])
def forward_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    n_pixels,
    x_group_stride,
    x_stride,
    y_group_stride,
    y_stride,
    LAYERS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute the output `(G, B, H', W', O)` of a convolution with a weight `(G, O, KH KW C)`.

    The product has a row for each of the `n_pixels` = B H' W' output pixels of a group.
    """
    group = tl.program_id(1)
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    out_channel = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    x_ptr += group * x_group_stride
    y_ptr += group * y_group_stride
    weight_ptr += group * (
        LAYERS[0][KERNEL_HEIGHT]
        * LAYERS[0][KERNEL_WIDTH]
        * LAYERS[0][IN_CHANNELS]
        * LAYERS[0][OUT_CHANNELS]
    )
    if HAS_BIAS:
        bias_ptr += group * LAYERS[0][OUT_CHANNELS]
    forward_tile(
        x_ptr, weight_ptr, bias_ptr, y_ptr, pixel, n_pixels, out_channel, x_stride, y_stride,
        LAYERS, 0, HAS_BIAS, RELU, BLOCK_K,
    )  # fmt: skip


@triton.jit
def input_grad_tile(
    y_grad_ptr,
    weight_ptr,
    relu_output_ptr,
    x_grad_ptr,
    block,
    n_blocks,
    column,
    x_stride,
    y_stride,
    LAYERS: tl.constexpr,
    LAYER: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute the gradient at numbers `column` of the blocks `block` of input pixels, in one group.

    A block has BLOCK SH x BLOCK SW pixels, on which UP x LEFT outputs depend. The weight is
    `(BLOCK SH BLOCK SW C, UP LEFT O)`. With RELU, the input is the output of a ReLU, and the
    gradient is 0 where that is 0.
    """
    H: tl.constexpr = LAYERS[LAYER][HEIGHT]
    W: tl.constexpr = LAYERS[LAYER][WIDTH]
    OUT_H: tl.constexpr = LAYERS[LAYER][OUT_HEIGHT]
    OUT_W: tl.constexpr = LAYERS[LAYER][OUT_WIDTH]
    C: tl.constexpr = LAYERS[LAYER][IN_CHANNELS]
    OUT_C: tl.constexpr = LAYERS[LAYER][OUT_CHANNELS]
    SIDE: tl.constexpr = LAYERS[LAYER][BLOCK]
    BLOCK_H: tl.constexpr = LAYERS[LAYER][STRIDE_Y] * SIDE
    BLOCK_W: tl.constexpr = LAYERS[LAYER][STRIDE_X] * SIDE
    PH: tl.constexpr = LAYERS[LAYER][PADDING_Y]
    PW: tl.constexpr = LAYERS[LAYER][PADDING_X]
    UP: tl.constexpr = LAYERS[LAYER][KERNEL_HEIGHT] // LAYERS[LAYER][STRIDE_Y] + SIDE - 1
    LEFT: tl.constexpr = LAYERS[LAYER][KERNEL_WIDTH] // LAYERS[LAYER][STRIDE_X] + SIDE - 1
    TAPS: tl.constexpr = UP * LEFT * OUT_C
    BLOCK_ROWS: tl.constexpr = (H - 1 + PH) // BLOCK_H + 1
    BLOCK_COLS: tl.constexpr = (W - 1 + PW) // BLOCK_W + 1
    image = block // (BLOCK_ROWS * BLOCK_COLS)
    block_row, block_col = block // BLOCK_COLS % BLOCK_ROWS, block % BLOCK_COLS
    # The last output, at the bottom right, that depends on a pixel of the block.
    last_row, last_col = block_row * SIDE + SIDE - 1, block_col * SIDE + SIDE - 1
    last_output = ((image * OUT_H + last_row) * OUT_W + last_col) * y_stride
    total = tl.zeros((block.shape[0], column.shape[0]), tl.float32)
    for start in range(0, TAPS, BLOCK_K):
        tap = start + tl.arange(0, BLOCK_K)
        rows_up, cols_left = _row_and_col(tap, LEFT, OUT_C)
        mask = _in_range(last_row[:, None] - rows_up[None], OUT_H) & _in_range(
            last_col[:, None] - cols_left[None], OUT_W
        )
        mask = mask & (block < n_blocks)[:, None] & (tap < TAPS)[None]
        tap_offset = tap % OUT_C - (rows_up * OUT_W + cols_left) * y_stride
        y_grad = tl.load(
            y_grad_ptr + (last_output[:, None] + tap_offset[None]), mask=mask, other=0.0
        )
        weight_mask = (tap < TAPS)[:, None] & (column < BLOCK_H * BLOCK_W * C)[None]
        weight_ptrs = weight_ptr + column[None] * TAPS + tap[:, None]
        weight = tl.load(weight_ptrs, mask=weight_mask, other=0.0)
        total += _dot_3xtf32(y_grad, weight)
    row, col = block_row * BLOCK_H - PH, block_col * BLOCK_W - PW
    row_in_block, col_in_block = _row_and_col(column, BLOCK_W, C)
    mask = _is_inside(
        row[:, None] + row_in_block[None], col[:, None] + col_in_block[None], LAYERS, LAYER
    )
    mask = mask & (block < n_blocks)[:, None] & (column < BLOCK_H * BLOCK_W * C)[None]
    corner = ((image * H + row) * W + col) * x_stride
    column_offset = (row_in_block * W + col_in_block) * x_stride + column % C
    offsets = corner[:, None] + column_offset[None]
    if RELU:
        is_positive = tl.load(relu_output_ptr + offsets, mask=mask, other=0.0) > 0
        total = tl.where(is_positive, total, 0.0)
    tl.store(x_grad_ptr + offsets, total, mask=mask)


@triton.jit(do_not_specialize=["n_blocks"])
def input_grad_kernel(
    y_grad_ptr,
    weight_ptr,
    relu_output_ptr,
    x_grad_ptr,
    n_blocks,
    weights_per_group,
    x_group_stride,
    x_stride,
    y_group_stride,
    y_stride,
    LAYERS: tl.constexpr,
    RELU: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute the gradient with respect to x, in `n_blocks` blocks of pixels of each group."""
    group = tl.program_id(1)
    block = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    y_grad_ptr += group * y_group_stride
    x_grad_ptr += group * x_group_stride
    if RELU:
        relu_output_ptr += group * x_group_stride
    weight_ptr += group * weights_per_group
    input_grad_tile(
        y_grad_ptr, weight_ptr, relu_output_ptr, x_grad_ptr, block, n_blocks, column, x_stride,
        y_stride, LAYERS, 0, RELU, BLOCK_K,
    )  # fmt: skip


@triton.jit(do_not_specialize=["n_pixels"])
def weight_grad_kernel(
    y_grad_ptr,
    x_ptr,
    parts_ptr,
    n_pixels,
    groups,
    pixels_per_part,
    x_group_stride,
    x_stride,
    y_group_stride,
    y_stride,
    LAYERS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES: tl.constexpr,
):
    """Compute the weight gradient, in parts `(parts, G, O, C, KH, KW)` that are to be summed.

    Each part is the sum over `pixels_per_part` of the `n_pixels` output pixels, of which BLOCK_M
    are multiplied at a time. A program computes a tile `(BLOCK_K taps, BLOCK_N output channels)`
    of a part; the taps of a group take TILES tiles.
    """
    W: tl.constexpr = LAYERS[0][WIDTH]
    C: tl.constexpr = LAYERS[0][IN_CHANNELS]
    OUT_C: tl.constexpr = LAYERS[0][OUT_CHANNELS]
    KW: tl.constexpr = LAYERS[0][KERNEL_WIDTH]
    TAPS: tl.constexpr = LAYERS[0][KERNEL_HEIGHT] * KW * C
    OUT_PIXELS: tl.constexpr = LAYERS[0][OUT_HEIGHT] * LAYERS[0][OUT_WIDTH]
    group = tl.program_id(1)
    part = tl.program_id(0) // TILES
    tap = tl.program_id(0) % TILES * BLOCK_K + tl.arange(0, BLOCK_K)
    out_channel = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    kernel_row, kernel_col = _row_and_col(tap, KW, C)
    tap_offset = (kernel_row * W + kernel_col) * x_stride + tap % C
    total = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    end = tl.minimum(n_pixels, (part + 1) * pixels_per_part)
    for start in range(part * pixels_per_part, end, BLOCK_M):
        pixel = start + tl.arange(0, BLOCK_M)
        row, col = _window_corner(pixel, LAYERS, 0)
        mask = _is_inside(
            row[None] + kernel_row[:, None], col[None] + kernel_col[:, None], LAYERS, 0
        )
        mask = mask & (pixel < end)[None] & (tap < TAPS)[:, None]
        pixel_number = (pixel // OUT_PIXELS * LAYERS[0][HEIGHT] + row) * W + col
        corner = group * x_group_stride + pixel_number * x_stride
        x = tl.load(x_ptr + corner[None] + tap_offset[:, None], mask=mask, other=0.0)
        y_offsets = group * y_group_stride + pixel[:, None] * y_stride + out_channel[None]
        y_mask = (pixel < end)[:, None] & (out_channel < OUT_C)[None]
        y_grad = tl.load(y_grad_ptr + y_offsets, mask=y_mask, other=0.0)
        total += _dot_3xtf32(x, y_grad)
    torch_tap = tap % C * (TAPS // C) + tap // C  # PyTorch's weights have the channel first
    offsets = ((part * groups + group) * OUT_C + out_channel[None]) * TAPS + torch_tap[:, None]
    tl.store(parts_ptr + offsets, total, mask=(tap < TAPS)[:, None] & (out_channel < OUT_C)[None])
