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
            tensors: the state (see `get_generator_states` and `training.resumable`), on any device.
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


def get_generator_states(generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Return the states of random generators by name, for `set_generator_states`."""
    return {f"generator.{i}": generator.get_state() for i, generator in enumerate(generators)}


def set_generator_states(
    tensors: Mapping[str, Tensor], generators: Sequence[torch.Generator]
) -> None:
    """Set random generators to the states that `get_generator_states` returned."""
    for i, generator in enumerate(generators):
        generator.set_state(tensors[f"generator.{i}"])


class ExampleStore:
    """Tensors `(M, N, ...)` of single precision that are written a batch of examples at a time.

    Each tensor has a file of its own. At the end the files are mapped to memory, which the system
    can reclaim. Files are written with `write` instead, because a full disk would then raise an
    exception; with a memory map it would kill the process (SIGBUS).

    As a context manager, it removes its files if an error occurs before `keep_on_error` is called.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        path: Path | None = None,
        *,
        pinned: bool = False,
    ) -> None:
        """Make an empty store.

        Args:
            shapes: `(M, N, ...)` by name.
            path: path of the files, each with the suffix ".<name>"; None uses memory.
            pinned: whether to use pinned memory, to which a GPU copies at full speed.
        """
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self._digest, self._persistent = hashlib.sha256(), False
        self._in_memory: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        if path is None:
            self._in_memory = {
                name: torch.empty(shape, pin_memory=pinned) for name, shape in self.shapes.items()
            }
        else:
            self._files = {name: path.with_name(f"{path.name}.{name}") for name in self.shapes}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._persistent:
            for file in self._files.values():
                file.unlink(missing_ok=True)

    def write_batch(self, start: int, batch: Mapping[str, Tensor]) -> None:
        """Write tensors `batch` `(M, B, ...)` by name, beginning at example `start`.

        Raises:
            UserError: the disk is full, or a file cannot be written.
        """
        for name in self.shapes:
            tensor = batch[name].detach()
            if name in self._in_memory:
                for member, rows in zip(self._in_memory[name], tensor, strict=True):
                    member[start : start + len(rows)].copy_(rows)
            else:
                tensor = tensor.cpu().contiguous()
                self._digest.update(_view_bytes(tensor))
                self._write(name, start, tensor)

    def digest(self) -> str:
        """Return the SHA-256 of everything that was written to files, in the order of writing."""
        return self._digest.hexdigest()

    def keep_on_error(self) -> None:
        """Keep the files if an error occurs; by default they are removed."""
        self._persistent = True

    def resume(self, starts: Sequence[int], end: int, digest: str) -> bool:
        """Take over the files of an interrupted job, if nothing has changed them.

        Args:
            starts: the first example of each batch that was written, in order.
            end: number of examples in these batches.
            digest: the `digest` after the last batch.

        Returns:
            Whether the files are unchanged.
        """
        sha256 = hashlib.sha256()
        try:
            for start, stop in zip(starts, [*starts[1:], end], strict=True):
                for name in self.shapes:
                    self._update_digest(name, start, stop, sha256)
        except OSError:
            return False
        self._persistent = sha256.hexdigest() == digest
        if self._persistent:
            self._digest = sha256
        return self._persistent

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, after every batch was written."""
        mapped = {
            name: torch.from_file(str(file), False, self.shapes[name].numel(), dtype=torch.float32)
            for name, file in self._files.items()
        }
        return self._in_memory | {
            name: flat.view(self.shapes[name]) for name, flat in mapped.items()
        }

    def _write(self, name: str, start: int, batch: Tensor) -> None:
        """Write a contiguous tensor `(M, B, ...)` to the file of its name."""
        path, example_bytes = self._files[name], batch[0, 0].nbytes
        try:
            path.touch()
            with path.open("r+b") as file:
                for member, rows in enumerate(batch):
                    file.seek((member * self.shapes[name][1] + start) * example_bytes)
                    file.write(_view_bytes(rows))
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; correct this and run again"
            ) from error

    def _update_digest(self, name: str, start: int, stop: int, sha256: "hashlib._Hash") -> None:
        """Add the written examples from `start` to `stop` to a digest, as `write_batch` did."""
        members, examples, *shape = self.shapes[name]
        example_bytes = torch.float32.itemsize * torch.Size(shape).numel()
        with self._files[name].open("rb") as file:
            for member in range(members):
                file.seek((member * examples + start) * example_bytes)
                sha256.update(file.read((stop - start) * example_bytes))


def _view_bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
