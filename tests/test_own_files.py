"""Images of the user: each is read upright and once, or one sentence says why not."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_collected import SETTINGS, grey, make_settings

from robustgen.data import image_folder
from robustgen.data.sources import collect
from robustgen.errors import UserError

Write = Callable[[Path], Any]


def save(path: Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """Write an image file, with random grey pixels by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(1, 9, 10)[0] if pixels is None else pixels).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with four images each."""
    for name in ("a", "b"):
        for number in range(4):
            save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def collect_images(kind: str, path: Path) -> tuple[Any, Any]:
    """The images and the table of a data set."""
    return collect(kind, downloads={}, path=str(path), test_share=0.25, **SETTINGS)


def refusal(kind: str, path: Path) -> str:
    """The error message of the study or, if it accepts the files, of the job."""

    def run() -> None:
        assert make_settings(kind, path).counts
        collect_images(kind, path)

    with pytest.raises(UserError) as caught:
        run()
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    return sentence


FORMATS_WITH_EXIF = {".jpg": {"quality": 100}, ".png": {}, ".webp": {"lossless": True}, ".tif": {}}


@pytest.mark.parametrize(("suffix", "options"), FORMATS_WITH_EXIF.items(), ids=FORMATS_WITH_EXIF)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_are_rotated_by_their_exif_orientation(tmp_path, suffix, options, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 200
    quarter_turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x{suffix}", np.rot90(upright, quarter_turns), exif=exif, **options)
    pixels = image_folder.read_image(path)
    assert pixels.shape == (3, 16, 24)
    assert np.abs(pixels.astype(int) - np.moveaxis(upright, -1, 0)).max() < 60


def test_sizes_are_compared_after_rotation(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(photos / "a/0.png", grey(1, 10, 9)[0], exif=exif)
    assert collect_images("images", photos)[0].shape[2:] == (9, 10)
    save(photos / "a/0.png", exif=exif)
    assert "is 9x10 and grey, but must be 10x9 and grey" in refusal("images", photos)


DARK = {
    "zeros and ones": grey(8, 9, 10) // 128,
    "zeros": np.zeros((8, 9, 10), np.uint8),
    "divided by 255 twice": grey(8, 9, 10) / 255**2,
}


@pytest.mark.parametrize("images", DARK.values(), ids=DARK)
def test_black_arrays_are_refused(tmp_path, images):
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, labels=np.arange(8) % 2)
    sentence = refusal("npz", path)
    assert sentence.startswith(f"all images in {path} are nearly black, because the largest value")
    assert sentence.endswith("multiply the values by 255, or store floats in [0, 1]")


def test_black_photos_are_refused(photos):
    for path in photos.rglob("*.png"):
        save(path, grey(1, 9, 10)[0] // 128)
    assert f"the folder {photos} are nearly black" in refusal("images", photos)


def test_dark_images_are_accepted(tmp_path):
    path = tmp_path / "mine.npz"
    for images in (grey(8, 9, 10) // 86, grey(8, 9, 10) // 128 / 1.0):
        np.savez(path, images=images, labels=np.arange(8) % 2)
        assert len(collect_images("npz", path)[0]) == 8


@pytest.mark.parametrize("mask", ["images", "test_images"])
def test_a_split_of_zeros_and_ones_is_refused(tmp_path, mask):
    path, labels = tmp_path / "mine.npz", np.arange(8) % 2
    arrays = {"images": grey(8, 9, 10), "test_images": grey(8, 9, 10)}
    arrays[mask] = arrays[mask] // 128
    np.savez(path, **arrays, labels=labels, test_labels=labels)
    assert "nearly black, because the largest value is 1 of 255" in refusal("npz", path)


def test_the_log_warns_of_dark_images(tmp_path, caplog):
    path = tmp_path / "mine.npz"
    np.savez(path, images=grey(8, 9, 10) // 17, labels=np.arange(8) % 2)
    with caplog.at_level(logging.INFO):
        collect_images("npz", path)
    assert f"the images in {path} are dark: their largest value is 15 of 255" in caplog.messages


def test_the_log_counts_images_that_are_left_out_of_large_classes(tmp_path, caplog):
    path = tmp_path / "mine.npz"
    np.savez(path, images=grey(12, 9, 10), labels=np.arange(12) // 8)
    with caplog.at_level(logging.INFO):
        collect_images("npz", path)
    assert "4 images are not used, because all classes must have equally many" in caplog.messages


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".BMP"]
)
def test_every_format_is_read(photos, suffix):
    path = save(photos / f"a/new{suffix}")
    assert path in image_folder.scan(photos).files


def test_files_in_subfolders_and_linked_folders_are_read(photos, tmp_path):
    nested_path = save(photos / "a/deep/down/x.png")
    save(tmp_path / "elsewhere/y.png")
    save(photos / "a/.hidden/z.png")
    save(photos / "a/.z.png")
    (photos / "a/linked").symlink_to(tmp_path / "elsewhere")
    (photos / "a/again").symlink_to(tmp_path / "elsewhere")
    (photos / "a/loop").symlink_to(photos)
    (photos / "a/deep/loop").symlink_to(photos / "a")
    names = {file.relative_to(photos).as_posix() for file in image_folder.scan(photos).files}
    assert nested_path.relative_to(photos).as_posix() in names
    plain = {f"{name}/{number}.png" for name in "ab" for number in range(4)}
    assert names == plain | {"a/deep/down/x.png", "a/again/y.png"}


def test_the_log_counts_files_that_are_left_out(photos, caplog):
    for name in ("a/x.heic", "a/y.HEIC", "b/deep/z.gif", "b/README", "notes.txt", ".DS_Store"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"")
    with caplog.at_level(logging.INFO):
        collect_images("images", photos)
    (line,) = [line for line in caplog.messages if "files left out" in line]
    assert line.startswith("5 files left out")
    assert line.endswith(": 1 .gif, 2 .heic, 1 .txt, 1 without suffix")


BAD_IMAGES: dict[str, tuple[Write, str]] = {
    "16 bits": (
        lambda file: Image.fromarray(np.full((9, 10), 999, np.uint16)).save(file, "PNG"),
        "has the mode I;16 (16 bits per pixel), but must have L (grey) or RGB (colour)",
    ),
    "a palette": (
        lambda file: Image.new("P", (10, 9)).save(file, "PNG"),
        "has the mode P (a palette), but must have L (grey) or RGB (colour)",
    ),
    "one bit": (
        lambda file: Image.new("1", (10, 9)).save(file, "PNG"),
        "has the mode 1 (black and white), but must have",
    ),
    "a transparent colour": (
        lambda file: Image.new("L", (10, 9)).save(file, "PNG", transparency=0),
        "has a transparent colour, but must have none: convert the file",
    ),
    "transparency": (
        lambda file: Image.new("LA", (10, 9)).save(file, "PNG"),
        "has the mode LA (grey and transparent), but must have",
    ),
    "CMYK": (
        lambda file: Image.new("CMYK", (10, 9)).save(file, "JPEG"),
        "has the mode CMYK (colours for print), but must have",
    ),
    "floats": (
        lambda file: Image.new("F", (10, 9)).save(file, "TIFF"),
        "has the mode F (floats), but must have",
    ),
    "pages": (
        lambda file: Image.new("L", (10, 9)).save(
            file, "TIFF", save_all=True, append_images=[Image.new("L", (10, 9))] * 2
        ),
        "has 3 images or frames, but must have 1",
    ),
    "an animated WebP": (
        lambda file: Image.new("RGB", (10, 9)).save(
            file, "WEBP", save_all=True, append_images=[Image.new("RGB", (10, 9), "red")]
        ),
        "has 2 images or frames, but must have 1",
    ),
    "an animated PNG": (
        lambda file: Image.new("L", (10, 9)).save(
            file, "PNG", save_all=True, append_images=[Image.new("L", (10, 9), 9)]
        ),
        "has 2 images or frames, but must have 1",
    ),
    "an animated GIF": (
        lambda file: Image.new("L", (10, 9)).save(
            file, "GIF", save_all=True, append_images=[Image.new("L", (10, 9), 9)]
        ),
        "is not a readable PNG, JPEG, WebP, TIFF or BMP file",
    ),
    "a broken link": (
        lambda file: (file.unlink(), file.symlink_to("gone.png")),
        "is a link to gone.png, which does not exist: fix or remove the link",
    ),
    "a link to itself": (
        lambda file: (file.unlink(), file.symlink_to(file.name)),
        "cannot be read: Too many levels of symbolic links",
    ),
    "a pipe": (
        lambda file: (file.unlink(), os.mkfifo(file)),
        "is neither a file nor a folder: remove it from this folder",
    ),
    "a folder named as an image": (
        lambda file: (file.unlink(), file.mkdir()),
        "",
    ),
}


@pytest.mark.parametrize(("write", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_an_image_that_would_be_misread_is_refused(photos, write, sentence):
    write(photos / "a/3.png")
    if not sentence:
        assert make_settings("images", photos).counts == (2, 2, 1)
    else:
        assert f"a/3.png {sentence}" in refusal("images", photos)


def test_16_bits_in_colour_are_refused(photos):
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 10, 9, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(60) for _ in range(9))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    (photos / "a/3.png").write_bytes(png + chunk(b"IEND", b""))
    assert "a/3.png has 16 bits per channel, but must have 8" in refusal("images", photos)


def test_a_copied_photo_counts_once(photos, caplog):
    for path in list(photos.rglob("*.png")):
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    settings = make_settings("images", photos)
    with caplog.at_level(logging.INFO):
        selected_images, _ = collect_images("images", photos)
    assert settings.counts == (2, 3, 1)
    assert len(selected_images) == settings.train_examples + settings.test_examples == 8
    assert len({image.numpy().tobytes() for image in selected_images}) == 8
    (line,) = [line for line in caplog.messages if "left out" in line]
    assert line == (
        "8 copies of images of the same class left out, e.g. a/copy of 0.png (equal to a/0.png)"
    )


def test_a_photo_in_two_classes_is_left_out(photos, caplog):
    (photos / "b/x.png").write_bytes((photos / "a/1.png").read_bytes())
    settings = make_settings("images", photos)
    with caplog.at_level(logging.INFO):
        selected_images, _ = collect_images("images", photos)
    assert settings.counts == (2, 2, 1)
    assert len(selected_images) == settings.train_examples + settings.test_examples
    (line,) = [line for line in caplog.messages if "left out" in line]
    assert line == (
        "2 images that occur in more than one class left out, e.g. a/1.png (equal to b/x.png)"
    )


def test_a_class_whose_photos_are_all_in_another_class_is_refused(photos):
    for path in (photos / "a").iterdir():
        (photos / "b" / f"x{path.name}").write_bytes(path.read_bytes())
    assert refusal("images", photos) == (
        f"the folder {photos}/a has no image that is not in the folder of another class too: an "
        "image must be in one class only"
    )


def test_the_same_photo_in_two_formats_is_a_warning(photos, caplog):
    for path in list(photos.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
    with caplog.at_level(logging.INFO):
        collect_images("images", photos)
    assert any(
        "test images have the same pixels as training images" in line for line in caplog.messages
    )


def arrays(images: np.ndarray, labels: Any, **other_arrays: Any) -> dict[str, Any]:
    return {"images": images, "labels": np.array(labels), **other_arrays}


def test_a_copied_array_counts_once(tmp_path, caplog):
    path, images = tmp_path / "mine.npz", grey(8, 9, 10)
    images[6], images[7], images[5] = images[0], images[0], images[4]
    np.savez(path, **arrays(images, [0, 1, 0, 1, 0, 1, 0, 0]))
    settings = make_settings("npz", path)
    with caplog.at_level(logging.INFO):
        selected_images, _ = collect_images("npz", path)
    assert settings.counts == (2, 1, 1)
    assert len(selected_images) == settings.train_examples + settings.test_examples
    assert [line for line in caplog.messages if "left out" in line] == [
        "2 copies of images of the same class left out, e.g. image 6 (equal to image 0)",
        "2 images that occur in more than one class left out, e.g. image 4 (equal to image 5)",
    ]
    np.savez(path, **arrays(np.stack([images[0]] * 4), [0, 1, 0, 1]))
    assert f"class 0 of {path} has no image that is not in another class" in refusal("npz", path)


def test_all_images_of_a_given_test_split_are_used(tmp_path, caplog):
    path, images = tmp_path / "mine.npz", grey(8, 9, 10)
    split = {"test_images": images[:4], "test_labels": np.arange(4) % 2, "names": np.arange(8)}
    np.savez(path, **arrays(images, np.arange(8) % 2, **split))
    with caplog.at_level(logging.INFO):
        selected_images, _ = collect_images("npz", path)
    assert len(selected_images) == 12
    assert make_settings("npz", path).counts == (2, 4, 2)
    assert (
        "4 of 4 test images have the same pixels as training images: test errors are too low"
        in caplog.messages
    )
    assert "unknown arrays are not used: names" in caplog.messages


def test_a_class_without_test_images_is_logged(tmp_path, caplog):
    path = tmp_path / "mine.npz"
    split = {"test_images": grey(5, 9, 10), "test_labels": np.array([0, 2, 2, 0, 2])}
    np.savez(path, **arrays(grey(9, 9, 10), np.arange(9) % 3, **split))
    settings = make_settings("npz", path)
    with caplog.at_level(logging.INFO):
        selected_images, table = collect_images("npz", path)
    assert (settings.counts, settings.test_classes) == ((3, 3, 2), 2)
    assert (settings.train_examples, settings.test_examples) == (9, 4)
    assert table["label"].to_pylist() == [0, 1, 2] * 3 + [0, 2] * 2
    assert len(selected_images) == 13
    assert any(
        line.startswith("1 of 3 classes have no test images: 1;") for line in caplog.messages
    )
    np.savez(path, **arrays(grey(9, 9, 10), np.arange(9) % 3 // 2 * 2, **split))
    assert "the largest label is 2 and no label is 1" in refusal("npz", path)


BAD_ARRAYS = {
    "objects": (
        arrays(np.array([{}, None]), [0, 1]),
        "is not a readable npz file: Object arrays cannot be loaded",
    ),
    "labels as floats": (arrays(grey(8), np.arange(8) % 2 / 1), "labels of "),
    "one-hot labels": (
        arrays(grey(8), np.eye(2)[np.arange(8) % 2].astype(int)),
        "have the shape (8, 2), but must have (N,)",
    ),
    "channels first": (
        arrays(np.stack([grey(8)] * 3, 1), np.arange(8) % 2),
        "C being 1 or 3: use numpy.moveaxis(images, 1, -1)",
    ),
    "transparency": (
        arrays(np.stack([grey(8)] * 4, -1), np.arange(8) % 2),
        "but must have (N, H, W) or (N, H, W, C), C being 1 or 3",
    ),
    "floats up to 255": (
        arrays(grey(8).astype(float), np.arange(8) % 2),
        "but must be in [0, 1]: divide them by 255",
    ),
    "centred floats": (arrays(grey(8) / 127.5 - 1, np.arange(8) % 2), "but must be in [0, 1]"),
    "NaN": (arrays(np.full((8, 9, 10), np.nan), np.arange(8) % 2), "have the pixel nan, but"),
    "infinity": (arrays(np.full((8, 9, 10), np.inf), np.arange(8) % 2), "have the pixel inf"),
    "16 bits": (arrays(grey(8).astype("u2") * 257, np.arange(8) % 2), "are uint16, but must be"),
    "signed bytes": (arrays(grey(8).astype("i1"), np.arange(8) % 2), "are int8, but must be"),
    "truth values": (arrays(grey(8) > 99, np.arange(8) % 2), "are bool, but must be uint8"),
    "no pixels": (arrays(grey(8)[:, :0], np.arange(8) % 2), "which has no pixels"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_would_be_misread_are_refused(tmp_path, content, sentence):
    np.savez(tmp_path / "mine.npz", **content)
    assert sentence in refusal("npz", tmp_path / "mine.npz")


@pytest.mark.parametrize("name", ["photos", "photos/a", "photos/a/deep"])
def test_a_folder_without_permission_is_one_sentence(photos, monkeypatch, name):
    save(photos / "a/deep/x.png")
    forbidden, list_folder = photos.parent / name, Path.iterdir

    def refuse(folder: Path) -> Any:
        if folder == forbidden:
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert refusal("images", photos) == f"the folder {forbidden} cannot be read: Permission denied"


def test_a_file_without_permission_is_one_sentence(photos, monkeypatch):
    def refuse(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal("images", photos) == f"{photos}/a/0.png cannot be read: Permission denied"


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val", "test")], ids=len)
def test_folders_named_as_splits_are_refused(tmp_path, names):
    for name in names:
        save(tmp_path / "photos" / name / "x.png")
    assert "which are splits, but must have 2 or more" in refusal("images", tmp_path / "photos")
