"""Tensors that grow example by example, as what an attack finds, in files instead of memory."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from robustgen.errors import UserError


class Growing:
    """Tensors `(M, N, ...)` of single precision, of which a batch of examples comes at a time.

    Each is a file of its own, to which batches are written where they belong; at the end files are
    mapped, and take no memory that the system cannot have back. They are not mapped to be written:
    where the disk is full, that would kill the process.

    Used as a context, it removes its files if an error comes before the first call of `last`.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        path: Path | None = None,
        *,
        pinned: bool = False,
    ) -> None:
        """Tensors that hold nothing yet.

        Args:
            shapes: `(M, N, ...)` by name.
            path: to which ".<name>" is appended for each file; None keeps all in memory.
            pinned: whether that memory is such that a GPU writes to at its full speed.
        """
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self._digest, self._lasting = hashlib.sha256(), False
        self._held: dict[str, Tensor] = {}
        self._files: dict[str, Path] = {}
        if path is None:
            self._held = {
                name: torch.empty(shape, pin_memory=pinned) for name, shape in self.shapes.items()
            }
        else:
            self._files = {name: path.with_name(f"{path.name}.{name}") for name in self.shapes}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not self._lasting:
            for file in self._files.values():
                file.unlink(missing_ok=True)

    def put(self, start: int, parts: Mapping[str, Tensor]) -> None:
        """Hold `parts` `(M, B, ...)` by name, which begin at example `start`.

        Raises:
            UserError: the disk is full, or a file cannot be written.
        """
        for name in self.shapes:
            part = parts[name].detach()
            if name in self._held:
                for held, given in zip(self._held[name], part, strict=True):
                    held[start : start + len(given)].copy_(given)
            else:
                part = part.cpu().contiguous()
                self._digest.update(_bytes(part))
                self._write(name, start, part)

    def digest(self) -> str:
        """Of all that was written to files, in the order in which it was."""
        return self._digest.hexdigest()

    def last(self) -> None:
        """Let the files outlast an error, and this process."""
        self._lasting = True

    def go_on(self, starts: Sequence[int], end: int, digest: str) -> bool:
        """Hold what an interrupted job has put, if it is still what it was.

        Args:
            starts: the first examples of each batch that it put, in order.
            end: the example before which the last batch ended.
            digest: as it was then.

        Returns:
            Whether it is.
        """
        found = hashlib.sha256()
        try:
            for start, stop in zip(starts, [*starts[1:], end], strict=True):
                for name in self.shapes:
                    self._read(name, start, stop, found)
        except OSError:
            return False
        self._lasting = found.hexdigest() == digest
        if self._lasting:
            self._digest = found
        return self._lasting

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name, once each example was put."""
        mapped = {
            name: torch.from_file(str(file), False, self.shapes[name].numel(), dtype=torch.float32)
            for name, file in self._files.items()
        }
        return self._held | {name: whole.view(self.shapes[name]) for name, whole in mapped.items()}

    def _write(self, name: str, start: int, part: Tensor) -> None:
        file, size = self._files[name], part[0, 0].nbytes
        try:
            file.touch()
            with file.open("r+b") as opened:
                for member, rows in enumerate(part):
                    opened.seek((member * self.shapes[name][1] + start) * size)
                    opened.write(_bytes(rows))
        except OSError as error:
            raise UserError(
                f"{file} cannot be written: {error.strerror}; mend it and run again"
            ) from error

    def _read(self, name: str, start: int, stop: int, into: "hashlib._Hash") -> None:
        members, many, *rest = self.shapes[name]
        size = torch.float32.itemsize * torch.Size(rest).numel()
        with self._files[name].open("rb") as opened:
            for member in range(members):
                opened.seek((member * many + start) * size)
                into.update(opened.read((stop - start) * size))


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
