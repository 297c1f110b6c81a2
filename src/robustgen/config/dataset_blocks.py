"""What the settings of all kinds of data sets have in common."""

import math
from abc import abstractmethod
from typing import ClassVar, Literal

from robustgen.config.blocks import Settings

Transformations = Literal["slight", "easy", "moderate", "hard"]


class Dataset(Settings):
    """What a study asks of a data set, whatever its kind."""

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
        """Images in the train split."""

    @property
    @abstractmethod
    def test_examples(self) -> int:
        """Images in the test split."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels.

        Raises:
            UserError: the first image of the user's cannot be read.
        """

    @property
    def megabytes(self) -> int:
        """What the images take in memory, in 1e6 bytes."""
        return math.ceil((self.train_examples + self.test_examples) * math.prod(self.shape) / 1e6)

    def signature(self) -> str:
        """What changes when the user's files do; empty without such files.

        Raises:
            UserError: the files are missing.
        """
        return ""


class Collected(Dataset):
    """Images that were collected, not drawn; the paper allows them the `slight` transformations."""

    has_true_manifold: ClassVar[bool] = False

    transformations: Transformations = "slight"
    """The ranges of the six parameters in the space `transformation`."""

    @property
    @abstractmethod
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each.

        Raises:
            UserError: files of the user's are missing, damaged or not as they must be.
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
        """Images in the train split, equally many of each class."""
        return self.counts[0] * self.counts[1]

    @property
    def test_examples(self) -> int:
        """Images in the test split, equally many of each class that has any."""
        return self.test_classes * self.counts[2]
