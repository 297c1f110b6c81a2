"""Checkpoints: long training goes on where it was killed, to the bytes of an undisturbed run."""

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

from robustgen.environment import checkpoint_seconds
from robustgen.errors import UserError
from robustgen.io.tensors import digest, load_tensors, save_tensors
from robustgen.optimizers import Optimizer

log = logging.getLogger("robustgen")


class Checkpoint:
    """The state of a job that is not finished, in one safetensors file.

    The same bytes follow if the state is all that the rest of the work depends on, and if it is
    done by the same kind of device.
    """

    def __init__(
        self, path: str | Path, identity: Mapping[str, Any], every: float | None = None
    ) -> None:
        """A checkpoint, which need not be there.

        Args:
            path: of the file; a job's own.
            identity: whatever the work depends on, as JSON has it (see `job_identity`).
            every: least time between two writes, and before the first one, in seconds; by default
                see `environment.checkpoint_seconds`.

        Raises:
            UserError: the environment says something else than a number of seconds.
        """
        self.path, self.every = Path(path), checkpoint_seconds() if every is None else every
        self._identity = json.dumps(identity, sort_keys=True)
        self._last = monotonic()

    @classmethod
    def beside(cls, output: str | Path, identity: Mapping[str, Any]) -> Self:
        """That of a job which makes `output`: a file that ends in .checkpoint.safetensors."""
        return cls(Path(output).with_suffix(".checkpoint.safetensors"), identity)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was last written, or None where nothing was or cannot be used, which is logged."""
        if not self.path.exists():
            return None
        try:
            tensors, header = load_tensors(self.path)
        except UserError as error:
            log.warning("checkpoint ignored: %s", error)
            return None
        if header.get("identity") != self._identity:
            log.warning("checkpoint ignored: %s is of other settings, code or inputs", self.path)
            return None
        return tensors, json.loads(header["about"])

    def due(self) -> bool:
        """Whether `write` would write."""
        return monotonic() - self._last >= self.every

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Replace the file, unless it was written less than `every` seconds ago.

        Args:
            tensors: the state (see `state_tensors`), on any device.
            about: the rest of it, as JSON has it; floats come back exactly, and so do infinities
                and NaN, since both ends are Python's, and keys come in their order.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self.due():
            return
        # As text, in which the order of keys is kept.
        save_tensors(self.path, tensors, {"identity": self._identity, "about": json.dumps(about)})
        self._last = monotonic()

    def remove(self) -> None:
        """Remove the file and those beside it, where they are: the job's outputs are written."""
        self.path.unlink(missing_ok=True)
        for left in self.path.parent.glob(f"{glob.escape(self.path.name)}.*"):
            left.unlink()


def job_identity(
    settings: Mapping[str, Any],
    code: str,
    inputs: Iterable[Tensor],
    device: torch.device,
    backend: str,
) -> dict[str, Any]:
    """Everything that the result of a job depends on, for `Checkpoint`.

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
        "inputs": [digest({"input": tensor.cpu()}) for tensor in inputs],
        "torch": torch.__version__,
        "device": str(device),
        "backend": backend,
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """A file name that only this identity has."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def state_tensors(
    state: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Everything that training changes, as tensors for `load_state_tensors`; mostly not copied.

    Args:
        state: parameters and buffers by name.
        optimizers: whose state is of tensors, such as Adam.
        generators: those that are drawn from.
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

    Values are copied into memory laid out as the undisturbed run has it: the layout decides in
    which order convolutions take sums.

    Args:
        tensors: of `state_tensors`.
        state: parameters and buffers by name, as they are before training; changed in place.
        optimizers: as they are before training.
        generators: set to where they were.
    """
    for name, tensor in state.items():
        tensor.copy_(tensors[f"state.{name}"])
    for i, optimizer in enumerate(optimizers):
        for j, parameter in enumerate(_parameters(optimizer)):
            start = f"optimizer.{i}.{j}."
            own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            for key, tensor in own.items():
                like = parameter if key != "step" else tensor.to(parameter.device)
                held = torch.empty_like(like)
                optimizer.state.setdefault(parameter, {})[key] = held.copy_(tensor)
    for i, generator in enumerate(generators):
        generator.set_state(tensors[f"generator.{i}"])


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
