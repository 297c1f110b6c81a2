"""Readers of the public data sets EMNIST, Fashion-MNIST and CelebA, as torchvision lists them."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor
from torchvision.datasets import EMNIST, CelebA, FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import extract_archive
from torchvision.transforms.functional import center_crop, resize

from robustgen.data.balanced import Images, LabelledImages, RawDataset, Rows
from robustgen.data.download import PublicFile
from robustgen.errors import reading
from robustgen.progress import log_progress

Fetch = Callable[[list[PublicFile]], list[Path]]
"""A function that returns the paths of files on this machine (`download.fetch`)."""

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist. The package compresses the files again,
which changes their checksums. Their content is the same, and gzip has a checksum of its own."""

_FILE_KIND = "file of this data set"
_DRIVE_URL = "https://drive.usercontent.google.com/download?confirm=t&id="
_CROP_SIZE, _FACE_SIZE = [208, 178], [56, 48]
"""Height and width of the paper's faces, before and after they are resized."""


def _read_idx(archive: Path) -> Tensor:
    """Read a gzipped IDX file: images `(N, H, W)`, uint8, or labels `(N,)`, int64."""
    with reading(archive, _FILE_KIND), TemporaryDirectory() as folder:
        path = Path(extract_archive(archive, folder))
        read_file = read_image_file if "-images-" in path.name else read_label_file
        array: Tensor = read_file(str(path))
    return array


def _as_grey(images: Tensor, labels: Tensor) -> LabelledImages:
    pixels = images.numpy()
    return LabelledImages(labels.numpy(), lambda rows: pixels[rows][:, None])


def fashion_mnist(fetch: Fetch) -> RawDataset:
    """Read Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): articles of clothing, 28x28, grey."""
    files = [
        PublicFile(
            f"fashion_mnist/{name}",
            md5,
            tuple(f"{mirror}{name}" for mirror in FashionMNIST.mirrors),
            FASHION_MNIST_FOLDER / name,
        )
        for name, md5 in FashionMNIST.resources
    ]
    images, labels, test_images, test_labels = map(_read_idx, fetch(files))
    train, test = _as_grey(images, labels), _as_grey(test_images, test_labels)
    return RawDataset("Fashion-MNIST", tuple(FashionMNIST.classes), train, test)


def emnist(fetch: Fetch) -> RawDataset:
    """Read the digits of EMNIST (Cohen et al., 2017), 28x28, grey.

    The files contain transposed images, which are turned upright.
    """
    (path,) = fetch([PublicFile("emnist/gzip.zip", EMNIST.md5, (EMNIST.url,))])
    splits = []
    with (
        reading(path, _FILE_KIND),
        zipfile.ZipFile(path) as archive,
        TemporaryDirectory() as folder,
    ):
        for split in ("train", "test"):
            names = [
                f"emnist-digits-{split}-{part}-ubyte" for part in ("images-idx3", "labels-idx1")
            ]
            images, labels = (
                _read_idx(Path(archive.extract(f"gzip/{name}.gz", folder))) for name in names
            )
            splits.append(_as_grey(images.mT, labels))
    return RawDataset("EMNIST", tuple(EMNIST.classes_split_dict["digits"]), *splits)


def celeba(fetch: Fetch) -> RawDataset:
    """Read CelebA (Liu et al., 2015) with the attribute "Male" as class, 56x48, in colour.

    The aligned images are cropped to the central 208x178 pixels and resized. The validation split
    is left out.
    """
    needed_names = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
    md5_and_id = {name: (md5, drive_id) for drive_id, md5, name in CelebA.file_list}
    files = [
        PublicFile(f"celeba/{name}", md5, (f"{_DRIVE_URL}{drive_id}",))
        for name, (md5, drive_id) in ((name, md5_and_id[name]) for name in needed_names)
    ]
    archive, attributes, partition = fetch(files)
    with reading(attributes, _FILE_KIND):
        male = pd.read_csv(attributes, sep=r"\s+", skiprows=1)["Male"] > 0
    with reading(partition, _FILE_KIND):
        splits = pd.read_csv(partition, sep=r"\s+", header=None, index_col=0)[1].loc[male.index]
    train, test = (_read_faces(archive, male[splits == split].astype(np.int64)) for split in (0, 2))
    return RawDataset("CelebA", ("not male", "male"), train, test)


def _read_faces(archive: Path, labels: "pd.Series[int]") -> LabelledImages:
    """Return the faces in an archive, given their labels by file name."""
    names = labels.index.to_numpy()

    def read(rows: Rows) -> Images:
        """Read, crop and resize the faces of `rows`."""
        images = np.empty((len(rows), 3, *_FACE_SIZE), np.uint8)
        with reading(archive, _FILE_KIND), zipfile.ZipFile(archive) as zip_file:
            for index, row in enumerate(log_progress(rows.tolist(), "face")):
                name = f"img_align_celeba/{names[row]}"
                with zip_file.open(name) as file, Image.open(file) as image:
                    face = resize(center_crop(image.convert("RGB"), _CROP_SIZE), _FACE_SIZE)
                images[index] = np.moveaxis(np.asarray(face), -1, 0)
        return images

    return LabelledImages(labels.to_numpy().astype(np.int64), read)
