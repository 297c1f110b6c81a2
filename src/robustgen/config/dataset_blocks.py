"""The base classes of the settings of data sets."""

import math
from abc import abstractmethod
from typing import ClassVar

from robustgen.config.blocks import Settings
from robustgen.specs import TransformationsName


class Dataset(Settings):
    """The settings of a data set of any kind, and the sizes that follow from them."""

    has_true_manifold: ClassVar[bool]
    kind: str
    """The kind of data set, which decides the other keys."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes."""

    @property
    @abstractmethod
    def train_examples(self) -> int:
        """Number of images in the train split."""

    @property
    @abstractmethod
    def test_examples(self) -> int:
        """Number of images in the test split."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels.

        Raises:
            UserError: the first image of the user's files cannot be read.
        """

    @property
    def megabytes(self) -> int:
        """Memory of all images, in 1e6 bytes."""
        return math.ceil((self.train_examples + self.test_examples) * math.prod(self.shape) / 1e6)

    def signature(self) -> str:
        """Return a digest of the user's files; empty for data sets without such files.

        Raises:
            UserError: the files are missing.
        """
        return ""


class ImageDataset(Dataset):
    """A data set of image files whose manifold is unknown.

    The paper uses the `slight` transformations for these data sets.
    """

    has_true_manifold: ClassVar[bool] = False

    transformations: TransformationsName = "slight"
    """The ranges of the six parameters in the space `transformation`."""

    @property
    @abstractmethod
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each class.

        Raises:
            UserError: files of the user are missing, damaged or of a wrong format.
        """

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.counts[0]

    @property
    def test_classes(self) -> int:
        """Number of classes that have test images."""
        return self.classes

    @property
    def train_examples(self) -> int:
        """Number of images in the train split, which has equally many of each class."""
        return self.counts[0] * self.counts[1]

    @property
    def test_examples(self) -> int:
        """Number of images in the test split, which has equally many of each of its classes."""
        return self.test_classes * self.counts[2]
