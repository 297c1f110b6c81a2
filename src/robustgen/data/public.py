"""Public data sets as torchvision lists them: EMNIST, Fashion-MNIST and CelebA."""

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

from robustgen.data.balanced import Collection, Images, Labelled, Rows
from robustgen.data.download import PublicFile
from robustgen.errors import reading
from robustgen.progress import log_progress

Fetch = Callable[[list[PublicFile]], list[Path]]
"""Where files lie on this machine (`download.fetch`)."""

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
"""Debian's package dataset-fashion-mnist. It compresses the files anew, which changes their
checksums; what they hold is the same, and gzip's own checksum guards it."""

_KIND = "file of this data set"
_DRIVE = "https://drive.usercontent.google.com/download?confirm=t&id="
_CROP, _SIZE = [208, 178], [56, 48]
"""Height and width of the paper's faces, before and after they are made smaller."""


def _idx(archive: Path) -> Tensor:
    """The array in a gzipped IDX file: images `(N, H, W)`, uint8, or labels `(N,)`, int64."""
    with reading(archive, _KIND), TemporaryDirectory() as folder:
        plain = Path(extract_archive(archive, folder))
        read = read_image_file if "-images-" in plain.name else read_label_file
        array: Tensor = read(str(plain))
    return array


def _grey(images: Tensor, labels: Tensor) -> Labelled:
    held = images.numpy()
    return Labelled(labels.numpy(), lambda rows: held[rows][:, None])


def fashion_mnist(fetch: Fetch) -> Collection:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): articles of clothing, 28x28, grey."""
    files = [
        PublicFile(
            f"fashion_mnist/{name}",
            md5,
            tuple(f"{mirror}{name}" for mirror in FashionMNIST.mirrors),
            INSTALLED / name,
        )
        for name, md5 in FashionMNIST.resources
    ]
    images, labels, test_images, test_labels = map(_idx, fetch(files))
    train, test = _grey(images, labels), _grey(test_images, test_labels)
    return Collection("Fashion-MNIST", tuple(FashionMNIST.classes), train, test)


def emnist(fetch: Fetch) -> Collection:
    """The digits of EMNIST (Cohen et al., 2017), 28x28, grey, turned upright.

    The files hold every image with rows and columns swapped.
    """
    (archive,) = fetch([PublicFile("emnist/gzip.zip", EMNIST.md5, (EMNIST.url,))])
    splits = []
    with reading(archive, _KIND), zipfile.ZipFile(archive) as held, TemporaryDirectory() as folder:
        for split in ("train", "test"):
            names = [
                f"emnist-digits-{split}-{part}-ubyte" for part in ("images-idx3", "labels-idx1")
            ]
            images, labels = (_idx(Path(held.extract(f"gzip/{n}.gz", folder))) for n in names)
            splits.append(_grey(images.mT, labels))
    return Collection("EMNIST", tuple(EMNIST.classes_split_dict["digits"]), *splits)


def celeba(fetch: Fetch) -> Collection:
    """Faces of CelebA (Liu et al., 2015) with and without the attribute "Male", 56x48, in colour.

    The middle 208x178 pixels of the aligned images, made smaller; their validation split is left
    out.
    """
    needed = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
    listed = {name: (md5, drive) for drive, md5, name in CelebA.file_list}
    files = [
        PublicFile(f"celeba/{name}", md5, (f"{_DRIVE}{drive}",))
        for name, (md5, drive) in ((name, listed[name]) for name in needed)
    ]
    archive, attributes, partition = fetch(files)
    with reading(attributes, _KIND):
        male = pd.read_csv(attributes, sep=r"\s+", skiprows=1)["Male"] > 0
    with reading(partition, _KIND):
        parts = pd.read_csv(partition, sep=r"\s+", header=None, index_col=0)[1].loc[male.index]
    splits = [_faces(archive, male[parts == part].astype(np.int64)) for part in (0, 2)]
    return Collection("CelebA", ("not male", "male"), *splits)


def _faces(archive: Path, labels: "pd.Series[int]") -> Labelled:
    """Faces in an archive, whose labels are indexed by their names."""
    names = labels.index.to_numpy()

    def read(rows: Rows) -> Images:
        """Those in `rows`, cropped and made smaller."""
        images = np.empty((len(rows), 3, *_SIZE), np.uint8)
        with reading(archive, _KIND), zipfile.ZipFile(archive) as held:
            for place, row in enumerate(log_progress(rows.tolist(), "face")):
                with held.open(f"img_align_celeba/{names[row]}") as file, Image.open(file) as image:
                    face = resize(center_crop(image.convert("RGB"), _CROP), _SIZE)
                images[place] = np.moveaxis(np.asarray(face), -1, 0)
        return images

    return Labelled(labels.to_numpy().astype(np.int64), read)
