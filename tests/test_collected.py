"""Collected images, read from files as they come, end in the one form of a data set."""

import gzip
import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustgen.config.datasets import KINDS
from robustgen.data import image_folder as imagefolder
from robustgen.data import npz_file as arrayfile
from robustgen.data import public
from robustgen.data.balanced import Collection, Labelled, assemble
from robustgen.data.sources import collect
from robustgen.data.split import Split, load
from robustgen.errors import UserError
from robustgen.io import digest_cache as notes
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors

DRAW = np.random.default_rng(0)
ABOUT = dict(study_seed=0, dataset="mine", transformations="slight")


def grey(n: int, height: int = 28, width: int = 28) -> np.ndarray:
    return DRAW.integers(0, 256, (n, height, width), np.uint8)


def splits(folder: Path, kind: str, **of: Any) -> dict[str, Split]:
    """A data set as collected, saved and loaded again."""
    downloads = {"folder": str(folder / "data"), "mirror": None}
    bank, table = collect(kind, downloads=downloads, **ABOUT, **of)
    save_tensors(folder / "bank.safetensors", {"images": bank}, {})
    write_table(folder / "examples.parquet", table, table.schema)
    names = ("train", "test")
    return {s: load(folder / "bank.safetensors", folder / "examples.parquet", s) for s in names}


def found(split: Split, images: np.ndarray, labels: np.ndarray) -> None:
    """Every image of a split is one of `images` `(N, C, H, W)`, another each, with its label."""
    rows = {image.tobytes(): row for row, image in enumerate(images)}
    held = (split.images() * 255).round().byte().numpy()
    chosen = [rows[image.tobytes()] for image in held]
    assert len(set(chosen)) == len(chosen)
    assert labels[chosen].tolist() == split.labels.tolist()


def idx(array: np.ndarray) -> bytes:
    """The gzipped IDX file of MNIST's format."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def keep(folder: Path, content: bytes) -> str:
    """Write a file to the data folder; its checksum."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """Four files like Fashion-MNIST's, and what they hold by split."""
    resources, made = [], {}
    for split, n in (("train", 26), ("t10k", 12)):
        made[split] = grey(n), np.arange(n) % 10
        for part, array in zip(("images-idx3", "labels-idx1"), made[split], strict=True):
            name = f"{split}-{part}-ubyte.gz"
            resources.append((name, keep(tmp_path / "data/fashion_mnist" / name, idx(array))))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [])
    monkeypatch.setattr(public, "INSTALLED", tmp_path / "usr")
    return made


def test_fashion_mnist(tmp_path, clothes):
    data = splits(tmp_path, "fashion_mnist")
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = clothes[name]
        found(data[split], images[:, None], labels)
        assert len(data[split]) == len(labels) // 10 * 10
        assert data[split].labels.tolist() == list(range(10)) * (len(labels) // 10)
    assert data["train"].classes[0] == "T-shirt/top"
    assert data["train"].ranges[1][-1] == pytest.approx(np.pi / 10)


def test_an_installed_package_serves_too(tmp_path, clothes, monkeypatch):
    monkeypatch.setattr(public, "INSTALLED", tmp_path / "data/fashion_mnist")
    held = collect("fashion_mnist", downloads={"folder": str(tmp_path / "empty")}, **ABOUT)
    assert len(held[0]) == 30
    assert not (tmp_path / "empty").exists()
    name = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "data/fashion_mnist" / name).write_bytes(idx(clothes["t10k"][1])[:-9])
    with pytest.raises(UserError, match=rf"{name} is not a readable file of this data set: "):
        collect("fashion_mnist", downloads={"folder": str(tmp_path / "empty")}, **ABOUT)


@pytest.mark.usefixtures("clothes")
def test_a_missing_file_of_a_public_data_set(tmp_path):
    (tmp_path / "data/fashion_mnist/t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"put fashion_mnist/t10k-images-idx3-ubyte\.gz into"):
        splits(tmp_path, "fashion_mnist")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.skipif(not public.INSTALLED.is_dir(), reason="no package dataset-fashion-mnist")
def test_the_real_fashion_mnist(tmp_path):
    bank, table = collect("fashion_mnist", downloads={"folder": str(tmp_path)}, **ABOUT)
    assert bank.shape == (70_000, 1, 28, 28)
    assert table["split"].to_pandas().value_counts().to_dict() == {"train": 60_000, "test": 10_000}
    assert float(bank[:60_000].float().mean()) / 255 == pytest.approx(0.2860, abs=1e-4)


def emnist(made: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The archive of images and labels by split, which EMNIST has on their sides."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for split, (images, labels) in made.items():
            stem = f"gzip/emnist-digits-{split}"
            archive.writestr(f"{stem}-images-idx3-ubyte.gz", idx(images.swapaxes(1, 2)))
            archive.writestr(f"{stem}-labels-idx1-ubyte.gz", idx(labels))
    return packed.getvalue()


def test_emnist_is_turned_upright(tmp_path, monkeypatch):
    made = {split: (grey(20, 28, 30), np.arange(20) % 10) for split in ("train", "test")}
    md5 = keep(tmp_path / "data/emnist/gzip.zip", emnist(made))
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", md5)
    data = splits(tmp_path, "emnist")
    for split, (images, labels) in made.items():
        found(data[split], images[:, None], labels)
        assert len(data[split]) == 20
    assert data["test"].classes == tuple("0123456789")


def face(at: int) -> bytes:
    """A JPEG of CelebA's size: grey as `at` says in the middle 208x178 pixels, else white."""
    pixels = np.full((218, 178, 3), 255, np.uint8)
    pixels[5:213] = 10 * at
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=100)
    return written.getvalue()


def celeba(males: list[int], parts: list[int]) -> dict[str, bytes]:
    """The three files of faces: whether each is a man's, and the number of its split."""
    names = [f"{at:06d}.jpg" for at in range(1, len(males) + 1)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for at, name in enumerate(names, 1):
            archive.writestr(f"img_align_celeba/{name}", face(at))
    attributes = "".join(f"{n}  1 {m:2d} -1\n" for n, m in zip(names, males, strict=True))
    return {
        "img_align_celeba.zip": packed.getvalue(),
        "list_attr_celeba.txt": f"8\nBald Male Young\n{attributes}".encode(),
        "list_eval_partition.txt": "".join(
            f"{n} {p}\n" for n, p in zip(names, parts, strict=True)
        ).encode(),
    }


def test_celeba(tmp_path, monkeypatch):
    males, parts = [1, -1, 1, 1, -1, -1, 1, -1], [0, 0, 0, 0, 1, 2, 2, 2]
    contents = celeba(males, parts)
    listed = [("id", keep(tmp_path / "data/celeba" / n, of), n) for n, of in contents.items()]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", listed)
    data = splits(tmp_path, "celeba")
    for split, sources in (("train", {1, 2, 3, 4}), ("test", {6, 7, 8})):
        images = data[split].images() * 25.5
        assert images.shape == (2, 3, 56, 48)
        assert float((images - images.round()).abs().max()) < 0.15
        shown = [int(image.mean().round()) for image in images]
        assert set(shown) <= sources
        assert [males[at - 1] for at in shown] == [-1, 1]
    assert data["train"].classes == ("not male", "male")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.floats(0.01, 0.99), st.randoms())
def test_splits_are_balanced_in_order_and_disjoint(counts, share, shuffle):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(labels)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8), "u1")
    given = Labelled(np.array(labels), lambda rows: images[rows])
    names = tuple(map(str, range(len(counts))))

    def made():
        return assemble(Collection("here", names, given), **ABOUT, test_share=share)

    bank, table = made()
    rows = bank[:, 0, 0, 0].tolist()
    assert len(set(rows)) == len(rows) == len(counts) * min(counts)
    assert table["source"].to_pylist() == list(range(len(rows)))
    assert table["label"].to_pylist() == [labels[row] for row in rows]
    for split in ("train", "test"):
        of = table.to_pandas().query(f"split == '{split}'")["label"].tolist()
        assert of == list(range(len(counts))) * (len(of) // len(counts))
        assert of
    again, same = made()
    assert torch.equal(again, bank)
    assert same.equals(table)


def test_another_seed_chooses_others():
    given = Labelled(
        np.arange(40) % 2,
        lambda rows: (
            np.zeros((len(rows), 1, 8, 8), np.uint8) + rows[:, None, None, None].astype(np.uint8)
        ),
    )
    held = Collection("here", ("a", "b"), given)
    one, other = (assemble(held, **{**ABOUT, "study_seed": s}, test_share=0.5)[0] for s in (0, 1))
    assert set(one[20:, 0, 0, 0].tolist()) != set(other[20:, 0, 0, 0].tolist())


def photos(folder: Path, counts: dict[str, int], shape: tuple[int, ...] = (9, 10)) -> None:
    """A folder of PNG files by class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for at in range(count):
            pixels = DRAW.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{at}.png")


def own(kind: str, path: Path) -> Any:
    return KINDS[kind].model_validate({"kind": kind, "path": str(path)})


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 3)], ids=["grey", "colour"])
def test_a_folder_of_images(tmp_path, shape):
    photos(tmp_path / "photos", {"dogs": 6, "cats": 5}, shape)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden").mkdir()
    data = splits(tmp_path, "images", path=str(tmp_path / "photos"), test_share=0.2)
    images = imagefolder.read_images(imagefolder.scan(tmp_path / "photos").files)
    assert images.shape == (11, 3 if len(shape) == 3 else 1, 9, 10)
    for split in data.values():
        found(split, images, np.repeat([0, 1], [5, 6]))
    assert data["train"].classes == ("cats", "dogs")
    settings = own("images", tmp_path / "photos")
    assert [len(data["train"]), len(data["test"])] == [8, 2]
    assert (settings.classes, settings.train_examples, settings.test_examples) == (2, 8, 2)


def test_jpegs_are_images_too(tmp_path):
    photos(tmp_path, {"a": 1, "b": 1})
    file = tmp_path / "a" / "1.JPEG"
    Image.fromarray(np.full((9, 10), 77, np.uint8)).save(file)
    assert (imagefolder.read_images([file]) == 77).all()
    assert file in imagefolder.scan(tmp_path).files


def saved(path: Path, pixels: np.ndarray | None = None, mode: str = "L", **of: Any) -> None:
    Image.fromarray(np.zeros((9, 10), np.uint8) if pixels is None else pixels).convert(mode).save(
        path, **of
    )


def refused(kind: str, folder: Path, path: Path) -> str:
    """The sentence about a user's files, told by the study or else by the job."""

    def run() -> None:
        assert own(kind, path).train_examples
        splits(folder, kind, path=str(path), test_share=0.2)

    with pytest.raises(UserError) as caught:
        run()
    says = str(caught.value)
    assert not list(folder.glob("*.safetensors"))
    assert str(path) in says
    assert len(says.splitlines()) == 1
    return says


BAD_PHOTOS = {
    "one class": (lambda f: (f / "a").rename(f / ".a"), "has 1 sub-folder, but must have 2"),
    "an empty class": (
        lambda f: (f / "c").mkdir(),
        "c has no images, which end in .png, .jpg, .jpeg, .webp, .tif, .tiff or .bmp",
    ),
    "one image of a class": (lambda f: photos(f, {"c": 1}), "c has 1 image, but must have 2"),
    "no image": (
        lambda f: (f / "a/1.png").write_text("?"),
        "a/1.png is not a readable PNG, JPEG, ",
    ),
    "a truncated image": (
        lambda f: (f / "a/1.png").write_bytes((f / "a/1.png").read_bytes()[:-30]),
        "a/1.png is not a readable PNG, JPEG, WebP, TIFF or BMP file",
    ),
    "another format": (
        lambda f: saved(f / "a/1.png", format="GIF"),
        "a/1.png is not a readable PNG, JPEG, WebP, TIFF or BMP file",
    ),
    "another size": (
        lambda f: saved(f / "b/1.png", np.zeros((9, 11), np.uint8)),
        "b/1.png is 9x11 and grey, but must be 9x10 and grey (height x width), as ",
    ),
    "colour among grey": (
        lambda f: saved(f / "b/1.png", mode="RGB"),
        "b/1.png is 9x10 and colour, but must be 9x10 and grey",
    ),
    "transparent": (
        lambda f: saved(f / "a/0.png", mode="RGBA"),
        "a/0.png has the mode RGBA (colour and transparent), but must have L (grey) or RGB",
    ),
    "too small": (
        lambda f: [saved(p, grey(1, 7, 9)[0]) for p in f.rglob("*.png")],
        "the images have 7x9 pixels, but must have 8x8 at least",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), BAD_PHOTOS.values(), ids=BAD_PHOTOS)
def test_a_bad_folder_is_one_sentence(tmp_path, spoil, says):
    photos(tmp_path / "photos", {"a": 3, "b": 3})
    spoil(tmp_path / "photos")
    assert says in refused("images", tmp_path, tmp_path / "photos")


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere to take images from"):
        imagefolder.scan(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="flat has no sub-folders, but must have 2 or more"):
        imagefolder.scan(tmp_path / "flat")


def test_signatures_change_with_the_files(tmp_path, monkeypatch):
    """With names and contents, whatever the times; also where digests were noted."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", {"a": 2, "b": 2})
    file = tmp_path / "photos/a/0.png"

    def other_bytes() -> None:
        about, content = file.stat(), bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))

    changes = (
        (lambda: None, 1),
        (lambda: os.utime(file, (1, 1)), 1),
        (other_bytes, 2),
        (lambda: file.rename(file.with_name("x.png")), 3),
    )
    for settled in (1e9, 0.0):
        monkeypatch.setattr(notes, "SETTLED", settled)
        photos(tmp_path / "photos", {"a": 2, "b": 2})
        (tmp_path / "photos/a/x.png").unlink(missing_ok=True)
        seen = set()
        for change, different in changes:
            change()
            seen.add(own("images", tmp_path / "photos").signature())
            assert own("images", tmp_path / "photos").signature() in seen
            assert len(seen) == different, (settled, different)


def test_a_noted_file_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", {"a": 2, "b": 2})
    monkeypatch.setattr(notes, "SETTLED", 0.0)
    before = imagefolder.scan(tmp_path / "photos").signature()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    assert imagefolder.scan(tmp_path / "photos").signature() == before


ARRAYS: dict[str, Any] = {"images": grey(9, 8, 12), "labels": np.array([0, 1, 1, 0, 1, 0, 1, 1, 0])}
OF_TESTS = {"test_images": grey(5, 8, 12), "test_labels": np.array([1, 0, 1, 0, 1])}
NPZ = {
    # what it shows: (arrays, train and test examples)
    "grey": (ARRAYS, (6, 2)),
    "one channel": ({**ARRAYS, "images": ARRAYS["images"][..., None]}, (6, 2)),
    "colour": ({**ARRAYS, "images": np.stack([ARRAYS["images"]] * 3, -1)}, (6, 2)),
    "floats": ({**ARRAYS, "images": ARRAYS["images"].astype(np.float32) / 255}, (6, 2)),
    "test images": ({**ARRAYS, **OF_TESTS}, (8, 4)),
    "small labels": ({**ARRAYS, "labels": ARRAYS["labels"].astype(np.uint8)}, (6, 2)),
}


@pytest.mark.parametrize(("arrays", "examples"), NPZ.values(), ids=NPZ)
def test_an_npz_file(tmp_path, arrays, examples):
    path = tmp_path / "held.npz"
    np.savez(path, **arrays)
    data = splits(tmp_path, "npz", path=str(path), test_share=0.2)
    settings = own("npz", path)
    for split, number in zip(("train", "test"), examples, strict=True):
        name = f"{split}_" if "test_images" in arrays and split == "test" else ""
        images = {**ARRAYS, **OF_TESTS}[f"{name}images"][:, None]
        channels = 3 if arrays["images"].shape[-1] == 3 else 1
        found(data[split], np.repeat(images, channels, 1), arrays[f"{name}labels"])
        assert len(data[split]) == number
        assert getattr(settings, f"{split}_examples") == number
    assert data["train"].classes == ("0", "1")
    assert settings.classes == 2


@pytest.mark.parametrize("settled", [1e9, 0.0], ids=["read", "noted"])
def test_signatures_of_arrays_change_with_the_file(tmp_path, monkeypatch, settled):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notes, "SETTLED", settled)
    path = tmp_path / "held.npz"
    np.savez(path, **ARRAYS)
    before = own("npz", path)
    assert own("npz", path).signature() == before.signature()
    np.savez(path, **{**ARRAYS, "labels": 1 - ARRAYS["labels"]})
    assert own("npz", path).signature() != before.signature()


def test_a_noted_npz_file_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notes, "SETTLED", 0.0)
    np.savez(tmp_path / "held.npz", **ARRAYS)
    before = arrayfile.summarize("held.npz")
    monkeypatch.setattr(arrayfile, "read_arrays", lambda path: pytest.fail(f"{path} is read"))
    assert arrayfile.summarize(tmp_path / "held.npz") == before
    (note,) = notes.FOLDER.glob("*.json")
    note.write_text('{"version": 1, "stamp": [1], "summary": null}')
    with pytest.raises(pytest.fail.Exception, match="is read"):
        arrayfile.summarize("held.npz")


FLOATS = ARRAYS["images"] / 255
BAD_NPZ = {
    # what it shows: (arrays, what the sentence says)
    "labels missing": (
        {"images": ARRAYS["images"]},
        "has no array labels: it must have images and",
    ),
    "images missing": ({"labels": ARRAYS["labels"]}, "has no array images"),
    "test labels missing": ({**ARRAYS, "test_images": grey(2)}, "has no array test_labels"),
    "labels with a gap": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 2},
        "no label is 1, though the largest is 2, but must be 0",
    ),
    "labels below 0": ({**ARRAYS, "labels": ARRAYS["labels"] - 1}, "a label is -1, but must be 0"),
    "one huge label": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 10**15},
        "no label is 1, though the largest is 1000000000000000, but",
    ),
    "one class": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 0},
        "no label is 1, though the largest is 0, but must be 0 to K-1",
    ),
    "test labels of another class": (
        {**ARRAYS, **OF_TESTS, "test_labels": np.array([0, 1, 2, 0, 1])},
        "a label is 2, but must be 0 to K-1 for K classes, two or more, each of which has train "
        "images (test_labels of ",
    ),
    "no test labels": (
        {**ARRAYS, "test_images": grey(2)[:0], "test_labels": np.ones(0, int)},
        "have the shape (0,), but must have (N,)",
    ),
    "labels that are no whole numbers": (
        {**ARRAYS, "labels": ARRAYS["labels"] / 2},
        "are float64, but must be of a type of whole numbers",
    ),
    "labels that are objects": (
        {**ARRAYS, "labels": np.array([{}, None])},
        "is not a readable npz file: Object arrays cannot be loaded",
    ),
    "labels in a table": ({**ARRAYS, "labels": np.ones((9, 1), int)}, "have the shape (9, 1), but"),
    "no labels": ({**ARRAYS, "labels": np.ones(0, int)}, "have the shape (0,), but must have (N,)"),
    "one image of a class": (
        {"images": grey(3), "labels": np.array([0, 0, 1])},
        "a class in ",
    ),
    "fewer images": ({**ARRAYS, "images": grey(8)}, "are 8, but must be 9, as many as the labels"),
    "flat images": ({**ARRAYS, "images": grey(9)[0]}, "have the shape (28, 28), but must have (N"),
    "two channels": ({**ARRAYS, "images": np.zeros((9, 8, 8, 2), "u1")}, "C being 1 or 3"),
    "channels first": ({**ARRAYS, "images": np.zeros((9, 3, 8, 8), "u1")}, "C being 1 or 3"),
    "wide pixels": (
        {**ARRAYS, "images": ARRAYS["images"].astype(int)},
        "are int64, but must be uint8 in 0…255 or floats in [0, 1]",
    ),
    "NaN": ({**ARRAYS, "images": FLOATS * np.nan}, "have the pixel nan, but must be in [0, 1]"),
    "above 1": ({**ARRAYS, "images": FLOATS + 2e-3 + 1}, "but must be in [0, 1]"),
    "below 0": ({**ARRAYS, "images": FLOATS - 2}, "have the pixel -"),
    "too small": ({**ARRAYS, "images": grey(9, 8, 7)}, "have 8x7 pixels, but must have 8x8 at"),
    "test images of another size": (
        {**ARRAYS, **OF_TESTS, "test_images": grey(5, 8, 11)},
        "test images are 8x11 with 1 channel, but must be 8x12 with 1 channel (height x width)",
    ),
}


@pytest.mark.parametrize(("arrays", "says"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_bad_arrays_are_one_sentence(tmp_path, arrays, says):
    np.savez(tmp_path / "held.npz", **arrays)
    assert says in refused("npz", tmp_path, tmp_path / "held.npz")


def test_a_file_that_is_no_npz_is_one_sentence(tmp_path):
    path = tmp_path / "held.npz"
    path.write_bytes(b"no arrays")
    assert "is no npz file" in refused("npz", tmp_path, tmp_path / "held.npz")
    with path.open("wb") as file:
        np.save(file, grey(2))
    assert "is one array, but must be an npz file with images and labels" in refused(
        "npz", tmp_path, tmp_path / "held.npz"
    )
    np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:-40])
    assert "is not a readable npz file" in refused("npz", tmp_path, tmp_path / "held.npz")
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.npz to take images from"):
        arrayfile.summarize(tmp_path / "nowhere.npz")


def test_a_header_names_ranges_and_classes(tmp_path):
    np.savez(tmp_path / "held.npz", **ARRAYS)
    about = {**ABOUT, "path": str(tmp_path / "held.npz"), "test_share": 0.2}
    _, table = collect("npz", downloads={}, **about)
    held = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert held == {"ranges": "slight", "classes": json.dumps(["0", "1"])}
