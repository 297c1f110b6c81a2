"""The kinds of data set: the settings of each, and the number of its images."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from robustgen.config.blocks import FilePath, PositiveInt, Settings, require_distinct
from robustgen.config.dataset_blocks import Dataset, ImageDataset
from robustgen.config.messages import (
    AllowedText,
    format_value,
    join_words,
    suggestion,
    validation_error,
)
from robustgen.config.user_datasets import Images, Npz
from robustgen.io.paths import FONTS_PURPOSE, INSTALLED, expand_home, is_url, require_folder
from robustgen.specs import FONTS_IMAGE_SIZE, TransformationsName


class Fonts(Dataset):
    """Letters of many fonts under random transformations; the defaults are the paper's."""

    has_true_manifold: ClassVar[bool] = True
    kind: Literal["fonts"]
    """FONTS: letters of many fonts, whose manifold is known."""
    fonts: PositiveInt = 1000
    """Number of fonts."""
    font_source: Annotated[
        FilePath, AllowedText("installed, or the path of a folder of fonts, as text")
    ] = INSTALLED
    """The source of the fonts: the installed font packages, or a folder of TTF and OTF files."""
    letters: Annotated[
        str,
        Field(pattern="^[A-Za-z0-9]{2,}$"),
        AfterValidator(require_distinct),
        AllowedText("text of 2 or more different characters from A-Z, a-z and 0-9"),
    ] = "ABCDEFGHIJ"
    """The letters, each of which is a class."""
    transformations: TransformationsName = "hard"
    """The ranges from which the six parameters of each image are drawn. They also bound the space
    `transformation`."""
    train_images_per_glyph: PositiveInt = 96
    """Training images of each glyph, that is, of each letter in each font."""
    test_images_per_glyph: PositiveInt = 16
    """Test images of each glyph."""

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        if self.font_source == INSTALLED:
            return self
        return self.check_path("font_source", lambda path: require_folder(path, FONTS_PURPOSE))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images, in pixels."""
        return 1, FONTS_IMAGE_SIZE, FONTS_IMAGE_SIZE

    @property
    def classes(self) -> int:
        """Number of letters."""
        return len(self.letters)

    @property
    def train_examples(self) -> int:
        """Number of images of all fonts and letters in the train split."""
        return self.fonts * self.classes * self.train_images_per_glyph

    @property
    def test_examples(self) -> int:
        """Number of images of all fonts and letters in the test split."""
        return self.fonts * self.classes * self.test_images_per_glyph

    @property
    def megabytes(self) -> int:
        """0, because jobs decode the images of a batch from a few letters when they need them."""
        return 0


class Emnist(ImageDataset):
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


class FashionMnist(ImageDataset):
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


class CelebA(ImageDataset):
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

        The class "male" has fewer images, 68,261 of 162,770 for training and 7,715 of 19,962 for
        testing. Both classes have this number of images.
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
"""The settings of data sets, by the value of the key `kind`."""


class TaggedByKind:
    """An annotation of a data set, whose key `kind` selects the class of its settings."""

    def __get_pydantic_core_schema__(
        self, _source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind: handler.generate_schema(block) for kind, block in KINDS.items()}
        union = core_schema.tagged_union_schema(choices, discriminator="kind")
        return core_schema.no_info_before_validator_function(self._check_kind, union)

    @staticmethod
    def _check_kind(values: Any) -> Any:
        if not isinstance(values, dict):
            raise validation_error(
                f"is {format_value(values)}, but must be a mapping with the key kind"
            )
        allowed = join_words(KINDS)
        if "kind" not in values:
            raise validation_error(f"is missing, but must be {allowed}", "kind")
        kind = values["kind"]
        if not isinstance(kind, str) or kind not in KINDS:
            hint = suggestion(kind, KINDS)
            raise validation_error(f"is {format_value(kind)}, but must be {allowed}{hint}", "kind")
        return values


class Downloads(Settings):
    """The places of the files of public data sets; they have no effect on results.

    A mirror has the files under the same names as the folder.
    """

    folder: Annotated[FilePath, AllowedText("the path of a folder, as text")] = "data"
    """The folder that keeps the files."""
    mirror: Annotated[
        str | None,
        Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
        AllowedText("the path of a folder, or a URL, as text"),
    ] = None
    """A folder or a URL that has the same files and is tried before the internet."""

    @model_validator(mode="after")
    def _check_homes(self) -> Self:
        self.check_path("folder", expand_home)
        if self.mirror is None or is_url(self.mirror):
            return self
        return self.check_path("mirror", expand_home)
