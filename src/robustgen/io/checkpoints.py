"""Checkpoints: an interrupted job resumes, and ends with the bytes of an undisturbed run."""

import glob
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Self

import torch
from torch import Tensor

from robustgen.environment import read_checkpoint_interval
from robustgen.errors import UserError
from robustgen.io.tensors import compute_digest, load_tensors, save_tensors
from robustgen.optimizers import Optimizer

log = logging.getLogger("robustgen")


class Checkpoint:
    """The state of an unfinished job, in one safetensors file.

    A resumed job ends with the same bytes if the rest of its work depends on this state only, and
    runs on the same kind of device.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], interval_s: float | None = None
    ) -> None:
        """Describe a checkpoint, whose file may not exist yet.

        Args:
            path: path of the file, which no other job uses.
            identity: everything that the work depends on (see `job_identity`).
            interval_s: least time between two writes, and before the first one, in seconds; None
                means `environment.read_checkpoint_interval`.

        Raises:
            UserError: ROBUSTGEN_CHECKPOINT_SECONDS is not a number of seconds.
        """
        self.path = Path(path)
        self.interval_s = read_checkpoint_interval() if interval_s is None else interval_s
        self._identity = json.dumps(identity, sort_keys=True)
        self._last_write = monotonic()

    @classmethod
    def beside(cls, output: str | Path, identity: Mapping[str, Any]) -> Self:
        """Describe the checkpoint of the job that writes `output`.

        Its file is beside `output` and has the suffix `.checkpoint.safetensors`.
        """
        return cls(Path(output).with_suffix(".checkpoint.safetensors"), identity)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and metadata of the last write; None without a usable file.

        The log says why a file is not used.
        """
        if not self.path.exists():
            return None
        try:
            tensors, header = load_tensors(self.path)
        except UserError:
            log.warning(
                "the job starts from the beginning: its checkpoint %s is damaged", self.path
            )
            return None
        if header.get("identity") != self._identity:
            log.warning(
                "the job starts from the beginning: its checkpoint %s belongs to other settings, "
                "code or inputs",
                self.path,
            )
            return None
        return tensors, json.loads(header["metadata"])

    def due(self) -> bool:
        """Whether the interval since the last write is over, so that `write` would write."""
        return monotonic() - self._last_write >= self.interval_s

    def write(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Replace the file, unless it was written less than `interval_s` seconds ago.

        Args:
            tensors: the state (see `state_tensors`), on any device.
            metadata: the rest of the state, in JSON types. `read` returns equal floats, also
                infinities and NaN, and keys in the same order.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self.due():
            return
        # Metadata is stored as text, because the header sorts its keys.
        header = {"identity": self._identity, "metadata": json.dumps(metadata)}
        save_tensors(self.path, tensors, header)
        self._last_write = monotonic()

    def remove(self) -> None:
        """Delete the file and those of its `ExampleStore`, once the job has written its outputs."""
        self.path.unlink(missing_ok=True)
        for file in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            file.unlink()


def job_identity(
    settings: Mapping[str, Any],
    code: str,
    inputs: Iterable[Tensor],
    device: torch.device,
    backend: str,
) -> dict[str, Any]:
    """Return everything that the result of a job depends on, for `Checkpoint`.

    Args:
        settings: all settings of the job, as JSON represents them.
        code: the fingerprint of the code.
        inputs: the tensors that the job works on, in a fixed order.
        device: the device of the job.
        backend: the name of the backend, since backends differ by rounding.
    """
    return {
        "settings": settings,
        "code": code,
        "inputs": [compute_digest({"input": tensor.cpu()}) for tensor in inputs],
        "torch": torch.__version__,
        "device": str(device),
        "backend": backend,
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return a file name that only this identity has."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def state_tensors(
    state: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Collect everything that training changes, as tensors for `load_state_tensors`.

    Tensors of parameters, buffers and optimizers are not copied.

    Args:
        state: parameters and buffers by name.
        optimizers: optimizers whose state consists of tensors, such as Adam.
        generators: the random generators of the training.
    """
    tensors = {f"state.{name}": tensor for name, tensor in state.items()}
    for i, optimizer in enumerate(optimizers):
        for j, parameter in enumerate(_parameters(optimizer)):
            for key, tensor in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{j}.{key}"] = tensor
    for i, generator in enumerate(generators):
        tensors[f"generator.{i}"] = generator.get_state()
    return tensors


@torch.no_grad()
def load_state_tensors(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    generators: Sequence[torch.Generator],
) -> None:
    """Restore the state that `state_tensors` returned, in place.

    Values are copied into the memory of the given tensors, because the memory layout decides in
    which order convolutions sum.

    Args:
        tensors: the result of `state_tensors`.
        state: parameters and buffers by name, as they are before training.
        optimizers: the optimizers, as they are before training.
        generators: the random generators, in any state.
    """
    for name, tensor in state.items():
        tensor.copy_(tensors[f"state.{name}"])
    for i, optimizer in enumerate(optimizers):
        for j, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer.{i}.{j}."
            saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            for key, tensor in saved.items():
                template = parameter if key != "step" else tensor.to(parameter.device)
                restored = torch.empty_like(template).copy_(tensor)
                optimizer.state.setdefault(parameter, {})[key] = restored
    for i, generator in enumerate(generators):
        generator.set_state(tensors[f"generator.{i}"])


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
