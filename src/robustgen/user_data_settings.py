"""The settings of the user's own images, in a folder or an npz file."""

from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from robustgen import arrayfile, imagefolder
from robustgen.config_errors import Said
from robustgen.dataset_settings import Collected
from robustgen.holdout import held_out
from robustgen.settings import FilePath


class OwnImages(Collected):
    """Images of the user's, whose files are looked at while the config is read."""

    test_share: Annotated[float, Field(gt=0, lt=1), Said("a number above 0 and below 1")] = 0.2
    """Share of the images of each class that is kept for testing."""


class Images(OwnImages):
    """A folder of images with a sub-folder for each class, of which a share is held out."""

    kind: Literal["images"]
    """Your own image files."""
    path: Annotated[FilePath, Said("the path of a folder with a sub-folder per class, as text")]
    """The folder. Each of its sub-folders is a class."""

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        files = imagefolder.image_files(self.path)
        fewest = min(files, key=lambda name: len(files[name]))
        each = len(files[fewest])
        test = held_out(each, self.test_share, f"the folder {self.path}/{fewest}")
        return len(files), each - test, test

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first image, as all must have."""
        return imagefolder.first_shape(self.path)

    def signature(self) -> str:
        """A digest of the files' names and contents."""
        return imagefolder.signature(self.path)


class Npz(OwnImages):
    """An npz file of arrays; a share is held out only if it has no test images of its own."""

    kind: Literal["npz"]
    """Your own arrays."""
    path: Annotated[FilePath, Said("the path of an npz file, as text")]
    """The file, with the arrays `images` and `labels`, and `test_images` and `test_labels` if the
    test split is fixed."""

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        labels = arrayfile.read_labels(self.path)
        fewest = {split: min(arrayfile.frequencies(of)) for split, of in labels.items()}
        classes = len(arrayfile.frequencies(labels["train"]))
        if "test" in fewest:
            return classes, fewest["train"], fewest["test"]
        test = held_out(fewest["train"], self.test_share, f"a class in {self.path}")
        return classes, fewest["train"] - test, test

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return arrayfile.read_shape(self.path)

    def signature(self) -> str:
        """A digest of the file."""
        return arrayfile.digest(self.path)
