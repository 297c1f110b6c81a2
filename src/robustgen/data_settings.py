"""The kinds of data set: what a study may ask of each, and how many images each has."""

import math
from abc import abstractmethod
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from robustgen import arrayfile, imagefolder
from robustgen.config_errors import Said, listed, mistake, near, shown
from robustgen.holdout import held_out
from robustgen.settings import Count, FilePath, Settings, distinct

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


class Fonts(Dataset):
    """Letters of many fonts under random transformations; the defaults are the paper's."""

    has_true_manifold: ClassVar[bool] = True
    kind: Literal["fonts"]
    """FONTS: letters of many fonts, whose manifold is known."""
    fonts: Count = 1000
    """Number of fonts."""
    fonts_from: Annotated[
        FilePath, Said("installed, or the path of a folder of fonts, as text")
    ] = "installed"
    """Where fonts are taken from: the installed font packages, or a folder of TTF and OTF files."""
    letters: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9]{2,}$"),
        AfterValidator(distinct),
        Said("text of 2 or more different characters from A-Z, a-z and 0-9"),
    ] = "ABCDEFGHIJ"
    """The letters, each of which is a class."""
    transformations: Transformations = "hard"
    """The ranges from which the six parameters of each image are drawn. They also bound the space
    `transformation`."""
    train_draws: Count = 96
    """Training images of each font and letter."""
    test_draws: Count = 16
    """Test images of each font and letter."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels."""
        return 1, 28, 28

    @property
    def classes(self) -> int:
        """Number of letters."""
        return len(self.letters)

    @property
    def train_examples(self) -> int:
        """Draws of all fonts and letters in the train split."""
        return self.fonts * self.classes * self.train_draws

    @property
    def test_examples(self) -> int:
        """Draws of all fonts and letters in the test split."""
        return self.fonts * self.classes * self.test_draws

    @property
    def megabytes(self) -> int:
        """None to speak of: images are decoded from few letters where they are needed."""
        return 0


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
    def train_examples(self) -> int:
        """Images in the train split, equally many of each class."""
        return self.counts[0] * self.counts[1]

    @property
    def test_examples(self) -> int:
        """Images in the test split, equally many of each class."""
        return self.counts[0] * self.counts[2]


class Emnist(Collected):
    """Handwritten digits: the split "digits" of EMNIST (Cohen et al., 2017)."""

    kind: Literal["emnist"]
    """The digits of EMNIST, which are downloaded."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels."""
        return 1, 28, 28

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        return 10, 24_000, 4_000


class FashionMnist(Collected):
    """Articles of clothing: Fashion-MNIST (Xiao et al., 2017)."""

    kind: Literal["fashion_mnist"]
    """Fashion-MNIST, which is downloaded."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels."""
        return 1, 28, 28

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each."""
        return 10, 6_000, 1_000


class CelebA(Collected):
    """Faces with and without the attribute "Male": CelebA (Liu et al., 2015)."""

    kind: Literal["celeba"]
    """CelebA with the classes "not male" and "male", which is downloaded."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels."""
        return 3, 56, 48

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of classes, and of train and test images of each.

        They are the males, the fewer, of 162,770 images for training and 19,962 for testing.
        """
        return 2, 68_261, 7_715


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


KINDS: dict[str, type[Dataset]] = {
    "fonts": Fonts,
    "emnist": Emnist,
    "fashion_mnist": FashionMnist,
    "celeba": CelebA,
    "images": Images,
    "npz": Npz,
}
"""The kinds of data set: `kind` in a config says which of these reads the rest."""


class ByKind:
    """Annotates a data set that is read by the class its `kind` names."""

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind: handler.generate_schema(reader) for kind, reader in KINDS.items()}
        union = core_schema.tagged_union_schema(choices, discriminator="kind")
        return core_schema.no_info_before_validator_function(self._check, union)

    @staticmethod
    def _check(given: Any) -> Any:
        if not isinstance(given, dict):
            raise mistake(f"is {shown(given)}, but must be a mapping with the key kind")
        if "kind" not in given:
            raise mistake(f"is missing, but must be {listed(KINDS)}", "kind")
        kind = given["kind"]
        if not isinstance(kind, str) or kind not in KINDS:
            raise mistake(
                f"is {shown(kind)}, but must be {listed(KINDS)}{near(kind, KINDS)}", "kind"
            )
        return given


class Downloads(Settings):
    """Where the files of public data sets are kept and fetched from: the machine's own setting.

    A mirror, a folder or an address, holds them under the same names as the folder.
    """

    folder: Annotated[FilePath, Said("the path of a folder, as text")] = "data"
    """The folder that keeps the files."""
    mirror: Annotated[
        str | None,
        Field(pattern=r"^\P{Cc}+$"),
        Said("the path of a folder, or an address, as text"),
    ] = None
    """A folder or an address that has the same files and is tried before the internet."""
