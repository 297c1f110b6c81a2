"""Tensors of examples that are written batch by batch, to files instead of memory."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from robustgen.errors import UserError


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
        """An empty store.

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

    def write_batch(self, start: int, parts: Mapping[str, Tensor]) -> None:
        """Write `parts` `(M, B, ...)` by name, from example `start` on.

        Raises:
            UserError: the disk is full, or a file cannot be written.
        """
        for name in self.shapes:
            part = parts[name].detach()
            if name in self._in_memory:
                for member, rows in zip(self._in_memory[name], part, strict=True):
                    member[start : start + len(rows)].copy_(rows)
            else:
                part = part.cpu().contiguous()
                self._digest.update(_bytes(part))
                self._write(name, start, part)

    def digest(self) -> str:
        """SHA-256 of everything that was written to files, in the order of writing."""
        return self._digest.hexdigest()

    def keep_on_error(self) -> None:
        """Keep the files if an error occurs; by default they are removed."""
        self._persistent = True

    def resume(self, starts: Sequence[int], end: int, digest: str) -> bool:
        """Take over the files of an interrupted job, if they are as it wrote them.

        Args:
            starts: the first example of each batch that was written, in order.
            end: the example after the last batch.
            digest: the `digest` after the last batch.

        Returns:
            Whether the files are as they were written.
        """
        sha256 = hashlib.sha256()
        try:
            for start, stop in zip(starts, [*starts[1:], end], strict=True):
                for name in self.shapes:
                    self._read(name, start, stop, sha256)
        except OSError:
            return False
        self._persistent = sha256.hexdigest() == digest
        if self._persistent:
            self._digest = sha256
        return self._persistent

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, after every batch was written."""
        mapped = {
            name: torch.from_file(str(file), False, self.shapes[name].numel(), dtype=torch.float32)
            for name, file in self._files.items()
        }
        return self._in_memory | {
            name: whole.view(self.shapes[name]) for name, whole in mapped.items()
        }

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
        members, examples, *shape = self.shapes[name]
        size = torch.float32.itemsize * torch.Size(shape).numel()
        with self._files[name].open("rb") as opened:
            for member in range(members):
                opened.seek((member * examples + start) * size)
                into.update(opened.read((stop - start) * size))


def _bytes(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
