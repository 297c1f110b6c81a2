"""Files of fonts, images and data sets with random damage are read, or refused in one sentence."""

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


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """Cut off, with flipped bits, with bytes written over, or with some put between."""
    content, kind = bytearray(whole), rng.randrange(4)
    if kind == 0:
        return whole[: rng.randrange(len(whole))]
    for _ in range(rng.randint(1, 4)):
        at, many = rng.randrange(len(content)), rng.randint(1, 8)
        if kind == 1:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            content[at : at + many] = rng.choice([b"\0", b"\xff", b"\x7f"]) * many
        else:
            content[at:at] = rng.randbytes(many)
    return bytes(content)


Case = tuple[Path, Callable[[], object]]


def font(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
    return make_font(folder / "fonts/a.ttf"), lambda: fonts.draw_prototypes(
        1, "AB", str(folder / "fonts")
    )


def variable_font(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
    """The smallest of the installed ones."""
    files = [file.path for family in fontpkg.families().values() for file in family.files]
    of = folder / "fonts/a.ttf"
    of.parent.mkdir()
    of.write_bytes(min(files, key=lambda path: path.stat().st_size).read_bytes())
    return of, lambda: fonts.draw_prototypes(1, "AB", str(folder / "fonts"))


def folder_of(suffix: str, colour: bool) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
        for at in range(6):
            held = grey(3, 12, 10).transpose(1, 2, 0) if colour else grey(1, 12, 10)[0]
            path = folder / "photos" / "ab"[at % 2] / f"{at}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(held).save(path)
        own = {**SETTINGS, "path": str(folder / "photos"), "test_share": 0.4}
        return folder / f"photos/a/0{suffix}", lambda: collect("images", downloads={}, **own)

    return write


def arrays(save: Callable[..., None]) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, _patch: pytest.MonkeyPatch) -> Case:
        path = folder / "mine.npz"
        save(path, images=grey(12, 9, 8), labels=np.arange(12) % 2)
        own = {**SETTINGS, "path": str(path), "test_share": 0.4}
        return path, lambda: collect("npz", downloads={}, **own)

    return write


def installed(name: str) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    """A file of Fashion-MNIST as Debian has them, whose checksums are not torchvision's."""

    def write(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        patch.setattr(public, "INSTALLED", folder)
        for split in ("train", "t10k"):
            write_file(folder / f"{split}-images-idx3-ubyte.gz", encode_idx(grey(20)))
            write_file(folder / f"{split}-labels-idx1-ubyte.gz", encode_idx(LABELS))
        downloads = {"folder": str(folder / "none")}
        return folder / name, lambda: collect("fashion_mnist", downloads=downloads, **SETTINGS)

    return write


def trusted_emnist(folder: Path, patch: pytest.MonkeyPatch) -> Case:
    """An archive whose checksum is right, whatever is in it."""
    path, downloads = folder / "emnist/gzip.zip", {"folder": str(folder)}
    write_file(path, encode_emnist({split: (grey(20), LABELS) for split in ("train", "test")}))

    def read() -> object:
        patch.setattr(torchvision.datasets.EMNIST, "md5", write_file(path, path.read_bytes()))
        return collect("emnist", downloads=downloads, **SETTINGS)

    return path, read


def trusted_celeba(name: str) -> Callable[[Path, pytest.MonkeyPatch], Case]:
    def write(folder: Path, patch: pytest.MonkeyPatch) -> Case:
        files = encode_celeba([1, -1, 1, -1, 1, -1], [0, 0, 0, 0, 2, 2])
        for of, content in files.items():
            write_file(folder / "celeba" / of, content)

        def read() -> object:
            held = {of: folder / "celeba" / of for of in files}
            listed = [("id", write_file(path, path.read_bytes()), of) for of, path in held.items()]
            patch.setattr(torchvision.datasets.CelebA, "file_list", listed)
            return collect("celeba", downloads={"folder": str(folder)}, **SETTINGS)

        return folder / "celeba" / name, read

    return write


FILES = {
    "font": (font, 100),
    "variable font": (variable_font, 25),
    "PNG": (folder_of(".png", False), 200),
    "PNG in colour": (folder_of(".png", True), 200),
    "JPEG": (folder_of(".jpg", True), 200),
    "npz": (arrays(np.savez), 200),
    "compressed npz": (arrays(np.savez_compressed), 200),
    "IDX images": (installed("train-images-idx3-ubyte.gz"), 200),
    "IDX labels": (installed("t10k-labels-idx1-ubyte.gz"), 200),
    "EMNIST": (trusted_emnist, 200),
    "CelebA's images": (trusted_celeba("img_align_celeba.zip"), 100),
    "CelebA's attributes": (trusted_celeba("list_attr_celeba.txt"), 100),
    "CelebA's splits": (trusted_celeba("list_eval_partition.txt"), 100),
}
"""What writes a file and says how it is read, and how many times it is damaged."""


@pytest.mark.parametrize(("write", "times"), FILES.values(), ids=FILES)
def test_a_damaged_file_is_read_or_refused(tmp_path, monkeypatch, write, times):
    path, read = write(tmp_path, monkeypatch)
    whole, rng, said = path.read_bytes(), random.Random(0), []
    read()
    before = set(tmp_path.rglob("*"))
    for _ in range(times):
        path.write_bytes(damaged(rng, whole))
        try:
            read()
        except UserError as error:
            said.append(str(error))
    assert all(0 < len(sentence) < 600 and "\n" not in sentence for sentence in said), said
    assert len(said) > times / 4
    assert set(tmp_path.rglob("*")) == before


def test_what_an_archive_names_is_not_written(tmp_path, monkeypatch):
    """Archives are read, never unpacked, whatever paths their members have."""
    path, read = trusted_emnist(tmp_path / "a/b", monkeypatch)
    packed = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../../climbed", b"")
        archive.writestr(str(tmp_path / "absolute"), b"")
    path.write_bytes(packed.getvalue())
    read()
    assert {of.name for of in tmp_path.rglob("*")} == {"a", "b", "emnist", "gzip.zip"}
