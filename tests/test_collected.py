"""Data sets from image files: public ones, and folders and npz files of the user."""

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
from robustgen.data import image_folder, npz_file, public
from robustgen.data.balanced import LabelledImages, RawDataset, build_dataset
from robustgen.data.sources import collect
from robustgen.data.split import Split, load_split
from robustgen.errors import UserError
from robustgen.io import digest_cache
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors

RNG = np.random.default_rng(0)
SETTINGS = dict(study_seed=0, dataset="mine", transformations="slight")


def grey(n: int, height: int = 28, width: int = 28) -> np.ndarray:
    """Random images `(n, height, width)`."""
    return RNG.integers(0, 256, (n, height, width), np.uint8)


def collect_and_load(folder: Path, kind: str, **arguments: Any) -> dict[str, Split]:
    """Collect a data set, save it, and load its splits."""
    downloads = {"folder": str(folder / "data"), "mirror": None}
    images, table = collect(kind, downloads=downloads, **SETTINGS, **arguments)
    save_tensors(folder / "images.safetensors", {"images": images}, {})
    write_table(folder / "examples.parquet", table, table.schema)
    names = ("train", "test")
    files = folder / "images.safetensors", folder / "examples.parquet"
    return {split: load_split(*files, split) for split in names}


def assert_distinct_images_of(split: Split, images: np.ndarray, labels: np.ndarray) -> None:
    """The images of a split are distinct ones of `images` `(N, C, H, W)`, with their labels."""
    rows = {image.tobytes(): row for row, image in enumerate(images)}
    pixels = (split.images() * 255).round().byte().numpy()
    split_rows = [rows[image.tobytes()] for image in pixels]
    assert len(set(split_rows)) == len(split_rows)
    assert labels[split_rows].tolist() == split.labels.tolist()


def encode_idx(array: np.ndarray) -> bytes:
    """A gzipped IDX file, the format of MNIST."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def write_file(path: Path, content: bytes) -> str:
    """Write a file and return its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """Write four files like those of Fashion-MNIST; images and labels by split."""
    resources, arrays = [], {}
    for split, n in (("train", 26), ("t10k", 12)):
        arrays[split] = grey(n), np.arange(n) % 10
        for part, array in zip(("images-idx3", "labels-idx1"), arrays[split], strict=True):
            name = f"{split}-{part}-ubyte.gz"
            resources.append(
                (name, write_file(tmp_path / "data/fashion_mnist" / name, encode_idx(array)))
            )
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [])
    monkeypatch.setattr(public, "FASHION_MNIST_FOLDER", tmp_path / "usr")
    return arrays


def test_fashion_mnist_is_read(tmp_path, clothes):
    data = collect_and_load(tmp_path, "fashion_mnist")
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = clothes[name]
        assert_distinct_images_of(data[split], images[:, None], labels)
        assert len(data[split]) == len(labels) // 10 * 10
        assert data[split].labels.tolist() == list(range(10)) * (len(labels) // 10)
    assert data["train"].classes[0] == "T-shirt/top"
    assert data["train"].ranges[1][-1] == pytest.approx(np.pi / 10)


def test_an_installed_package_is_used(tmp_path, clothes, monkeypatch):
    monkeypatch.setattr(public, "FASHION_MNIST_FOLDER", tmp_path / "data/fashion_mnist")
    images, _ = collect("fashion_mnist", downloads={"folder": str(tmp_path / "empty")}, **SETTINGS)
    assert len(images) == 30
    assert not (tmp_path / "empty").exists()
    name = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / "data/fashion_mnist" / name).write_bytes(encode_idx(clothes["t10k"][1])[:-9])
    with pytest.raises(UserError, match=rf"{name} is not a readable file of this data set: "):
        collect("fashion_mnist", downloads={"folder": str(tmp_path / "empty")}, **SETTINGS)


@pytest.mark.usefixtures("clothes")
def test_a_missing_file_of_a_public_data_set_is_named(tmp_path):
    (tmp_path / "data/fashion_mnist/t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"put fashion_mnist/t10k-images-idx3-ubyte\.gz into"):
        collect_and_load(tmp_path, "fashion_mnist")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.skipif(
    not public.FASHION_MNIST_FOLDER.is_dir(), reason="no package dataset-fashion-mnist"
)
def test_the_real_fashion_mnist(tmp_path):
    images, table = collect("fashion_mnist", downloads={"folder": str(tmp_path)}, **SETTINGS)
    assert images.shape == (70_000, 1, 28, 28)
    assert table["split"].to_pandas().value_counts().to_dict() == {"train": 60_000, "test": 10_000}
    assert float(images[:60_000].float().mean()) / 255 == pytest.approx(0.2860, abs=1e-4)


def encode_emnist(arrays: dict[str, tuple[np.ndarray, np.ndarray]]) -> bytes:
    """The archive of EMNIST with transposed images, and labels, by split."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for split, (images, labels) in arrays.items():
            stem = f"gzip/emnist-digits-{split}"
            archive.writestr(f"{stem}-images-idx3-ubyte.gz", encode_idx(images.swapaxes(1, 2)))
            archive.writestr(f"{stem}-labels-idx1-ubyte.gz", encode_idx(labels))
    return stream.getvalue()


def test_emnist_is_turned_upright(tmp_path, monkeypatch):
    arrays = {split: (grey(20, 28, 30), np.arange(20) % 10) for split in ("train", "test")}
    md5 = write_file(tmp_path / "data/emnist/gzip.zip", encode_emnist(arrays))
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", md5)
    data = collect_and_load(tmp_path, "emnist")
    for split, (images, labels) in arrays.items():
        assert_distinct_images_of(data[split], images[:, None], labels)
        assert len(data[split]) == 20
    assert data["test"].classes == tuple("0123456789")


def encode_face(number: int) -> bytes:
    """A JPEG of CelebA's size: white, but in the central 208x178 pixels a grey of the number."""
    pixels = np.full((218, 178, 3), 255, np.uint8)
    pixels[5:213] = 10 * number
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=100)
    return stream.getvalue()


def encode_celeba(males: list[int], split_numbers: list[int]) -> dict[str, bytes]:
    """The three files of CelebA, by name: faces, the attribute "Male", numbers of the splits."""
    names = [f"{number:06d}.jpg" for number in range(1, len(males) + 1)]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, name in enumerate(names, 1):
            archive.writestr(f"img_align_celeba/{name}", encode_face(number))
    attributes = "".join(f"{n}  1 {m:2d} -1\n" for n, m in zip(names, males, strict=True))
    return {
        "img_align_celeba.zip": stream.getvalue(),
        "list_attr_celeba.txt": f"8\nBald Male Young\n{attributes}".encode(),
        "list_eval_partition.txt": "".join(
            f"{n} {p}\n" for n, p in zip(names, split_numbers, strict=True)
        ).encode(),
    }


def test_celeba_is_cropped_and_split(tmp_path, monkeypatch):
    males, split_numbers = [1, -1, 1, 1, -1, -1, 1, -1], [0, 0, 0, 0, 1, 2, 2, 2]
    contents = encode_celeba(males, split_numbers)
    folder = tmp_path / "data/celeba"
    file_list = [
        ("id", write_file(folder / name, content), name) for name, content in contents.items()
    ]
    monkeypatch.setattr(torchvision.datasets.CelebA, "file_list", file_list)
    data = collect_and_load(tmp_path, "celeba")
    for split, face_numbers in (("train", {1, 2, 3, 4}), ("test", {6, 7, 8})):
        images = data[split].images() * 25.5
        assert images.shape == (2, 3, 56, 48)
        assert float((images - images.round()).abs().max()) < 0.15
        numbers = [int(image.mean().round()) for image in images]
        assert set(numbers) <= face_numbers
        assert [males[number - 1] for number in numbers] == [-1, 1]
    assert data["train"].classes == ("not male", "male")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=4), st.floats(0.01, 0.99), st.randoms())
def test_splits_are_balanced_in_order_and_disjoint(counts, share, shuffle):
    labels = [k for k, count in enumerate(counts) for _ in range(count)]
    shuffle.shuffle(labels)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8), "u1")
    labelled = LabelledImages(np.array(labels), lambda rows: images[rows])
    names = tuple(map(str, range(len(counts))))

    def build():
        raw = RawDataset("images", names, labelled)
        return build_dataset(raw, **SETTINGS, test_share=share)

    selected_images, table = build()
    rows = selected_images[:, 0, 0, 0].tolist()
    assert len(set(rows)) == len(rows) == len(counts) * min(counts)
    assert table["source_index"].to_pylist() == list(range(len(rows)))
    assert table["label"].to_pylist() == [labels[row] for row in rows]
    for split in ("train", "test"):
        split_labels = table.to_pandas().query(f"split == '{split}'")["label"].tolist()
        rounds = len(split_labels) // len(counts)
        assert split_labels == list(range(len(counts))) * rounds
        assert split_labels
    second_images, second_table = build()
    assert torch.equal(second_images, selected_images)
    assert second_table.equals(table)


def test_another_seed_selects_other_test_images():
    labelled = LabelledImages(
        np.arange(40) % 2,
        lambda rows: (
            np.zeros((len(rows), 1, 8, 8), np.uint8) + rows[:, None, None, None].astype(np.uint8)
        ),
    )
    raw = RawDataset("images", ("a", "b"), labelled)
    image_tensors = (
        build_dataset(raw, **{**SETTINGS, "study_seed": seed}, test_share=0.5)[0] for seed in (0, 1)
    )
    first, second = (set(images[20:, 0, 0, 0].tolist()) for images in image_tensors)
    assert first != second


def write_photos(folder: Path, counts: dict[str, int], shape: tuple[int, ...] = (9, 10)) -> None:
    """Write PNG files of random pixels to a folder, with a subfolder for each class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def make_settings(kind: str, path: Path) -> Any:
    """The settings of a data set of the user, as a config has them."""
    return KINDS[kind].model_validate({"kind": kind, "path": str(path)})


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 3)], ids=["grey", "colour"])
def test_a_folder_of_images_is_read(tmp_path, shape):
    write_photos(tmp_path / "photos", {"dogs": 6, "cats": 5}, shape)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden").mkdir()
    data = collect_and_load(tmp_path, "images", path=str(tmp_path / "photos"), test_share=0.2)
    images = image_folder.read_images(image_folder.scan(tmp_path / "photos").files)
    assert images.shape == (11, 3 if len(shape) == 3 else 1, 9, 10)
    for split in data.values():
        assert_distinct_images_of(split, images, np.repeat([0, 1], [5, 6]))
    assert data["train"].classes == ("cats", "dogs")
    settings = make_settings("images", tmp_path / "photos")
    assert [len(data["train"]), len(data["test"])] == [8, 2]
    assert (settings.classes, settings.train_examples, settings.test_examples) == (2, 8, 2)


def test_jpeg_files_are_read(tmp_path):
    write_photos(tmp_path, {"a": 1, "b": 1})
    file = tmp_path / "a" / "1.JPEG"
    Image.fromarray(np.full((9, 10), 77, np.uint8)).save(file)
    assert (image_folder.read_images([file]) == 77).all()
    assert file in image_folder.scan(tmp_path).files


def save_image(
    path: Path, pixels: np.ndarray | None = None, mode: str = "L", **options: Any
) -> None:
    array = np.zeros((9, 10), np.uint8) if pixels is None else pixels
    Image.fromarray(array).convert(mode).save(path, **options)


def refusal(kind: str, folder: Path, path: Path) -> str:
    """The error message of the study or, if it accepts the files, of the job."""

    def run() -> None:
        assert make_settings(kind, path).train_examples
        collect_and_load(folder, kind, path=str(path), test_share=0.2)

    with pytest.raises(UserError) as caught:
        run()
    message = str(caught.value)
    assert not list(folder.glob("*.safetensors"))
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


BAD_PHOTOS = {
    "one class": (lambda f: (f / "a").rename(f / ".a"), "has 1 sub-folder, but must have 2"),
    "an empty class": (
        lambda f: (f / "c").mkdir(),
        "c has no images, which end in .png, .jpg, .jpeg, .webp, .tif, .tiff or .bmp",
    ),
    "one image of a class": (lambda f: write_photos(f, {"c": 1}), "c has 1 image, but must have 2"),
    "no image": (
        lambda f: (f / "a/1.png").write_text("?"),
        "a/1.png is not a readable PNG, JPEG, ",
    ),
    "a truncated image": (
        lambda f: (f / "a/1.png").write_bytes((f / "a/1.png").read_bytes()[:-30]),
        "a/1.png is not a readable PNG, JPEG, WebP, TIFF or BMP file",
    ),
    "another format": (
        lambda f: save_image(f / "a/1.png", format="GIF"),
        "a/1.png is not a readable PNG, JPEG, WebP, TIFF or BMP file",
    ),
    "another size": (
        lambda f: save_image(f / "b/1.png", np.zeros((9, 11), np.uint8)),
        "b/1.png is 9x11 and grey, but must be 9x10 and grey (height x width), as ",
    ),
    "colour among grey": (
        lambda f: save_image(f / "b/1.png", mode="RGB"),
        "b/1.png is 9x10 and colour, but must be 9x10 and grey",
    ),
    "transparent": (
        lambda f: save_image(f / "a/0.png", mode="RGBA"),
        "a/0.png has the mode RGBA (colour and transparent), but must have L (grey) or RGB",
    ),
    "too small": (
        lambda f: [save_image(p, grey(1, 7, 9)[0]) for p in f.rglob("*.png")],
        "the images have 7x9 pixels, but must have 8x8 at least",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), BAD_PHOTOS.values(), ids=BAD_PHOTOS)
def test_a_bad_folder_is_one_sentence(tmp_path, damage, reason):
    write_photos(tmp_path / "photos", {"a": 3, "b": 3})
    damage(tmp_path / "photos")
    assert reason in refusal("images", tmp_path, tmp_path / "photos")


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere to take images from"):
        image_folder.scan(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="flat has no sub-folders, but must have 2 or more"):
        image_folder.scan(tmp_path / "flat")


def test_signatures_change_with_names_and_contents_of_files(tmp_path, monkeypatch):
    """Times do not count. The signature is the same with and without cached digests."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", {"a": 2, "b": 2})
    file = tmp_path / "photos/a/0.png"

    def change_bytes() -> None:
        status, content = file.stat(), bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    changes = (
        (lambda: None, 1),
        (lambda: os.utime(file, (1, 1)), 1),
        (change_bytes, 2),
        (lambda: file.rename(file.with_name("x.png")), 3),
    )
    for resolution in (1e9, 0.0):
        monkeypatch.setattr(digest_cache, "MTIME_RESOLUTION_S", resolution)
        write_photos(tmp_path / "photos", {"a": 2, "b": 2})
        (tmp_path / "photos/a/x.png").unlink(missing_ok=True)
        signatures = set()
        for change, signature_count in changes:
            change()
            signatures.add(make_settings("images", tmp_path / "photos").signature())
            assert make_settings("images", tmp_path / "photos").signature() in signatures
            assert len(signatures) == signature_count, resolution


def test_a_file_with_a_cached_digest_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", {"a": 2, "b": 2})
    monkeypatch.setattr(digest_cache, "MTIME_RESOLUTION_S", 0.0)
    signature = image_folder.scan(tmp_path / "photos").signature()
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    assert image_folder.scan(tmp_path / "photos").signature() == signature


ARRAYS: dict[str, Any] = {"images": grey(9, 8, 12), "labels": np.array([0, 1, 1, 0, 1, 0, 1, 1, 0])}
TEST_ARRAYS = {"test_images": grey(5, 8, 12), "test_labels": np.array([1, 0, 1, 0, 1])}
NPZ = {
    # name: (arrays, numbers of train and test examples)
    "grey": (ARRAYS, (6, 2)),
    "one channel": ({**ARRAYS, "images": ARRAYS["images"][..., None]}, (6, 2)),
    "colour": ({**ARRAYS, "images": np.stack([ARRAYS["images"]] * 3, -1)}, (6, 2)),
    "floats": ({**ARRAYS, "images": ARRAYS["images"].astype(np.float32) / 255}, (6, 2)),
    "test images": ({**ARRAYS, **TEST_ARRAYS}, (8, 4)),
    "small labels": ({**ARRAYS, "labels": ARRAYS["labels"].astype(np.uint8)}, (6, 2)),
}


@pytest.mark.parametrize(("arrays", "examples"), NPZ.values(), ids=NPZ)
def test_an_npz_file_is_read(tmp_path, arrays, examples):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    data = collect_and_load(tmp_path, "npz", path=str(path), test_share=0.2)
    settings = make_settings("npz", path)
    for split, number in zip(("train", "test"), examples, strict=True):
        name = f"{split}_" if "test_images" in arrays and split == "test" else ""
        images = {**ARRAYS, **TEST_ARRAYS}[f"{name}images"][:, None]
        channels = 3 if arrays["images"].shape[-1] == 3 else 1
        assert_distinct_images_of(
            data[split], np.repeat(images, channels, 1), arrays[f"{name}labels"]
        )
        assert len(data[split]) == number
        assert getattr(settings, f"{split}_examples") == number
    assert data["train"].classes == ("0", "1")
    assert settings.classes == 2


@pytest.mark.parametrize("resolution", [1e9, 0.0], ids=["read", "cached"])
def test_signatures_of_npz_files_change_with_the_file(tmp_path, monkeypatch, resolution):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digest_cache, "MTIME_RESOLUTION_S", resolution)
    path = tmp_path / "images.npz"
    np.savez(path, **ARRAYS)
    signature = make_settings("npz", path).signature()
    assert make_settings("npz", path).signature() == signature
    np.savez(path, **{**ARRAYS, "labels": 1 - ARRAYS["labels"]})
    assert make_settings("npz", path).signature() != signature


def test_a_cached_npz_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digest_cache, "MTIME_RESOLUTION_S", 0.0)
    np.savez(tmp_path / "images.npz", **ARRAYS)
    summary = npz_file.summarize("images.npz")
    monkeypatch.setattr(npz_file, "read_arrays", lambda path: pytest.fail(f"{path} is read"))
    assert npz_file.summarize(tmp_path / "images.npz") == summary
    (entry,) = digest_cache.DIGEST_CACHE.glob("*.json")
    entry.write_text('{"version": 1, "stamp": [1], "summary": null}')
    with pytest.raises(pytest.fail.Exception, match="is read"):
        npz_file.summarize("images.npz")


FLOATS = ARRAYS["images"] / 255
BAD_NPZ = {
    # name: (arrays, part of the message)
    "labels missing": (
        {"images": ARRAYS["images"]},
        "has no array labels: it must have images and",
    ),
    "images missing": ({"labels": ARRAYS["labels"]}, "has no array images"),
    "test labels missing": ({**ARRAYS, "test_images": grey(2)}, "has no array test_labels"),
    "labels with a gap": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 2},
        "the largest label is 2 and no label is 1, but labels must be 0",
    ),
    "labels below 0": (
        {**ARRAYS, "labels": ARRAYS["labels"] - 1},
        "a label is -1, but labels must be 0",
    ),
    "one huge label": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 10**15},
        "the largest label is 1000000000000000 and no label is 1, but labels must be 0",
    ),
    "one class": (
        {**ARRAYS, "labels": ARRAYS["labels"] * 0},
        "the largest label is 0 and no label is 1, but labels must be 0",
    ),
    "test labels of another class": (
        {**ARRAYS, **TEST_ARRAYS, "test_labels": np.array([0, 1, 2, 0, 1])},
        "images.npz: a label is 2, but labels must be 0 to K-1 without gaps, for two or more",
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
        {**ARRAYS, **TEST_ARRAYS, "test_images": grey(5, 8, 11)},
        "test images are 8x11 with 1 channel, but must be 8x12 with 1 channel (height x width)",
    ),
}


@pytest.mark.parametrize(("arrays", "reason"), BAD_NPZ.values(), ids=BAD_NPZ)
def test_bad_arrays_are_one_sentence(tmp_path, arrays, reason):
    np.savez(tmp_path / "images.npz", **arrays)
    assert reason in refusal("npz", tmp_path, tmp_path / "images.npz")


def test_a_file_of_another_format_is_one_sentence(tmp_path):
    path = tmp_path / "images.npz"
    path.write_bytes(b"no arrays")
    assert "is no npz file" in refusal("npz", tmp_path, tmp_path / "images.npz")
    with path.open("wb") as file:
        np.save(file, grey(2))
    assert "is one array, but must be an npz file with images and labels" in refusal(
        "npz", tmp_path, tmp_path / "images.npz"
    )
    np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:-40])
    assert "is not a readable npz file" in refusal("npz", tmp_path, tmp_path / "images.npz")
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.npz to take images from"):
        npz_file.summarize(tmp_path / "nowhere.npz")


def test_the_header_has_ranges_and_classes(tmp_path):
    np.savez(tmp_path / "images.npz", **ARRAYS)
    arguments = {**SETTINGS, "path": str(tmp_path / "images.npz"), "test_share": 0.2}
    _, table = collect("npz", downloads={}, **arguments)
    header = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert header == {"ranges": "slight", "classes": json.dumps(["0", "1"])}
