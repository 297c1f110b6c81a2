"""Checks of images that are arguments of public functions."""

import torch
from torch import Tensor

SLACK = 1e-5
"""Distance from [0, 1] up to which a pixel may lie outside by rounding, as decoded pixels do."""


def require_images(argument: str, images: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Raise a `ValueError` unless `images` is a batch `(B, C, H, W)` of floats in [0, 1].

    Args:
        argument: name of the argument, for the message.
        images: the images; there may be none.
        dtype: the type that they must have.
    """
    if not isinstance(images, Tensor) or images.dim() != 4:
        raise ValueError(f"{argument} must be a tensor (B, C, H, W)")
    if images.dtype != dtype:
        raise ValueError(f"{argument} must be of type {dtype}, not {images.dtype}")
    if not len(images):
        return
    low, high = images.min().item(), images.max().item()
    if not (low >= -SLACK and high <= 1 + SLACK):
        is_byte = low >= 0 and 1 < high <= 255
        advice = "divide them by 255" if is_byte else "put a normalization into the model"
        raise ValueError(
            f"{argument} must lie in [0, 1], but reach from {low:g} to {high:g}; {advice}"
        )


def require_same_images(argument: str, images: Tensor, other_argument: str, other: Tensor) -> None:
    """Raise a `ValueError` unless two batches have the same shape `(C, H, W)` and device."""
    if images.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{argument} have the shape {tuple(images.shape[1:])}, but {other_argument} "
            f"{tuple(other.shape[1:])}"
        )
    if images.device != other.device:
        raise ValueError(
            f"{argument} are on {images.device}, but {other_argument} on {other.device}"
        )
