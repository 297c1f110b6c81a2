"""Tensors that grow example by example, as what an attack finds, in files instead of memory."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustgen.errors import UserError


class Growing:
    """Tensors `(M, N, ...)` of single precision, of which some examples come at a time.

    They are written where they belong in a file each, and mapped to memory when all are there. An
    interrupted job goes on with those files. Mapped memory is not written to: where the disk is
    full, that would kill the process.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], path: Path | None = None) -> None:
        """Tensors that hold nothing yet.

        Args:
            shapes: `(M, N, ...)` by name.
            path: of files to be written, to which ".<name>" is appended; None keeps all in memory.
        """
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self.path = path
        self._held: dict[str, Tensor] = {}
        self._digest = hashlib.sha256()

    def put(self, start: int, parts: Mapping[str, Tensor]) -> None:
        """Hold `parts` `(M, B, ...)`, which begin at example `start`.

        Raises:
            UserError: the disk is full, or a file cannot be written.
        """
        for name, shape in self.shapes.items():
            part = parts[name].detach().cpu().contiguous()
            self._digest.update(_bytes(part))
            if self.path is None:
                whole = self._held.setdefault(name, torch.empty(shape))
                whole[:, start : start + part.shape[1]] = part
            else:
                self._write(name, start, part)

    def digest(self) -> str:
        """Of all that was put, in the order in which it came."""
        return self._digest.hexdigest()

    def go_on(self, starts: Sequence[int], end: int, digest: str) -> bool:
        """Hold what an interrupted job has put, if it is still what it was.

        Args:
            starts: the first examples of what it put, in that order.
            end: what it put ends before this example.
            digest: as it was then.
        """
        if self.path is None or not all(self._file(name).is_file() for name in self.shapes):
            return False
        found = hashlib.sha256()
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            for name in self.shapes:
                found.update(self._read(name, start, stop))
        if found.hexdigest() == digest:
            self._digest = found
        return found.hexdigest() == digest

    def tensors(self) -> dict[str, Tensor]:
        """All of them, once every example was put; in files they stay there until they are used."""
        if self.path is None:
            return self._held
        return {
            name: torch.from_file(
                str(self._file(name)), shared=False, size=shape.numel(), dtype=torch.float32
            ).view(shape)
            for name, shape in self.shapes.items()
        }

    def _file(self, name: str) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.{name}")

    def _write(self, name: str, start: int, part: Tensor) -> None:
        file, (_, many, *_) = self._file(name), self.shapes[name]
        size = _BYTES * part[0, 0].numel()
        try:
            file.touch()
            with file.open("r+b") as opened:
                for member, rows in enumerate(part):
                    opened.seek((member * many + start) * size)
                    opened.write(_bytes(rows))
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}; run again") from error

    def _read(self, name: str, start: int, stop: int) -> bytes:
        members, many, *rest = self.shapes[name]
        size = _BYTES * torch.Size(rest).numel()
        with self._file(name).open("rb") as opened:
            read = []
            for member in range(members):
                opened.seek((member * many + start) * size)
                read.append(opened.read((stop - start) * size))
        return b"".join(read)


_BYTES = 4


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
