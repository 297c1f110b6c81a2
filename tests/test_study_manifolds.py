"""Learned manifolds, their judges, and data sets whose manifold is not known."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import pytest
from studies import MANIFOLD_OUT, OUT, Keys, changed, refused, valid

from robustgen.config.blocks import Count
from robustgen.config.datasets import KINDS, Dataset
from robustgen.config.study import Study
from robustgen.errors import UserError


class Photos(Dataset):
    """A data set whose manifold is not known."""

    has_true_manifold: ClassVar[bool] = False
    kind: Literal["photos"]
    photos: Count
    transformations: ClassVar[str] = "slight"  # type: ignore[misc]
    classes: ClassVar[int] = 10  # type: ignore[assignment]
    train_examples: ClassVar[int] = 50  # type: ignore[assignment]
    test_examples: ClassVar[int] = 12  # type: ignore[assignment]
    shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)  # type: ignore[assignment]


@pytest.fixture
def parse_with_photos(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Study]]:
    """`Study.parse` with a second kind of data set, and that data set in the config."""
    monkeypatch.setitem(KINDS, "photos", Photos)

    class StudyOfPhotos(Study):
        pass

    def parse(*changes: tuple[Keys, Any]) -> Study:
        added = (("datasets", "holiday"), {"kind": "photos", "photos": 3})
        return StudyOfPhotos.parse(changed(added, *changes))

    return parse


def test_a_manifold_is_learned_of_every_data_set_that_a_threat_needs_it_of() -> None:
    learn = (("threats", "warp", "space"), "learned_manifold")
    assert refused(changed(learn)) == (
        "methods.warped.threat is 'warp', but must be a threat in another space "
        "(ball or manifold), as no manifold of datasets.letters is learned: "
        "manifolds.letters is missing"
    )
    study = Study.parse(changed(learn, (("manifolds",), {"letters": {"beta": 2.5}})))
    part = study.manifold_part("letters", "class3")
    assert part["recipe"]["beta"] == 2.5
    assert part["recipe"]["channels"] == (64, 128, 256)
    assert study.resolved()["manifolds"]["letters"]["epochs"] == 10
    assert "manifolds" not in Study.parse(valid()).resolved()
    unknown = changed((("manifolds",), {"digits": {}}))
    assert refused(unknown) == "manifolds.digits must be named as one of the datasets: letters"


@pytest.mark.parametrize("key", ["1", 1])
@pytest.mark.parametrize(("part", "beta"), [("class0", 2.5), ("class1", 5.0), ("all", 4.0)])
def test_a_class_may_have_a_beta_of_its_own(part: str, beta: float, key: Any) -> None:
    chosen = {"beta": 2.5, "betas": {key: 5, "all": 4.0}}
    study = Study.parse(changed((("manifolds",), {"letters": chosen})))
    chosen = study.manifold_part("letters", part)
    assert chosen["recipe"]["beta"] == beta
    assert "betas" not in chosen["recipe"]  # another class's would train this one again
    assert Study.parse(study.resolved()) == study


@pytest.mark.parametrize(
    ("betas", "says"),
    [
        ({"2": 1.0}, ".2 must be named all, or the number of a class, 0 to 1"),
        ({"one": 1.0}, ".one is no known key; allowed are all and numbers of classes"),
        ({True: 1.0}, ".true is no known key; allowed are all and numbers of classes"),
        ({"01": 1.0, 1: 2.0}, ".1 is given twice"),
        ({1: 0}, ".1 is 0, but must be a number above 0 and up to 1,000,000"),
        ([1.0], " is [1.0], but must be a mapping of classes to numbers"),
    ],
)
def test_mistakes_in_betas(betas: Any, says: str) -> None:
    config = changed((("manifolds",), {"letters": {"betas": betas}}))
    assert refused(config) == f"manifolds.letters.betas{says}"


def test_channels_that_leave_nothing_of_an_image_are_refused() -> None:
    config = changed((("manifolds",), {"letters": {"channels": [8] * 5}}))
    assert refused(config) == (
        "manifolds.letters.channels is [8, 8, 8, 8, 8], but must be 4 numbers at most: each halves "
        "images of 28x28 pixels"
    )
    assert Study.parse(changed((("manifolds",), {"letters": {"channels": [8] * 4}})))


def test_a_manifold_needs_two_images_of_a_class() -> None:
    few = (("datasets", "letters", "train_draws"), 1), (("datasets", "letters", "fonts"), 1)
    config = changed(*few, (("manifolds",), {"letters": {}}), (("sizes",), [2]))
    assert refused(config) == (
        "manifolds.letters needs 2 or more train images of each class of datasets.letters"
    )


def test_each_manifold_has_its_method_and_attack() -> None:
    learn = (("threats", "warp", "space"), "learned_manifold")
    config = changed(learn, (("manifolds",), {"letters": {}}))
    true = {"manifold": "true_manifold", "method": "on_manifold", "attack": "codes"}
    learned = {"manifold": "learned_manifold", "method": None, "attack": "warps"}
    assert Study.parse(config).on_manifold("letters") == [true, learned]
    for block, name in (("methods", "on_manifold"), ("attacks", "codes")):
        del config[block][name]
    del config["distances"]
    config["methods"]["warped"]["steps"] = 3
    assert Study.parse(config).on_manifold("letters") == [{**learned, "method": "warped"}]


@pytest.mark.parametrize(
    ("spaces", "learned"),
    [
        ([], ["learned_manifold"]),
        (["data_manifold"], ["data_manifold"]),
        (["data_manifold", "learned_manifold"], ["learned_manifold", "data_manifold"]),
    ],
)
def test_those_manifolds_are_learned_that_are_used(spaces: list[str], learned: list[str]) -> None:
    config = changed((("manifolds",), {"letters": {}}))
    for number, space in enumerate(spaces):
        config["threats"][f"t{number}"] = {"space": space, "norm": "linf", "radius": 0.2}
        config["attacks"][f"a{number}"] = {"threat": f"t{number}"}
    study = Study.parse(config)
    assert study.learned("letters") == learned
    radii = [study.quality_part("letters", of)["threat"]["radius"] for of in learned]
    assert radii == [0.2 if spaces else 0.3] * len(learned)
    assert Study.parse(valid()).learned("letters") == []


@pytest.mark.parametrize(("most", "n"), [(40_000, 60), (7, 6), (3, 2)])
def test_the_judge_is_trained_on_a_balanced_number_of_images(most: int, n: int) -> None:
    study = Study.parse(changed((("manifolds",), {"letters": {"judge": {"images": most}}})))
    assert study.judge_part("letters")["n"] == n


@pytest.mark.parametrize(
    "judge",
    [{}, {"epochs": 3}, {"rate_decay": 0.3}, {"images": 20, "epochs": 3, "rate_decay": 0.3}],
    ids=str,
)
def test_the_judge_is_trained_as_classifiers_are_but_for_what_is_given(
    judge: dict[str, Any],
) -> None:
    study = Study.parse(changed((("manifolds",), {"letters": {"judge": judge}})))
    told = {key: value for key, value in judge.items() if key != "images"}
    assert study.judge_part("letters")["classifier"] == study.classifier.model_dump() | told
    assert study.resolved()["manifolds"]["letters"]["judge"] == {"images": 40_000} | judge
    assert Study.parse(study.resolved()).judge_part("letters") == study.judge_part("letters")


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({"epochs": 0}, ".epochs is 0, but must be a whole number from 1 to 1,000,000"),
        (
            {"epochs": None},
            ".epochs is null, but must be a whole number from 1 to 1,000,000; "
            "leave the key out for its default",
        ),
        ({"rate_decay": 1.5}, ".rate_decay is 1.5, but must be a number above 0 and up to 1"),
        (
            {"rate_decay": None},
            ".rate_decay is null, but must be a number above 0 and up to 1; "
            "leave the key out for its default",
        ),
        ({"images": 1}, ".images is 1, but must be a whole number from 2 to 1,000,000"),
        (
            7,
            " is 7, but must be a mapping, {} for its defaults, with keys images, epochs and "
            "rate_decay",
        ),
    ],
)
def test_mistakes_in_the_judge(judge: Any, says: str) -> None:
    config = changed((("manifolds",), {"letters": {"judge": judge}}))
    assert refused(config) == f"manifolds.letters.judge{says}"


SECOND_KIND: dict[str, tuple[list[tuple[Keys, Any]], str]] = {
    "no method in a space of it": (
        [(("methods",), {"on_manifold": {"threat": "manifold"}})],
        "methods must have one of them in a space of datasets.holiday (image or transformation)",
    ),
    "no attack in a space of it": (
        [(("attacks",), {"codes": {"threat": "manifold"}}), (("distances",), OUT)],
        "attacks must have one of them in a space of datasets.holiday (image or transformation)",
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
        "sizes[0] is 60, but must be at most 50, the number of train images of datasets.holiday",
    ),
    "its test split": (
        [*MANIFOLD_OUT, (("attacks", "pixels", "examples"), 13)],
        "attacks.pixels.examples is 13, but must be at most 12, "
        "the number of test images of datasets.holiday",
    ),
}


@pytest.mark.parametrize(("changes", "says"), SECOND_KIND.values(), ids=SECOND_KIND)
def test_a_second_data_set_counts_too(
    parse_with_photos: Callable[..., Study], changes: list[tuple[Keys, Any]], says: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_with_photos(*changes)
    assert str(caught.value) == says


def test_a_threat_on_the_manifold_that_nothing_uses_is_no_mistake(
    parse_with_photos: Callable[..., Study],
) -> None:
    study = parse_with_photos(*MANIFOLD_OUT)
    assert study.on_manifold("letters") == study.on_manifold("holiday") == []
    assert study.resolved()["datasets"]["holiday"] == {"kind": "photos", "photos": 3}


def test_a_data_set_has_the_methods_and_attacks_of_its_spaces(
    parse_with_photos: Callable[..., Study],
) -> None:
    study = parse_with_photos()
    assert study.methods_of("letters") == list(study.methods)
    assert study.attacks_of("letters") == list(study.attacks)
    assert study.methods_of("holiday") == [m for m in study.methods if m != "on_manifold"]
    assert study.attacks_of("holiday") == [a for a in study.attacks if a != "codes"]
    assert "codes" in study.measured("letters")
    assert "codes" not in study.measured("holiday")
    assert [len(study.on_manifold(name)) for name in ("letters", "holiday")] == [1, 0]
    with pytest.raises(KeyError):
        study.distance_part("holiday", "codes")
