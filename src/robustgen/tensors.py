"""Weights and images as safetensors files, with settings and provenance in the header."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robustgen.errors import UserError
from robustgen.files import whole


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors as safetensors, with `header` as JSON under one key, "robustgen".

    The format keeps its keys in no order: with more than one, equal results had unequal bytes.
    """
    with whole(path) as partial:
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(held, partial, metadata={"robustgen": json.dumps(header, sort_keys=True)})


def load_tensors(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and header as `save_tensors` was given them.

    Raises:
        UserError: the file is missing or is no whole safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get("robustgen", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors, header
