"""Triton kernels of a search between two forward passes, for `search_step`."""

import triton
import triton.language as tl

from robustgen.backend import BETA1, BETA2, EPS

ADAM_BETA2 = tl.constexpr(BETA2)
ADAM_ONE_MINUS_BETA1 = tl.constexpr(1 - BETA1)
ADAM_ONE_MINUS_BETA2 = tl.constexpr(1 - BETA2)
ADAM_EPS = tl.constexpr(EPS)


@triton.jit
def cross_entropy_and_grad(logits, label, CLASSES: tl.constexpr):
    """Losses, gradients with respect to the logits, and errors, of logits `(N, CLASSES)`."""
    classes = tl.arange(0, CLASSES)[None]
    highest = tl.max(logits, 1)[:, None]
    exp = tl.exp(logits - highest)
    exp_sum = tl.sum(exp, 1)
    is_label = classes == label[:, None]
    loss = tl.log(exp_sum) - tl.sum(tl.where(is_label, logits - highest, 0.0), 1)
    grad = exp / exp_sum[:, None] - tl.where(is_label, 1.0, 0.0)
    # As `argmax`, the prediction is the first of the classes with the highest logit.
    is_wrong = tl.min(tl.where(logits == highest, classes, CLASSES), 1) != label
    return loss, grad, is_wrong


@triton.jit(do_not_specialize=["steps_done"])
def update_best_kernel(
    logits_ptr,
    labels_ptr,
    codes_ptr,
    is_active_ptr,
    best_codes_ptr,
    best_loss_ptr,
    best_success_ptr,
    best_step_found_ptr,
    grad_logits_ptr,
    steps_done,
    K: tl.constexpr,
    D: tl.constexpr,
    STOP_AT_SUCCESS: tl.constexpr,
    CLASSES: tl.constexpr,
    CHUNK_SIZE: tl.constexpr,
):
    """`FusedActiveExamples.update_best` of one example, with K classes and codes of D numbers.

    CLASSES is the smallest power of 2 that is not below K.
    """
    example = tl.program_id(0) + tl.arange(0, 1)
    offsets = example[:, None] * K + tl.arange(0, CLASSES)[None]
    is_class = (tl.arange(0, CLASSES) < K)[None]
    logits = tl.load(logits_ptr + offsets, mask=is_class, other=-float("inf"))
    label = tl.load(labels_ptr + example)
    loss, grad_logits, is_wrong = cross_entropy_and_grad(logits, label, CLASSES)
    tl.store(grad_logits_ptr + offsets, grad_logits, mask=is_class)
    is_active = tl.load(is_active_ptr + example) != 0
    improves = loss > tl.load(best_loss_ptr + example)
    if STOP_AT_SUCCESS:
        improves = improves | is_wrong
        tl.store(is_active_ptr + example, (is_active & (is_wrong == 0)).to(tl.uint8))
    improves = improves & is_active
    tl.store(best_loss_ptr + example, loss, mask=improves)
    tl.store(best_success_ptr + example, is_wrong.to(tl.uint8), mask=improves)
    tl.store(
        best_step_found_ptr + example,
        tl.where(is_wrong, steps_done, -1).to(tl.int64),
        mask=improves,
    )
    store_codes_where(improves, codes_ptr, best_codes_ptr, example.to(tl.int64) * D, D, CHUNK_SIZE)


@triton.jit
def store_codes_where(
    condition, codes_ptr, best_codes_ptr, start, D: tl.constexpr, CHUNK_SIZE: tl.constexpr
):
    """Copy the codes of D numbers that begin at offsets `start` where the condition holds."""
    for chunk_start in range(0, D, CHUNK_SIZE):
        number = chunk_start + tl.arange(0, CHUNK_SIZE)
        offsets = start[:, None] + number[None]
        mask = condition[:, None] & (number < D)[None]
        tl.store(best_codes_ptr + offsets, tl.load(codes_ptr + offsets, mask=mask), mask=mask)


@triton.jit
def take_step(
    codes_ptr,
    gradient_ptr,
    clean_codes_ptr,
    stepped_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    offsets,
    n_numbers,
    step_size,
    radius,
    lower,
    upper,
    bias_correction1,
    bias_correction2,
    IS_ADAM: tl.constexpr,
):
    """Take one step of the numbers at `offsets` of the `n_numbers` numbers of the codes.

    The step is Adam's or the sign of the gradient, and is projected into the L-infinity ball and
    the bounds.
    """
    mask = offsets < n_numbers
    gradient = tl.load(gradient_ptr + offsets, mask=mask)
    if IS_ADAM:
        exp_avg = tl.load(exp_avg_ptr + offsets, mask=mask)
        exp_avg += (gradient - exp_avg) * ADAM_ONE_MINUS_BETA1
        exp_avg_sq = tl.load(exp_avg_sq_ptr + offsets, mask=mask) * ADAM_BETA2
        exp_avg_sq = exp_avg_sq + gradient * gradient * ADAM_ONE_MINUS_BETA2
        tl.store(exp_avg_ptr + offsets, exp_avg, mask=mask)
        tl.store(exp_avg_sq_ptr + offsets, exp_avg_sq, mask=mask)
        direction = exp_avg / bias_correction1 / (tl.sqrt(exp_avg_sq / bias_correction2) + ADAM_EPS)
    else:
        direction = tl.where(gradient > 0, 1.0, tl.where(gradient < 0, -1.0, 0.0))
    clean_codes = tl.load(clean_codes_ptr + offsets, mask=mask)
    delta = tl.load(codes_ptr + offsets, mask=mask) + step_size * direction - clean_codes
    delta = tl.minimum(tl.maximum(delta, -radius), radius)
    stepped = tl.minimum(tl.maximum(clean_codes + delta, lower), upper)
    tl.store(stepped_ptr + offsets, stepped, mask=mask)


@triton.jit
def step_kernel(
    codes_ptr,
    gradient_ptr,
    clean_codes_ptr,
    stepped_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    n_numbers,
    step_size,
    radius,
    lower,
    upper,
    bias_correction1,
    bias_correction2,
    IS_ADAM: tl.constexpr,
    CHUNK_SIZE: tl.constexpr,
):
    """`FusedActiveExamples.step` of `n_numbers` numbers, CHUNK_SIZE of them per program."""
    offsets = tl.program_id(0).to(tl.int64) * CHUNK_SIZE + tl.arange(0, CHUNK_SIZE)
    take_step(
        codes_ptr, gradient_ptr, clean_codes_ptr, stepped_ptr, exp_avg_ptr, exp_avg_sq_ptr,
        offsets, n_numbers, step_size, radius, lower, upper, bias_correction1, bias_correction2,
        IS_ADAM,
    )  # fmt: skip
