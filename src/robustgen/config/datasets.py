"""The kinds of data set: what a study may ask of each, and how many images each has."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from robustgen.config.blocks import Count, FilePath, Settings, distinct
from robustgen.config.dataset_blocks import Collected, Dataset, Transformations
from robustgen.config.messages import Said, listed, mistake, near, shown
from robustgen.config.user_datasets import Images, Npz
from robustgen.io.paths import FONTS_PURPOSE, INSTALLED, expand_home, is_url, require_folder


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

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        if self.fonts_from == INSTALLED:
            return self
        return self.check_path("fonts_from", lambda path: require_folder(path, FONTS_PURPOSE))

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

    @model_validator(mode="after")
    def _check_homes(self) -> Self:
        self.check_path("folder", expand_home)
        if self.mirror is None or is_url(self.mirror):
            return self
        return self.check_path("mirror", expand_home)
