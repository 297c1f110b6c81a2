"""Checks of arguments of public functions: images, labels, models and generators.

Each check raises a `ValueError` with one sentence that names the argument and says what is allowed.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SLACK = 1e-5
"""Tolerance for rounding errors: how far a pixel or a code may lie outside of its bounds, and by
which share of the radius a perturbation may exceed it."""
MIN_BYTE_MAXIMUM = 16
"""Images whose largest value is above this one, and at most 255, are taken for bytes."""
PROBE_IMAGES = 8
"""Number of images per model on which a model is tried before a search. On a GPU this first call
verifies the kernels, so the number must be at least `acceleration.verification.CHECKED_IMAGES`."""


def require_images(argument: str, images: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Require a batch `(N, C, H, W)` of floats in [0, 1].

    Args:
        argument: name of the argument, for the message.
        images: the images; there may be none.
        dtype: the type that they must have.
    """
    if not isinstance(images, Tensor):
        kind = type(images).__name__
        raise ValueError(f"{argument} must be a torch.Tensor (N, C, H, W), not {kind}")
    if images.dim() != 4:
        shape = tuple(images.shape)
        raise ValueError(f"{argument} must be a tensor (N, C, H, W), but have the shape {shape}")
    if images.dtype != dtype:
        is_byte = images.dtype == torch.uint8
        advice = "divide them by 255" if is_byte else f"call .to({dtype}) on them"
        raise ValueError(f"{argument} must be of type {dtype}, not {images.dtype}; {advice}")
    require_pixels(argument, images)


def require_pixels(argument: str, images: Tensor) -> None:
    """Require floats in [0, 1], of any shape."""
    if not images.numel():
        return
    low, high = images.min().item(), images.max().item()
    if not math.isfinite(low + high):
        raise ValueError(f"{argument} contain NaN or infinity, but must lie in [0, 1]")
    if not (low >= -SLACK and high <= 1 + SLACK):
        is_byte = low >= 0 and MIN_BYTE_MAXIMUM < high <= 255
        advice = (
            "divide them by 255" if is_byte else "clip them, or put a normalization into the model"
        )
        raise ValueError(
            f"{argument} must lie in [0, 1], but reach from {low:g} to {high:g}; {advice}"
        )


def require_image_values(argument: str, images: Tensor) -> None:
    """Require stored images, of any shape: uint8, or floats in [0, 1]."""
    if images.is_floating_point():
        require_pixels(argument, images)
    elif images.dtype != torch.uint8:
        raise ValueError(f"{argument} must be uint8 or floats in [0, 1], not {images.dtype}")


def require_codes_within(
    argument: str, codes: Tensor, lower: Tensor | float, upper: Tensor | float
) -> None:
    """Require finite codes `(..., *D)` within bounds, up to rounding.

    Args:
        argument: name of the argument, for the message.
        codes: the codes; there may be none.
        lower, upper: the bounds, broadcastable to `codes`.
    """
    if not codes.isfinite().all():
        raise ValueError(f"{argument} contain NaN or infinity")
    if ((codes < lower - SLACK) | (codes > upper + SLACK)).any():
        raise ValueError(f"{argument} lie outside of the bounds of their space")


def require_same_images(
    argument: str, images: Tensor, other_argument: str, other_images: Tensor
) -> None:
    """Require two batches to have the same shape `(C, H, W)` and device."""
    if images.shape[1:] != other_images.shape[1:]:
        raise ValueError(
            f"{argument} have the shape {tuple(images.shape[1:])}, but {other_argument} "
            f"{tuple(other_images.shape[1:])}"
        )
    require_same_device(argument, images.device, other_argument, other_images.device)


def require_labels(
    argument: str, labels: Tensor, shape: Sequence[int], device: torch.device
) -> None:
    """Require classes, int64, of a shape and on a device. `require_classes` checks their range."""
    if not isinstance(labels, Tensor) or labels.shape != torch.Size(shape):
        received = (
            f"shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise ValueError(
            f"{argument} must be a tensor {tuple(shape)}, with one class for each image, "
            f"not {received}"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"{argument} must be of type torch.int64, not {labels.dtype}")
    require_same_device(argument, labels.device, "the images", device)


def require_same_device(
    argument: str, device: torch.device, other_argument: str, other_device: torch.device
) -> None:
    """Require two arguments, which the message names, to be on the same device."""
    if device != other_device:
        raise ValueError(f"{argument} are on {device}, but {other_argument} on {other_device}")


def require_classes(argument: str, labels: Tensor, classes: int) -> None:
    """Require labels from 0 to `classes` - 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"{argument} reach from {low} to {high}, but the model has classes 0 to {classes - 1}"
        )


def require_eval_mode(argument: str, model: object) -> None:
    """Require that no layer of a `torch.nn.Module` is in train mode; other objects have no modes.

    In train mode the logits of an image depend on the other images of its batch, and each forward
    pass changes the running statistics of batch normalization.
    """
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        raise ValueError(f"{argument} is in train mode; call {argument}.eval() first")


def require_generators(argument: str, generators: Sequence[torch.Generator], n_models: int) -> None:
    """Require one random generator on the CPU for each of `n_models` models."""
    if (
        not isinstance(generators, Sequence)
        or len(generators) != n_models
        or not all(
            isinstance(generator, torch.Generator) and generator.device.type == "cpu"
            for generator in generators
        )
    ):
        raise ValueError(
            f"{argument} must be {n_models} random generators on the CPU, one for each model"
        )


def compute_logits(
    argument: str, model: Callable[[Tensor], Tensor], images: Tensor, shape: Sequence[int]
) -> Tensor:
    """Return the logits that a model computes for images, or raise an error that names the model.

    Args:
        argument: name of the model, for the message.
        model: images to logits `(*shape, K)`.
        images: some images.
        shape: the required shape of the logits, without the axis of the classes.

    Raises:
        ValueError: the model fails on the images, or returns something else than logits.
    """
    try:
        logits = model(images)
    except Exception as error:  # a model of the user may raise any exception
        raise ValueError(
            f"{argument} cannot classify images of shape {tuple(images.shape)}: {error}"
        ) from error
    if (
        not isinstance(logits, Tensor)
        or not logits.is_floating_point()
        or logits.shape[:-1] != torch.Size(shape)
    ):
        axes = ", ".join([*map(str, shape), "K"])
        received = (
            f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise ValueError(
            f"{argument} must map images to floating-point logits, here of shape ({axes}), "
            f"not {received}"
        )
    return logits
