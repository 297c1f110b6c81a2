"""Randomly damaged files of fonts, images and data sets are read or refused in one sentence."""

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import fontpkg
import numpy as np
import pytest
import torchvision
from PIL import Image
from test_collected import SETTINGS, encode_celeba, encode_emnist, encode_idx, grey, write_file
from test_fonts import make_font

from robustgen.data import font_prototypes as fonts
from robustgen.data import public
from robustgen.data.sources import collect
from robustgen.errors import UserError

LABELS = np.arange(20) % 10


def damage(rng: random.Random, original: bytes) -> bytes:
    """Return a file that is truncated, or has flipped bits, overwritten bytes or extra bytes."""
    content, kind = bytearray(original), rng.randrange(4)
    if kind == 0:
        return original[: rng.randrange(len(original))]
    for _ in range(rng.randint(1, 4)):
        position, count = rng.randrange(len(content)), rng.randint(1, 8)
        if kind == 1:
            content[position] ^= 1 << rng.randrange(8)
        elif kind == 2:
            content[position : position + count] = rng.choice([b"\0", b"\xff", b"\x7f"]) * count
        else:
            content[position:position] = rng.randbytes(count)
    return bytes(content)


Case = tuple[Path, Callable[[], object]]
"""A file, and a function that reads it."""


def font(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
    return make_font(folder / "fonts/a.ttf"), lambda: fonts.draw_prototypes(
        1, "AB", str(folder / "fonts")
    )


def variable_font(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
    """The smallest of the installed fonts."""
    files = [file.path for family in fontpkg.families().values() for file in family.files]
    file = folder / "fonts/a.ttf"
    file.parent.mkdir()
    file.write_bytes(min(files, key=lambda path: path.stat().st_size).read_bytes())
    return file, lambda: fonts.draw_prototypes(1, "AB", str(folder / "fonts"))


def image_folder(suffix: str, in_colour: bool) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
        for number in range(6):
            pixels = grey(3, 12, 10).transpose(1, 2, 0) if in_colour else grey(1, 12, 10)[0]
            path = folder / "photos" / "ab"[number % 2] / f"{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        settings = {**SETTINGS, "path": str(folder / "photos"), "test_share": 0.4}
        return folder / f"photos/a/0{suffix}", lambda: collect("images", downloads={}, **settings)

    return write


def arrays(save: Callable[..., None]) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
        path = folder / "mine.npz"
        save(path, images=grey(12, 9, 8), labels=np.arange(12) % 2)
        settings = {**SETTINGS, "path": str(path), "test_share": 0.4}
        return path, lambda: collect("npz", downloads={}, **settings)

    return write


def installed(name: str) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    """A file of Fashion-MNIST in Debian's format, whose checksum differs from torchvision's."""

    def write(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        patch.setattr(public, "FASHION_MNIST_FOLDER", folder)
        for split in ("train", "t10k"):
            write_file(folder / f"{split}-images-idx3-ubyte.gz", encode_idx(grey(20)))
            write_file(folder / f"{split}-labels-idx1-ubyte.gz", encode_idx(LABELS))
        downloads = {"folder": str(folder / "none")}
        return folder / name, lambda: collect("fashion_mnist", downloads=downloads, **SETTINGS)

    return write


def trusted_emnist(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    """An archive whose checksum is correct also when it is damaged."""
    path, downloads = folder / "emnist/gzip.zip", {"folder": str(folder)}
    write_file(path, encode_emnist({split: (grey(20), LABELS) for split in ("train", "test")}))

    def read() -> object:
        patch.setattr(torchvision.datasets.EMNIST, "md5", write_file(path, path.read_bytes()))
        return collect("emnist", downloads=downloads, **SETTINGS)

    return path, read


def trusted_celeba(name: str) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        files = encode_celeba([1, -1, 1, -1, 1, -1], [0, 0, 0, 0, 2, 2])
        for file, content in files.items():
            write_file(folder / "celeba" / file, content)

        def read() -> object:
            paths = {file: folder / "celeba" / file for file in files}
            file_list = [
                ("id", write_file(path, path.read_bytes()), file) for file, path in paths.items()
            ]
            patch.setattr(torchvision.datasets.CelebA, "file_list", file_list)
            return collect("celeba", downloads={"folder": str(folder)}, **SETTINGS)

        return folder / "celeba" / name, read

    return write


FILES = {
    "font": (font, 100),
    "variable font": (variable_font, 25),
    "PNG": (image_folder(".png", False), 200),
    "PNG in colour": (image_folder(".png", True), 200),
    "JPEG": (image_folder(".jpg", True), 200),
    "npz": (arrays(np.savez), 200),
    "compressed npz": (arrays(np.savez_compressed), 200),
    "IDX images": (installed("train-images-idx3-ubyte.gz"), 200),
    "IDX labels": (installed("t10k-labels-idx1-ubyte.gz"), 200),
    "EMNIST": (trusted_emnist, 200),
    "CelebA's images": (trusted_celeba("img_align_celeba.zip"), 100),
    "CelebA's attributes": (trusted_celeba("list_attr_celeba.txt"), 100),
    "CelebA's splits": (trusted_celeba("list_eval_partition.txt"), 100),
}
"""Functions that write a file and return its `Case`, and the number of damaged copies."""


@pytest.mark.slow
@pytest.mark.parametrize(("write", "copies"), FILES.values(), ids=FILES)
def test_a_damaged_file_is_read_or_refused(tmp_path, monkeypatch, write, copies):
    path, read = write(tmp_path, monkeypatch)
    original, rng, sentences = path.read_bytes(), random.Random(0), []
    read()
    original_files = set(tmp_path.rglob("*"))
    for _ in range(copies):
        path.write_bytes(damage(rng, original))
        try:
            read()
        except UserError as error:
            sentences.append(str(error))
    assert all(0 < len(text) < 600 and "\n" not in text for text in sentences), sentences
    assert len(sentences) > copies / 4
    assert set(tmp_path.rglob("*")) == original_files


def test_paths_in_an_archive_are_not_written(tmp_path, monkeypatch):
    """Archives are read without unpacking them, also if their members have paths elsewhere."""
    path, read = trusted_emnist(tmp_path / "a/b", monkeypatch)
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("../../climbed", b"")
        archive.writestr(str(tmp_path / "absolute"), b"")
    path.write_bytes(content.getvalue())
    read()
    assert {file.name for file in tmp_path.rglob("*")} == {"a", "b", "emnist", "gzip.zip"}
