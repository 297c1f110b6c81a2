"""Learned manifolds, their judges, and data sets whose manifold is unknown."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import pytest
from studies import MANIFOLD_OUT, OUT, Keys, changed, refused, valid

from robustgen.config.blocks import PositiveInt
from robustgen.config.datasets import KINDS, Dataset
from robustgen.config.job_params import (
    distance_params,
    judge_params,
    quality_params,
    vaegan_params,
)
from robustgen.config.roles import find_on_manifold
from robustgen.config.study import Study
from robustgen.errors import UserError


class Photos(Dataset):
    """A data set whose manifold is unknown."""

    has_true_manifold: ClassVar[bool] = False
    kind: Literal["photos"]
    photos: PositiveInt
    transformations: ClassVar[str] = "slight"  # type: ignore[misc]
    classes: ClassVar[int] = 10  # type: ignore[assignment]
    train_examples: ClassVar[int] = 50  # type: ignore[assignment]
    test_examples: ClassVar[int] = 12  # type: ignore[assignment]
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)  # type: ignore[assignment]


@pytest.fixture
def parse_with_photos(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Study]]:
    """Parse a config with a second data set of a kind that this test defines."""
    monkeypatch.setitem(KINDS, "photos", Photos)

    class StudyOfPhotos(Study):
        pass

    def parse(*changes: tuple[Keys, Any]) -> Study:
        dataset = (("datasets", "holiday"), {"kind": "photos", "photos": 3})
        return StudyOfPhotos.parse(changed(dataset, *changes))

    return parse


def test_a_threat_on_a_learned_manifold_needs_a_block_of_its_data_set() -> None:
    space = (("threats", "warp", "space"), "learned_manifold")
    assert refused(changed(space)) == (
        "methods.warped.threat is 'warp', but must be a threat in another space "
        "(ball or manifold), as no manifold of datasets.letters is learned: "
        "manifolds.letters is missing"
    )
    study = Study.parse(changed(space, (("manifolds",), {"letters": {"beta": 2.5}})))
    params = vaegan_params(study, "letters", "class3")
    assert params["recipe"]["beta"] == 2.5
    assert params["recipe"]["channels"] == (64, 128, 256)
    assert study.to_config()["manifolds"]["letters"]["epochs"] == 10
    assert "manifolds" not in Study.parse(valid()).to_config()
    unknown = changed((("manifolds",), {"digits": {}}))
    assert refused(unknown) == "manifolds.digits must be named as one of the datasets: letters"


@pytest.mark.parametrize("key", ["1", 1])
@pytest.mark.parametrize(("part", "beta"), [("class0", 2.5), ("class1", 5.0), ("all", 4.0)])
def test_a_class_may_have_its_own_beta(part: str, beta: float, key: Any) -> None:
    block = {"beta": 2.5, "betas": {key: 5, "all": 4.0}}
    study = Study.parse(changed((("manifolds",), {"letters": block})))
    recipe = vaegan_params(study, "letters", part)["recipe"]
    assert recipe["beta"] == beta
    assert "betas" not in recipe  # the beta of another class must not train this one again
    assert Study.parse(study.to_config()) == study


@pytest.mark.parametrize(
    ("betas", "sentence"),
    [
        ({"2": 1.0}, ".2 must be named all, or the number of a class, 0 to 1"),
        (
            {"one": 1.0},
            ".one is not a known key; allowed are `all` and the number of a class, from 0",
        ),
        (
            {True: 1.0},
            ".true is not a known key; allowed are `all` and the number of a class, from 0",
        ),
        ({"01": 1.0, 1: 2.0}, ".1 is given twice"),
        ({1: 0}, ".1 is 0, but must be a number above 0 and up to 1,000,000"),
        ([1.0], " is [1.0], but must be a mapping of classes to numbers"),
    ],
)
def test_a_mistake_in_betas_is_one_sentence(betas: Any, sentence: str) -> None:
    config = changed((("manifolds",), {"letters": {"betas": betas}}))
    assert refused(config) == f"manifolds.letters.betas{sentence}"


def test_channels_that_shrink_an_image_to_no_pixels_are_refused() -> None:
    config = changed((("manifolds",), {"letters": {"channels": [8] * 5}}))
    assert refused(config) == (
        "manifolds.letters.channels is [8, 8, 8, 8, 8], but must be 4 numbers at most: each halves "
        "images of 28x28 pixels"
    )
    assert Study.parse(changed((("manifolds",), {"letters": {"channels": [8] * 4}})))


def test_a_learned_manifold_needs_two_images_of_each_class() -> None:
    one_image = (
        (("datasets", "letters", "train_images_per_glyph"), 1),
        (("datasets", "letters", "fonts"), 1),
    )
    config = changed(*one_image, (("manifolds",), {"letters": {}}), (("sizes",), [2]))
    assert refused(config) == (
        "manifolds.letters needs 2 or more training images of each class of datasets.letters"
    )


def test_each_manifold_is_listed_with_its_method_and_attack() -> None:
    space = (("threats", "warp", "space"), "learned_manifold")
    config = changed(space, (("manifolds",), {"letters": {}}))
    true = {"manifold": "true_manifold", "method": "on_manifold", "attack": "codes"}
    learned = {"manifold": "learned_manifold", "method": None, "attack": "warps"}
    assert find_on_manifold(Study.parse(config), "letters") == [true, learned]
    for block, name in (("methods", "on_manifold"), ("attacks", "codes")):
        del config[block][name]
    del config["distances"]
    config["methods"]["warped"]["steps"] = 3
    assert find_on_manifold(Study.parse(config), "letters") == [{**learned, "method": "warped"}]


@pytest.mark.parametrize(
    ("spaces", "learned"),
    [
        ([], ["learned_manifold"]),
        (["data_manifold"], ["data_manifold"]),
        (["data_manifold", "learned_manifold"], ["learned_manifold", "data_manifold"]),
    ],
)
def test_only_manifolds_that_a_threat_uses_are_learned(
    spaces: list[str], learned: list[str]
) -> None:
    config = changed((("manifolds",), {"letters": {}}))
    for number, space in enumerate(spaces):
        config["threats"][f"t{number}"] = {"space": space, "norm": "linf", "radius": 0.2}
        config["attacks"][f"a{number}"] = {"threat": f"t{number}"}
    study = Study.parse(config)
    assert study.learned_manifolds("letters") == learned
    radii = [quality_params(study, "letters", space)["threat"]["radius"] for space in learned]
    assert radii == [0.2 if spaces else 0.3] * len(learned)
    assert Study.parse(valid()).learned_manifolds("letters") == []


@pytest.mark.parametrize(("max_images", "n"), [(40_000, 60), (7, 6), (3, 2)])
def test_the_judge_is_trained_on_a_balanced_number_of_images(max_images: int, n: int) -> None:
    study = Study.parse(changed((("manifolds",), {"letters": {"judge": {"images": max_images}}})))
    assert judge_params(study, "letters")["n"] == n


@pytest.mark.parametrize(
    "judge",
    [
        {},
        {"epochs": 3},
        {"learning_rate_decay": 0.3},
        {"images": 20, "epochs": 3, "learning_rate_decay": 0.3},
    ],
    ids=str,
)
def test_the_judge_has_the_settings_of_classifiers_except_its_own_keys(
    judge: dict[str, Any],
) -> None:
    study = Study.parse(changed((("manifolds",), {"letters": {"judge": judge}})))
    own_settings = {key: value for key, value in judge.items() if key != "images"}
    classifier = study.classifier.model_dump() | own_settings
    assert judge_params(study, "letters")["classifier"] == classifier
    assert study.to_config()["manifolds"]["letters"]["judge"] == {"images": 40_000} | judge
    recorded_study = Study.parse(study.to_config())
    assert judge_params(recorded_study, "letters") == judge_params(study, "letters")


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ({"epochs": 0}, ".epochs is 0, but must be a whole number from 1 to 1,000,000"),
        (
            {"epochs": None},
            ".epochs is null, but must be a whole number from 1 to 1,000,000; "
            "leave the key out for its default",
        ),
        (
            {"learning_rate_decay": 1.5},
            ".learning_rate_decay is 1.5, but must be a number above 0 and up to 1",
        ),
        (
            {"learning_rate_decay": None},
            ".learning_rate_decay is null, but must be a number above 0 and up to 1; "
            "leave the key out for its default",
        ),
        ({"images": 1}, ".images is 1, but must be a whole number from 2 to 1,000,000"),
        (
            7,
            " is 7, but must be a mapping, {} for its defaults, with keys images, epochs and "
            "learning_rate_decay",
        ),
    ],
)
def test_a_mistake_in_the_judge_is_one_sentence(judge: Any, sentence: str) -> None:
    config = changed((("manifolds",), {"letters": {"judge": judge}}))
    assert refused(config) == f"manifolds.letters.judge{sentence}"


SECOND_KIND: dict[str, tuple[list[tuple[Keys, Any]], str]] = {
    "no method in a space of it": (
        [(("methods",), {"on_manifold": {"threat": "manifold"}})],
        "methods has none that datasets.holiday can use; add one whose threat is in one of its "
        "spaces: image or transformation",
    ),
    "no attack in a space of it": (
        [(("attacks",), {"codes": {"threat": "manifold"}}), (("distances",), OUT)],
        "attacks has none that datasets.holiday can use; add one whose threat is in one of its "
        "spaces: image or transformation",
    ),
    "its own keys": (
        [(("datasets", "holiday", "photos"), 0)],
        "datasets.holiday.photos is 0, but must be a whole number from 1 to 1,000,000",
    ),
    "unknown kind": (
        [(("datasets", "holiday", "kind"), "photo")],
        "datasets.holiday.kind is 'photo', but must be fonts, emnist, fashion_mnist, celeba, "
        "images, npz or photos (did you mean photos?)",
    ),
    "its classes": (
        [*MANIFOLD_OUT, (("sizes",), [20, 32])],
        "sizes[1] is 32, but must be a multiple of 10, the number of classes of datasets.holiday",
    ),
    "its train split": (
        [*MANIFOLD_OUT, (("sizes",), [60])],
        "sizes[0] is 60, but must be at most 50, the number of training images of datasets.holiday",
    ),
    "its test split": (
        [*MANIFOLD_OUT, (("attacks", "pixels", "examples"), 13)],
        "attacks.pixels.examples is 13, but must be at most 12, "
        "the number of test images of datasets.holiday",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), SECOND_KIND.values(), ids=SECOND_KIND)
def test_every_data_set_is_checked(
    parse_with_photos: Callable[..., Study], changes: list[tuple[Keys, Any]], sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        parse_with_photos(*changes)
    assert str(raised.value) == sentence


def test_an_unused_threat_on_the_manifold_is_allowed(
    parse_with_photos: Callable[..., Study],
) -> None:
    study = parse_with_photos(*MANIFOLD_OUT)
    assert find_on_manifold(study, "letters") == find_on_manifold(study, "holiday") == []
    assert study.to_config()["datasets"]["holiday"] == {"kind": "photos", "photos": 3}


def test_methods_and_attacks_are_used_on_data_sets_with_their_space(
    parse_with_photos: Callable[..., Study],
) -> None:
    study = parse_with_photos()
    assert study.methods_of("letters") == list(study.methods)
    assert study.attacks_of("letters") == list(study.attacks)
    assert study.methods_of("holiday") == [m for m in study.methods if m != "on_manifold"]
    assert study.attacks_of("holiday") == [a for a in study.attacks if a != "codes"]
    assert "codes" in study.distance_attacks("letters")
    assert "codes" not in study.distance_attacks("holiday")
    assert [len(find_on_manifold(study, name)) for name in ("letters", "holiday")] == [1, 0]
    with pytest.raises(KeyError):
        distance_params(study, "holiday", "codes")
