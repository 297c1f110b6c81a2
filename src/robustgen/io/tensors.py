"""Weights and images as safetensors files, with settings and provenance in the header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robustgen.errors import UserError, remedy
from robustgen.io.files import whole


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors as safetensors, with `header` as JSON under one key, "robustgen".

    The format keeps its keys in no order: with more than one, equal results had unequal bytes. Nor
    has it a checksum, so that the header gets a digest of all, by which `load_tensors` goes.
    """
    with whole(path) as partial:
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        about = {**header, "digest": digest(held, json.dumps(header, sort_keys=True))}
        save_file(held, partial, metadata={"robustgen": json.dumps(about, sort_keys=True)})


def load_tensors(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header as `save_tensors` was given them.

    Raises:
        UserError: the file is missing, is no whole safetensors file or has changed since it was
            written.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("robustgen", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        written = header.pop("digest", None)
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a readable safetensors file: {error}; {remedy(path)}"
        ) from error
    if written != digest(tensors, json.dumps(header, sort_keys=True)):
        raise UserError(f"{path} is damaged: it is not as it was written; {remedy(path)}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}, header


def digest(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """Of names, types, shapes and bytes of tensors on the CPU, and a text."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def version_key(*tensors: torch.Tensor) -> object:
    """A cache key that changes when a tensor is modified in place or moved.

    Inference-mode tensors have no version counter. Their key equals no other key, so that nothing
    derived from them is cached.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return object()
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]
