"""The settings of the user's own images, in a folder or an npz file."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robustgen.config.blocks import FilePath
from robustgen.config.dataset_blocks import Collected
from robustgen.config.messages import Said
from robustgen.data import image_folder as imagefolder
from robustgen.data import npz_file as arrayfile
from robustgen.data.holdout import choose_test_count
from robustgen.data.image_folder import ImageFolder
from robustgen.data.npz_file import ArraySummary
from robustgen.io.paths import IMAGES_PURPOSE, require_file, require_folder


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

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        return self.check_path("path", lambda path: require_folder(path, IMAGES_PURPOSE))

    @cached_property
    def _folder(self) -> ImageFolder:
        return imagefolder.scan(self.path)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        counts = self._folder.count_images()
        fewest = min(counts)
        name = self._folder.classes[counts.index(fewest)]
        test = choose_test_count(fewest, self.test_share, f"the folder {self.path}/{name}")
        return len(counts), fewest - test, test

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first image, as all must have."""
        first = self._folder.files[self._folder.distinct.rows[0]]
        channels, height, width = imagefolder.read_image(first).shape
        return channels, height, width

    def signature(self) -> str:
        """A digest of the files' names and contents."""
        return self._folder.signature()


class Npz(OwnImages):
    """An npz file of arrays; a share is held out only if it has no test images of its own."""

    kind: Literal["npz"]
    """Your own arrays."""
    path: Annotated[FilePath, Said("the path of an npz file, as text")]
    """The file, with the arrays `images` and `labels`, and `test_images` and `test_labels` if the
    test split is fixed."""

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        return self.check_path("path", lambda path: require_file(path, IMAGES_PURPOSE))

    @cached_property
    def _summary(self) -> ArraySummary:
        return arrayfile.summarize(self.path)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each that has any."""
        train, test = self._summary.train, self._summary.test
        if test is not None:
            return len(train), min(train), min(count for count in test if count)
        test_images = choose_test_count(min(train), self.test_share, f"a class in {self.path}")
        return len(train), min(train) - test_images, test_images

    @property
    def test_classes(self) -> int:
        """Number of classes that have test images."""
        test = self._summary.test
        return self.classes if test is None else sum(count > 0 for count in test)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self._summary.shape

    def signature(self) -> str:
        """A digest of the file."""
        return self._summary.digest
