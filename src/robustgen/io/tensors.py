"""Safetensors files with settings, provenance and a digest in the header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robustgen.errors import UserError, remedy
from robustgen.io.atomic import atomic_write


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write a safetensors file, with `header` as JSON under the one key "robustgen".

    safetensors stores header keys in no fixed order, so that with several keys equal results would
    have unequal bytes. It stores no checksum: a digest is added, which `load_tensors` checks.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        digested_header = {
            **header,
            "digest": compute_digest(cpu_tensors, json.dumps(header, sort_keys=True)),
        }
        metadata = {"robustgen": json.dumps(digested_header, sort_keys=True)}
        save_file(cpu_tensors, temporary, metadata=metadata)


def load_tensors(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the header that `save_tensors` wrote.

    Raises:
        UserError: the file is missing, is not a complete safetensors file, or was changed after it
            was written.
        ValueError: the device does not exist.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("robustgen", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved_digest = header.pop("digest", None)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; run the study with it as a target") from error
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file: {error}; {remedy(path)}"
        ) from error
    if saved_digest != compute_digest(tensors, json.dumps(header, sort_keys=True)):
        raise UserError(f"{path} is damaged: it was changed after it was written; {remedy(path)}")
    _require_device(device)
    return {name: tensor.to(device) for name, tensor in tensors.items()}, header


def _require_device(device: torch.device | str) -> None:
    """Raise a `ValueError` that names a device which does not exist."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {device!r}, which cannot be used: {reason}") from error


def compute_digest(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """Return the SHA-256 of a text and of the names, types, shapes and bytes of CPU tensors."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def version_key(*tensors: torch.Tensor) -> object:
    """Return a cache key that changes when a tensor is modified in place or moved.

    Inference-mode tensors have no version counter. Their key equals no other key, so that nothing
    derived from them is cached.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return object()
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
