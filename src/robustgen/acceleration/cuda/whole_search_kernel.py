"""The Triton kernel of a whole search, for `whole_search`."""

import triton
import triton.language as tl

from robustgen.acceleration.cuda.grouped_conv_kernels import (
    BLOCK,
    HEIGHT,
    IN_CHANNELS,
    OUT_CHANNELS,
    OUT_HEIGHT,
    OUT_WIDTH,
    PADDING_X,
    PADDING_Y,
    STRIDE_X,
    STRIDE_Y,
    WIDTH,
    forward_tile,
    input_grad_tile,
)
from robustgen.acceleration.cuda.search_step_kernels import (
    cross_entropy_and_grad,
    store_codes_where,
    take_step,
)

# Compile-time constants of the kernel:
#   LAYERS, OFFSETS, TILES: as in `whole_search.PackedModel`, a tuple for each layer; LAYER is the
#     index of the computed one;
#   N: images of a program; D: numbers of an image.
# Layers are called as functions instead of being inlined: inlined, the addresses of all layers
# would occupy registers.
# Positions in a tuple of LAYERS, after those of `grouped_conv_kernels`:
HAS_BIAS = tl.constexpr(13)
RELU = tl.constexpr(14)
# Positions in a tuple of OFFSETS, for a layer:
INPUT = tl.constexpr(0)
FORWARD_WEIGHT = tl.constexpr(1)
BACKWARD_WEIGHT = tl.constexpr(2)
BIAS = tl.constexpr(3)
IS_INPUT_RECTIFIED = tl.constexpr(4)
# and for the entry after the last layer:
LOGITS = tl.constexpr(0)
LOGITS_GRAD = tl.constexpr(1)
# Positions in a tuple of TILES:
FORWARD_BLOCK_M = tl.constexpr(0)
FORWARD_BLOCK_N = tl.constexpr(1)
FORWARD_BLOCK_K = tl.constexpr(2)
BACKWARD_BLOCK_M = tl.constexpr(3)
BACKWARD_BLOCK_N = tl.constexpr(4)
BACKWARD_BLOCK_K = tl.constexpr(5)


@triton.jit(noinline=True)
def _forward_layer(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    n_images,
    LAYERS: tl.constexpr,
    LAYER: tl.constexpr,
    TILES: tl.constexpr,
):
    """Compute the output of a layer for all images of a program, tile by tile."""
    BLOCK_M: tl.constexpr = TILES[LAYER][FORWARD_BLOCK_M]
    BLOCK_N: tl.constexpr = TILES[LAYER][FORWARD_BLOCK_N]
    n_pixels = n_images * (LAYERS[LAYER][OUT_HEIGHT] * LAYERS[LAYER][OUT_WIDTH])
    for pixel in range(0, n_pixels, BLOCK_M):
        for out_channel in range(0, LAYERS[LAYER][OUT_CHANNELS], BLOCK_N):
            forward_tile(
                x_ptr, weight_ptr, bias_ptr, y_ptr, pixel + tl.arange(0, BLOCK_M), n_pixels,
                out_channel + tl.arange(0, BLOCK_N), LAYERS[LAYER][IN_CHANNELS],
                LAYERS[LAYER][OUT_CHANNELS], LAYERS, LAYER, LAYERS[LAYER][HAS_BIAS],
                LAYERS[LAYER][RELU], TILES[LAYER][FORWARD_BLOCK_K],
            )  # fmt: skip


@triton.jit(noinline=True)
def _backward_layer(
    y_grad_ptr,
    weight_ptr,
    x_ptr,
    n_images,
    LAYERS: tl.constexpr,
    LAYER: tl.constexpr,
    IS_RECTIFIED: tl.constexpr,
    TILES: tl.constexpr,
):
    """Compute the gradient with respect to the input of a layer, which overwrites the input."""
    BLOCK_M: tl.constexpr = TILES[LAYER][BACKWARD_BLOCK_M]
    BLOCK_N: tl.constexpr = TILES[LAYER][BACKWARD_BLOCK_N]
    BLOCK_H: tl.constexpr = LAYERS[LAYER][STRIDE_Y] * LAYERS[LAYER][BLOCK]
    BLOCK_W: tl.constexpr = LAYERS[LAYER][STRIDE_X] * LAYERS[LAYER][BLOCK]
    BLOCK_ROWS: tl.constexpr = (LAYERS[LAYER][HEIGHT] - 1 + LAYERS[LAYER][PADDING_Y]) // BLOCK_H + 1
    BLOCK_COLS: tl.constexpr = (LAYERS[LAYER][WIDTH] - 1 + LAYERS[LAYER][PADDING_X]) // BLOCK_W + 1
    n_blocks = n_images * (BLOCK_ROWS * BLOCK_COLS)
    for block in range(0, n_blocks, BLOCK_M):
        for column in range(0, BLOCK_H * BLOCK_W * LAYERS[LAYER][IN_CHANNELS], BLOCK_N):
            input_grad_tile(
                y_grad_ptr, weight_ptr, x_ptr, x_ptr, block + tl.arange(0, BLOCK_M), n_blocks,
                column + tl.arange(0, BLOCK_N), LAYERS[LAYER][IN_CHANNELS],
                LAYERS[LAYER][OUT_CHANNELS], LAYERS, LAYER, IS_RECTIFIED,
                TILES[LAYER][BACKWARD_BLOCK_K],
            )  # fmt: skip


@triton.jit
def _forward_pass(
    codes_ptr,
    weights_ptr,
    workspace_ptr,
    n_images,
    LAYERS: tl.constexpr,
    OFFSETS: tl.constexpr,
    TILES: tl.constexpr,
    N: tl.constexpr,
):
    """Run all layers; each one writes its output, the last one the logits, to the workspace."""
    _forward_layer(
        codes_ptr, weights_ptr + OFFSETS[0][FORWARD_WEIGHT], weights_ptr + OFFSETS[0][BIAS],
        workspace_ptr + N * OFFSETS[1][INPUT], n_images, LAYERS, 0, TILES,
    )  # fmt: skip
    tl.debug_barrier()
    for layer in tl.static_range(1, len(LAYERS)):
        _forward_layer(
            workspace_ptr + N * OFFSETS[layer][INPUT], weights_ptr + OFFSETS[layer][FORWARD_WEIGHT],
            weights_ptr + OFFSETS[layer][BIAS], workspace_ptr + N * OFFSETS[layer + 1][INPUT],
            n_images, LAYERS, layer, TILES,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _backward_pass(
    logits_grad_ptr,
    weights_ptr,
    workspace_ptr,
    n_images,
    LAYERS: tl.constexpr,
    OFFSETS: tl.constexpr,
    TILES: tl.constexpr,
    N: tl.constexpr,
):
    """Compute the gradients with respect to all layers' inputs, from the last layer on."""
    LAST: tl.constexpr = len(LAYERS) - 1
    _backward_layer(
        logits_grad_ptr, weights_ptr + OFFSETS[LAST][BACKWARD_WEIGHT],
        workspace_ptr + N * OFFSETS[LAST][INPUT], n_images, LAYERS, LAST,
        OFFSETS[LAST][IS_INPUT_RECTIFIED], TILES,
    )  # fmt: skip
    tl.debug_barrier()
    for layers_done in tl.static_range(1, len(LAYERS)):
        _backward_layer(
            workspace_ptr + N * OFFSETS[LAST - layers_done + 1][INPUT],
            weights_ptr + OFFSETS[LAST - layers_done][BACKWARD_WEIGHT],
            workspace_ptr + N * OFFSETS[LAST - layers_done][INPUT], n_images, LAYERS,
            LAST - layers_done, OFFSETS[LAST - layers_done][IS_INPUT_RECTIFIED], TILES,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["n_examples", "steps", "steps_done"])
def search_kernel(
    codes_ptr,
    clean_codes_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    best_codes_ptr,
    labels_ptr,
    is_active_ptr,
    best_loss_ptr,
    best_success_ptr,
    best_step_found_ptr,
    weights_ptr,
    workspace_ptr,
    bias_corrections_ptr,
    n_examples,
    steps,
    steps_done,
    step_size,
    radius,
    lower,
    upper,
    LAYERS: tl.constexpr,
    OFFSETS: tl.constexpr,
    TILES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WORKSPACE_SIZE: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    IS_ADAM: tl.constexpr,
    CLASSES: tl.constexpr,
    CHUNK_SIZE: tl.constexpr,
):
    """Run the search of `whole_search.search_in_one_kernel` for N of a model's `n_examples` images.

    A model has WEIGHTS numbers, the workspace of an image WORKSPACE_SIZE. Logits have K classes;
    CLASSES is the next power of 2.
    """
    model, first, i = tl.program_id(1), tl.program_id(0) * N, tl.arange(0, N)
    n_images = tl.minimum(n_examples - first, N)
    mask, example = i < n_images, model * n_examples + first + i
    codes_start = (model * n_examples + first).to(tl.int64) * D
    weights_ptr += model.to(tl.int64) * WEIGHTS
    program = model * tl.num_programs(0) + tl.program_id(0)
    workspace_ptr += program.to(tl.int64) * (N * WORKSPACE_SIZE)
    logits_ptr = workspace_ptr + N * OFFSETS[len(LAYERS)][LOGITS]
    logits_grad_ptr = workspace_ptr + N * OFFSETS[len(LAYERS)][LOGITS_GRAD]
    label = tl.load(labels_ptr + example, mask=mask, other=0)
    is_active = tl.load(is_active_ptr + example, mask=mask, other=0) != 0
    best_loss = tl.load(best_loss_ptr + example, mask=mask, other=0.0)
    success = tl.load(best_success_ptr + example, mask=mask, other=0) != 0
    step_found = tl.load(best_step_found_ptr + example, mask=mask, other=-1).to(tl.int32)
    logit_offsets = i[:, None] * K + tl.arange(0, CLASSES)[None]
    is_class = (tl.arange(0, CLASSES) < K)[None]
    n_active, step = tl.sum(is_active.to(tl.int32), 0), 0
    while (step <= steps) & (n_active > 0):
        _forward_pass(
            codes_ptr + codes_start, weights_ptr, workspace_ptr, n_images, LAYERS, OFFSETS, TILES, N
        )
        logits_mask = mask[:, None] & is_class
        logits = tl.load(logits_ptr + logit_offsets, mask=logits_mask, other=-float("inf"))
        logits = tl.where(mask[:, None], logits, 0.0)
        loss, logits_grad, is_wrong = cross_entropy_and_grad(logits, label, CLASSES)
        tl.store(logits_grad_ptr + logit_offsets, logits_grad, mask=is_class)
        improves = ((loss > best_loss) | is_wrong) & is_active
        best_loss = tl.where(improves, loss, best_loss)
        success = tl.where(improves, is_wrong, success)
        step_found = tl.where(improves, tl.where(is_wrong, steps_done + step, -1), step_found)
        is_active = is_active & (is_wrong == 0)
        n_active = tl.sum(is_active.to(tl.int32), 0)
        if tl.sum(improves.to(tl.int32), 0) > 0:
            store_codes_where(
                improves, codes_ptr + codes_start, best_codes_ptr + codes_start, i * D, D,
                CHUNK_SIZE,
            )  # fmt: skip
        if (step < steps) & (n_active > 0):
            tl.debug_barrier()
            _backward_pass(
                logits_grad_ptr, weights_ptr, workspace_ptr, n_images, LAYERS, OFFSETS, TILES, N
            )
            bias_correction1 = tl.load(bias_corrections_ptr + 2 * step)
            bias_correction2 = tl.load(bias_corrections_ptr + 2 * step + 1)
            for chunk_start in range(0, n_images * D, CHUNK_SIZE):
                take_step(
                    codes_ptr + codes_start, workspace_ptr + N * OFFSETS[0][INPUT],
                    clean_codes_ptr + codes_start, codes_ptr + codes_start,
                    exp_avg_ptr + codes_start, exp_avg_sq_ptr + codes_start,
                    chunk_start + tl.arange(0, CHUNK_SIZE), n_images * D, step_size, radius, lower,
                    upper, bias_correction1, bias_correction2, IS_ADAM,
                )  # fmt: skip
            tl.debug_barrier()
        step += 1
    tl.store(best_loss_ptr + example, best_loss, mask=mask)
    tl.store(best_success_ptr + example, success.to(tl.uint8), mask=mask)
    tl.store(best_step_found_ptr + example, step_found.to(tl.int64), mask=mask)
    tl.store(is_active_ptr + example, is_active.to(tl.uint8), mask=mask)
