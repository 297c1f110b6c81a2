"""The settings of the user's own images in a folder or an npz file."""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from robustgen.config.blocks import FilePath
from robustgen.config.dataset_blocks import ImageDataset
from robustgen.config.messages import AllowedText
from robustgen.data import image_folder, npz_file
from robustgen.data.holdout import choose_test_count
from robustgen.data.image_folder import ImageFolder
from robustgen.data.npz_file import ArraySummary
from robustgen.io.paths import IMAGES_PURPOSE, require_file, require_folder


class UserImages(ImageDataset):
    """The user's own images, whose files are inspected when the config is checked."""

    test_share: Annotated[float, Field(gt=0, lt=1), AllowedText("a number above 0 and below 1")] = (
        0.2
    )
    """Share of the images of each class that is kept for testing."""


class Images(UserImages):
    """A folder with a sub-folder of images for each class; a share of them is the test split."""

    kind: Literal["images"]
    """Your own image files."""
    path: Annotated[
        FilePath, AllowedText("the path of a folder with a sub-folder per class, as text")
    ]
    """The folder. Each of its sub-folders is a class."""

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        return self.check_path("path", lambda path: require_folder(path, IMAGES_PURPOSE))

    @cached_property
    def _folder(self) -> ImageFolder:
        return image_folder.scan(self.path)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        counts = self._folder.count_images()
        fewest = min(counts)
        name = self._folder.classes[counts.index(fewest)]
        test_images = choose_test_count(fewest, self.test_share, f"the folder {self.path}/{name}")
        return len(counts), fewest - test_images, test_images

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first image; all others must have the same."""
        first_file = self._folder.files[self._folder.distinct.rows[0]]
        channels, height, width = image_folder.read_image(first_file).shape
        return channels, height, width

    def signature(self) -> str:
        """Return a digest of the files' names and contents."""
        return self._folder.signature()


class Npz(UserImages):
    """An npz file of arrays; without test images in it, a share of the images is the test split."""

    kind: Literal["npz"]
    """Your own arrays."""
    path: Annotated[FilePath, AllowedText("the path of an npz file, as text")]
    """The file, with the arrays `images` and `labels`, and `test_images` and `test_labels` if the
    test split is fixed."""

    @model_validator(mode="after")
    def _check_file(self) -> Self:
        return self.check_path("path", lambda path: require_file(path, IMAGES_PURPOSE))

    @cached_property
    def _summary(self) -> ArraySummary:
        return npz_file.summarize(self.path)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each class that has any."""
        train_counts, test_counts = self._summary.train, self._summary.test
        smallest = min(train_counts)
        if test_counts is not None:
            return len(train_counts), smallest, min(count for count in test_counts if count)
        test_images = choose_test_count(smallest, self.test_share, f"a class in {self.path}")
        return len(train_counts), smallest - test_images, test_images

    @property
    def test_classes(self) -> int:
        """Number of classes that have test images."""
        test_counts = self._summary.test
        return self.classes if test_counts is None else sum(n > 0 for n in test_counts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self._summary.shape

    def signature(self) -> str:
        """Return a digest of the file."""
        return self._summary.digest
