"""A config is a valid study or one sentence; each job's part holds what the job uses alone."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen.config_errors import shown
from robustgen.data_settings import KINDS, Dataset
from robustgen.errors import UserError
from robustgen.settings import Count
from robustgen.study import Study

CONFIGS = Path(__file__).parents[1] / "config"

VALID = """
study: a-study_1
sizes: [20, 40]
seeds: 3
cohort_size: 3
datasets:
  letters: {kind: fonts, fonts: 5, letters: AB, train_draws: 6, test_draws: 2}
threats:
  ball: {space: image, norm: linf, radius: 0.3}
  manifold: {space: true_manifold, norm: l2, radius: 1}
  warp: {space: transformation, norm: linf, radius: 0.2}
methods:
  plain: {}
  warped: {threat: warp, steps: 0}
  hardened: {threat: ball, steps: 7}
  on_manifold: {threat: manifold, step_rule: signed}
attacks:
  warps: {threat: warp, examples: 5}
  pixels: {threat: ball, restarts: 2, examples: 10}
  codes: {threat: manifold, examples: 15}
distances: {methods: [plain], attacks: [pixels, codes], examples: 8, neighbours: 3}
"""
KIND_NAMES = "fonts, emnist, fashion_mnist, celeba, images or npz"
OUT = object()
"""In place of a value: the key is left out."""

Keys = tuple[Any, ...]


def valid() -> dict[str, Any]:
    return yaml.safe_load(VALID)


def changed(*changes: tuple[Keys, Any], config: dict[str, Any] | None = None) -> dict[str, Any]:
    """The valid config with the values at some keys set or left out."""
    config = copy.deepcopy(config) if config else valid()
    for (*above, last), value in changes:
        block: Any = reduce(lambda held, key: held[key], above, config)
        if value is OUT:
            del block[last]
        else:
            block[last] = value
    return config


def refused(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        Study.parse(config)
    return str(caught.value)


MISTAKES: dict[str, tuple[Keys, Any, str]] = {
    # what it shows: (keys, value given, the sentence)
    "unknown key": (
        ("threats", "ball", "colour"),
        1,
        "threats.ball.colour is no known key; allowed are space, norm and radius",
    ),
    "misspelt key": (
        ("attacks", "pixels", "restart"),
        3,
        "attacks.pixels.restart is no known key (did you mean restarts?); allowed are "
        "threat, steps, step_rule, step_size, restarts and examples",
    ),
    "misspelt key of the whole": (
        ("atacks",),
        {},
        "atacks is no known key (did you mean attacks?); allowed are study, seed, seeds, "
        "cohort_size, sizes, datasets, classifier, manifolds, threats, methods, attacks, distances "
        "and downloads",
    ),
    "misspelt key of a data set": (
        ("datasets", "letters", "letter"),
        "AB",
        "datasets.letters.letter is no known key (did you mean letters?); allowed are kind, "
        "fonts, fonts_from, letters, transformations, train_draws and test_draws",
    ),
    "key that is no text": (
        ("classifier",),
        {True: 1},
        "classifier.true is no known key; allowed are architecture, epochs, batch_size, rate, "
        "rate_decay and weight_decay",
    ),
    "missing number": (
        ("threats", "ball", "radius"),
        OUT,
        "threats.ball.radius is missing, but must be a number above 0 and up to 1,000,000",
    ),
    "missing choice": (
        ("threats", "ball", "norm"),
        OUT,
        "threats.ball.norm is missing, but must be linf or l2",
    ),
    "missing list": (("sizes",), OUT, "sizes is missing, but must be a list"),
    "missing mapping": (("methods",), OUT, "methods is missing, but must be a mapping"),
    "missing threat of an attack": (
        ("attacks", "pixels", "threat"),
        OUT,
        "attacks.pixels.threat is missing, but must be the name of a threat, as text",
    ),
    "list for a mapping": (
        ("attacks",),
        ["pixels"],
        "attacks is ['pixels'], but must be a mapping of names to settings",
    ),
    "text for a mapping": (
        ("threats", "ball"),
        "linf",
        "threats.ball is 'linf', but must be a mapping with keys space, norm and radius",
    ),
    "number for a list": (("sizes",), 20, "sizes is 20, but must be a list"),
    "bool for a whole number": (
        ("seeds",),
        True,
        "seeds is true, but must be a whole number from 1 to 10,000",
    ),
    "bool for a number": (
        ("threats", "ball", "radius"),
        False,
        "threats.ball.radius is false, but must be a number above 0 and up to 1,000,000",
    ),
    "bool in a list": (
        ("sizes",),
        [True],
        "sizes[0] is true, but must be a whole number from 1 to 1,000,000",
    ),
    "fraction for a whole number": (
        ("attacks", "pixels", "steps"),
        2.5,
        "attacks.pixels.steps is 2.5, but must be a whole number from 1 to 1,000,000",
    ),
    "1e-4, which YAML reads as text": (
        ("classifier",),
        {"weight_decay": "1e-4"},
        "classifier.weight_decay is '1e-4', but must be a number of 0 or more; "
        "YAML reads this as text, write 1.0e-4",
    ),
    "1.5e4, which YAML reads as text": (
        ("classifier",),
        {"rate": "1.5e4"},
        "classifier.rate is '1.5e4', but must be a number above 0 and up to 1,000,000; "
        "YAML reads this as text, write 1.5e+4",
    ),
    "1e3 for a whole number": (
        ("sizes",),
        ["1e3"],
        "sizes[0] is '1e3', but must be a whole number from 1 to 1,000,000; "
        "write 1000 in the file, without quotes",
    ),
    "number in quotes": (
        ("threats", "ball", "radius"),
        "0.3",
        "threats.ball.radius is '0.3', but must be a number above 0 and up to 1,000,000; "
        "write 0.3 in the file, without quotes",
    ),
    "number for text": (
        ("study",),
        2024,
        "study is 2024, but must be text of up to 60 letters, digits, - and _ alone; "
        "put it in quotes, or YAML reads it as a number or a truth value",
    ),
    "null number": (
        ("seeds",),
        None,
        "seeds is null, but must be a whole number from 1 to 10,000; "
        "leave the key out for its default",
    ),
    "null without a default": (
        ("threats", "ball", "radius"),
        None,
        "threats.ball.radius is null, but must be a number above 0 and up to 1,000,000",
    ),
    "null threat": (
        ("methods", "plain", "threat"),
        None,
        "methods.plain.threat is null, but must be the name of a threat, as text; "
        "leave the key out for its default",
    ),
    "null block": (
        ("distances",),
        None,
        "distances is null, but must be a mapping; leave the key out for its default",
    ),
    "null method": (
        ("methods", "plain"),
        None,
        "methods.plain is null, but must be a mapping, {} for its defaults, with keys "
        "threat, steps, step_rule and step_size",
    ),
    "null in a list": (
        ("sizes",),
        [20, None],
        "sizes[1] is null, but must be a whole number from 1 to 1,000,000",
    ),
    "no sizes": (("sizes",), [], "sizes is [], but must be non-empty"),
    "no methods": (("methods",), {}, "methods is {}, but must be non-empty"),
    "no attacks": (("attacks",), {}, "attacks is {}, but must be non-empty"),
    "no threats": (("threats",), {}, "threats is {}, but must be non-empty"),
    "no data sets": (("datasets",), {}, "datasets is {}, but must be non-empty"),
    "no methods measured": (
        ("distances", "methods"),
        [],
        "distances.methods is [], but must be non-empty",
    ),
    "study name that is a path": (
        ("study",),
        "a/b",
        "study is 'a/b', but must be text of up to 60 letters, digits, - and _ alone",
    ),
    "study name that ends a line": (
        ("study",),
        "a\n",
        r"study is 'a\n', but must be text of up to 60 letters, digits, - and _ alone",
    ),
    "negative seed": (("seed",), -1, "seed is -1, but must be a whole number of 0 or more"),
    "seeds beyond all reason": (
        ("seeds",),
        10**30,
        f"seeds is {10**30}, but must be a whole number from 1 to 10,000",
    ),
    "a radius beyond all reason": (
        ("threats", "ball", "radius"),
        1e39,
        "threats.ball.radius is 1e+39, but must be a number above 0 and up to 1,000,000",
    ),
    "a name too long for a file": (
        ("study",),
        "x" * 61,
        f"study is {shown('x' * 61)}, but must be text of up to 60 letters, digits, - and _ alone",
    ),
    "no seeds": (("seeds",), 0, "seeds is 0, but must be a whole number from 1 to 10,000"),
    "seeds that fill no cohort": (
        ("seeds",),
        7,
        "seeds is 7, but must be at most cohort_size, 3, or a multiple of it, such as 6 or 9, "
        "so that raising it adds cohorts and retrains none",
    ),
    "N of zero": (("sizes",), [0], "sizes[0] is 0, but must be a whole number from 1 to 1,000,000"),
    "N twice": (
        ("sizes",),
        [20, 40, 20],
        "sizes[2] is 20, but must differ from those before it",
    ),
    "N larger than the data set": (
        ("sizes",),
        [20, 62],
        "sizes[1] is 62, but must be at most 60, the number of train images of datasets.letters",
    ),
    "N no multiple of the classes": (
        ("sizes",),
        [20, 21],
        "sizes[1] is 21, but must be a multiple of 2, the number of classes of datasets.letters",
    ),
    "data set without a kind": (
        ("datasets", "letters", "kind"),
        OUT,
        f"datasets.letters.kind is missing, but must be {KIND_NAMES}",
    ),
    "unknown kind": (
        ("datasets", "letters", "kind"),
        "font",
        f"datasets.letters.kind is 'font', but must be {KIND_NAMES} (did you mean fonts?)",
    ),
    "kind that is a list": (
        ("datasets", "letters", "kind"),
        [1],
        f"datasets.letters.kind is [1], but must be {KIND_NAMES}",
    ),
    "null data set": (
        ("datasets", "letters"),
        None,
        "datasets.letters is null, but must be a mapping with the key kind",
    ),
    "name that is no path part": (
        ("methods", "My method"),
        {},
        "methods.'My method' is no usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name that YAML reads as true": (
        ("threats", True),
        {},
        "threats.true is no usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name of a data set": (
        ("datasets", "Letters"),
        {"kind": "fonts"},
        "datasets.Letters is no usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name of a results folder": (
        ("datasets", "tables"),
        {"kind": "fonts"},
        "datasets.tables must have another name: this one is a results folder's",
    ),
    "reserved name": (
        ("attacks", "clean"),
        {"threat": "ball"},
        "attacks.clean must have another name: this one is for unchanged images",
    ),
    "no fonts": (
        ("datasets", "letters", "fonts"),
        0,
        "datasets.letters.fonts is 0, but must be a whole number from 1 to 1,000,000",
    ),
    "one letter": (
        ("datasets", "letters", "letters"),
        "A",
        "datasets.letters.letters is 'A', but must be text of 2 or more different characters "
        "from A-Z, a-z and 0-9",
    ),
    "a letter twice": (
        ("datasets", "letters", "letters"),
        "ABA",
        "datasets.letters.letters is 'ABA', but must be text of 2 or more different characters "
        "from A-Z, a-z and 0-9",
    ),
    "a letter beyond ASCII": (
        ("datasets", "letters", "letters"),
        "AÄ",
        "datasets.letters.letters is 'AÄ', but must be text of 2 or more different characters "
        "from A-Z, a-z and 0-9",
    ),
    "unknown transformations": (
        ("datasets", "letters", "transformations"),
        "harder",
        "datasets.letters.transformations is 'harder', but must be slight, easy, moderate or hard",
    ),
    "fonts from nowhere": (
        ("datasets", "letters", "fonts_from"),
        "",
        "datasets.letters.fonts_from is '', but must be installed, or the path of a folder of "
        "fonts, as text",
    ),
    "unknown architecture": (
        ("classifier",),
        {"architecture": "resnet"},
        "classifier.architecture is 'resnet', but must be convnet",
    ),
    "batch of one": (
        ("classifier",),
        {"batch_size": 1},
        "classifier.batch_size is 1, but must be a whole number from 2 to 1,000,000",
    ),
    "rate that grows": (
        ("classifier",),
        {"rate_decay": 1.1},
        "classifier.rate_decay is 1.1, but must be a number above 0 and up to 1",
    ),
    "negative radius": (
        ("threats", "ball", "radius"),
        -0.3,
        "threats.ball.radius is -0.3, but must be a number above 0 and up to 1,000,000",
    ),
    "radius of zero": (
        ("threats", "ball", "radius"),
        0,
        "threats.ball.radius is 0, but must be a number above 0 and up to 1,000,000",
    ),
    "infinite radius": (
        ("threats", "ball", "radius"),
        float("inf"),
        "threats.ball.radius is inf, but must be a number above 0 and up to 1,000,000 and finite",
    ),
    "unknown space": (
        ("threats", "ball", "space"),
        "pixels",
        "threats.ball.space is 'pixels', but must be image, true_manifold, transformation, "
        "learned_manifold or data_manifold",
    ),
    "unknown norm": (
        ("threats", "ball", "norm"),
        2,
        "threats.ball.norm is 2, but must be linf or l2",
    ),
    "unknown threat of a method": (
        ("methods", "hardened", "threat"),
        "bal",
        "methods.hardened.threat is 'bal', but must be one of the threats: "
        "ball, manifold or warp (did you mean ball?)",
    ),
    "unknown threat of an attack": (
        ("attacks", "pixels", "threat"),
        "x",
        "attacks.pixels.threat is 'x', but must be one of the threats: ball, manifold or warp",
    ),
    "search without a threat": (
        ("methods", "plain", "steps"),
        40,
        "methods.plain.steps is 40, but must be left out: the method has no threat",
    ),
    "step size without steps": (
        ("methods", "warped", "step_size"),
        0.1,
        "methods.warped.step_size is 0.1, but must be left out: with 0 steps nothing is searched",
    ),
    "negative steps of a method": (
        ("methods", "hardened", "steps"),
        -1,
        "methods.hardened.steps is -1, but must be a whole number of 0 or more",
    ),
    "attack without steps": (
        ("attacks", "pixels", "steps"),
        0,
        "attacks.pixels.steps is 0, but must be a whole number from 1 to 1,000,000",
    ),
    "unknown step rule": (
        ("attacks", "pixels", "step_rule"),
        "sgd",
        "attacks.pixels.step_rule is 'sgd', but must be adam, signed or normalized",
    ),
    "more examples than test images": (
        ("attacks", "pixels", "examples"),
        21,
        "attacks.pixels.examples is 21, but must be at most 20, "
        "the number of test images of datasets.letters",
    ),
    "distances of an unknown method": (
        ("distances", "methods"),
        ["plane"],
        "distances.methods[0] is 'plane', but must be one of the methods: "
        "plain, warped, hardened or on_manifold (did you mean plain?)",
    ),
    "distances of an unknown attack": (
        ("distances", "attacks"),
        ["pixels", "x"],
        "distances.attacks[1] is 'x', but must be one of the attacks: warps, pixels or codes",
    ),
    "distances of an attack twice": (
        ("distances", "attacks"),
        ["pixels", "pixels"],
        "distances.attacks[1] is 'pixels', but must differ from those before it",
    ),
    "distances of more examples than attacked": (
        ("distances", "examples"),
        11,
        "distances.examples is 11, but must be at most 10, "
        "the number of examples of attacks.pixels",
    ),
    "share of nothing": (
        ("datasets", "photos"),
        {"kind": "images", "path": "photos", "test_share": 0},
        "datasets.photos.test_share is 0, but must be a number above 0 and below 1",
    ),
    "images from nowhere": (
        ("datasets", "photos"),
        {"kind": "images"},
        "datasets.photos.path is missing, but must be the path of a folder with a sub-folder per "
        "class, as text",
    ),
    "files that are not there": (
        ("datasets", "photos"),
        {"kind": "npz", "path": "no.npz"},
        "there is no file no.npz to take images from",
    ),
    "mirror in two lines": (
        ("downloads",),
        {"mirror": "http://a\n"},
        r"downloads.mirror is 'http://a\n', but must be the path of a folder, or an address, "
        "as text",
    ),
    "null mirror": (
        ("downloads",),
        {"mirror": None},
        "downloads.mirror is null, but must be the path of a folder, or an address, as text; "
        "leave the key out for its default",
    ),
    "as many neighbours as images": (
        ("distances", "neighbours"),
        60,
        "distances.neighbours is 60, but must be below 60, "
        "the number of train images of datasets.letters",
    ),
}


@pytest.mark.parametrize(("keys", "value", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(keys: Keys, value: Any, says: str) -> None:
    assert refused(changed((keys, value))) == says


@pytest.mark.parametrize("config", [None, 3, ["study"]], ids=repr)
def test_a_config_that_is_no_mapping(config: Any) -> None:
    assert refused(config).startswith(f"the config is {'null' if config is None else config}, but")


def test_a_misspelt_key_is_told_before_the_missing_one() -> None:
    assert refused(changed((("size",), [20]), (("sizes",), OUT))).startswith("size is no known")


def test_long_values_are_cut() -> None:
    assert len(refused(changed((("study",), "?" * 10_000)))) < 150


class Photos(Dataset):
    """A data set whose manifold is not known."""

    has_true_manifold: ClassVar[bool] = False
    kind: Literal["photos"]
    photos: Count
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


MANIFOLD_OUT: list[tuple[Keys, Any]] = [
    (("methods", "on_manifold"), OUT),
    (("attacks", "codes"), OUT),
    (("distances",), OUT),
]
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


def test_defaults() -> None:
    config = {
        "study": "s",
        "sizes": [250],
        "datasets": {"fonts": {"kind": "fonts"}},
        "threats": {
            "ball": {"space": "image", "norm": "linf", "radius": 1},
            "warp": {"space": "transformation", "norm": "l2", "radius": 2},
        },
        "methods": {"plain": {}, "hardened": {"threat": "ball"}},
        "attacks": {"warps": {"threat": "warp"}, "pixels": {"threat": "ball"}},
    }
    search = {"steps": 40, "step_rule": "adam", "step_size": 0.005}
    attack = {**search, "restarts": 1, "examples": 1000}
    assert Study.parse(config).resolved() == {
        **config,
        "seed": 0,
        "seeds": 5,
        "cohort_size": 5,
        "datasets": {
            "fonts": {
                "kind": "fonts",
                "fonts": 1000,
                "fonts_from": "installed",
                "letters": "ABCDEFGHIJ",
                "transformations": "hard",
                "train_draws": 96,
                "test_draws": 16,
            }
        },
        "classifier": {
            "architecture": "convnet",
            "epochs": 20,
            "batch_size": 100,
            "rate": 0.01,
            "rate_decay": 0.95,
            "weight_decay": 1e-4,
        },
        "methods": {"plain": {}, "hardened": {"threat": "ball", **search}},
        "attacks": {"warps": {"threat": "warp", **attack}, "pixels": {"threat": "ball", **attack}},
        "distances": {
            "methods": ["plain"],
            "attacks": ["pixels"],
            "examples": 200,
            "steps": 200,
            "step_size": 0.05,
            "neighbours": 50,
        },
    }


def test_defaults_shrink_with_the_study() -> None:
    small = (("datasets", "letters", "train_draws"), 4)  # 40 train images, 20 test images
    study = Study.parse(
        changed(small, (("distances",), OUT), (("attacks", "codes", "examples"), OUT))
    )
    assert study.attacks["codes"].examples == 20
    assert study.distances.examples == 10  # as many as attacked by `pixels`
    assert study.distances.neighbours == 39
    assert study.distances.attacks == ("pixels", "codes")


def test_distances_are_of_all_methods_where_each_has_a_threat() -> None:
    study = Study.parse(changed((("methods", "plain"), OUT), (("distances",), OUT)))
    assert study.distances.methods == ("warped", "hardened", "on_manifold")


def test_distances_of_no_attack_can_be_asked_for() -> None:
    study = Study.parse(changed((("distances",), {"attacks": []})))
    assert study.distances.attacks == ()
    assert study.distances.examples == 20


def test_sizes_of_a_data_set() -> None:
    letters = Study.parse(valid()).datasets["letters"]
    assert (letters.classes, letters.train_examples, letters.test_examples) == (2, 60, 20)


@pytest.mark.parametrize(
    ("kind", "sizes", "megabytes"),
    [
        ("emnist", (10, 240_000, 40_000), 220),
        ("fashion_mnist", (10, 60_000, 10_000), 55),
        ("celeba", (2, 136_522, 15_430), 1226),
    ],
)
def test_sizes_of_public_data_sets(kind: str, sizes: tuple[int, int, int], megabytes: int) -> None:
    config = changed(*MANIFOLD_OUT, (("datasets",), {"known": {"kind": kind}}))
    known = Study.parse(config).datasets["known"]
    assert (known.classes, known.train_examples, known.test_examples) == sizes
    assert known.megabytes == megabytes
    assert not known.has_true_manifold
    assert known.signature() == ""
    assert refused({**config, "sizes": [sizes[1] + sizes[0]]}).endswith(
        f"must be at most {sizes[1]}, the number of train images of datasets.known"
    )


@pytest.mark.parametrize(
    ("seeds", "cohort_size", "cohorts"),
    [
        (1, 5, [(0, 0)]),
        (3, 5, [(0, 2)]),
        (5, 5, [(0, 4)]),
        (10, 5, [(0, 4), (5, 9)]),
        (3, 1, [(0, 0), (1, 1), (2, 2)]),
    ],
)
def test_cohorts(seeds: int, cohort_size: int, cohorts: list[tuple[int, int]]) -> None:
    study = Study.parse(changed((("seeds",), seeds), (("cohort_size",), cohort_size)))
    assert study.cohorts() == cohorts


def test_paths_may_start_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    fonts = (("datasets", "letters", "fonts_from"), "~/fonts")
    downloads = (("downloads",), {"folder": "~/data"})
    study = Study.parse(changed(fonts, downloads))
    assert study.fonts_part("letters")["fonts_from"] == "/home/someone/fonts"
    assert study.downloads.folder == "/home/someone/data"


def test_roles() -> None:
    assert Study.parse(valid()).roles() == {
        "normal": "plain",
        "adversarial": "hardened",
        "regular_attack": "pixels",
        "regular_attacks": ["pixels"],
        "not_adversarial": ["plain", "warped", "on_manifold"],
    }


def test_roles_are_for_searches_and_may_be_empty() -> None:
    draws = {
        "noisy": {"threat": "ball", "steps": 0},
        "moved": {"threat": "manifold", "steps": 0},
    }
    config = changed((("methods",), draws), (("attacks",), {"warps": {"threat": "warp"}}))
    del config["distances"]
    roles = Study.parse(config).roles()
    assert roles.pop("not_adversarial") == ["moved"]
    assert roles.pop("regular_attacks") == []
    assert set(roles.values()) == {None}


def parts(study: Study) -> dict[str, str]:
    """All parts of the study by job, as JSON: 1 and 1.0 differ."""
    jobs = {"fonts": study.fonts_part("letters"), "codes": study.codes_part("letters")}
    for method in study.methods:
        jobs[f"train {method}"] = study.training_part("letters", method)
    for attack in study.attacks:
        jobs[f"attack {attack}"] = study.attack_part("letters", attack)
    for attack in (*study.distances.attacks, "clean"):
        jobs[f"distance {attack}"] = study.distance_part("letters", attack)
    return {job: json.dumps(part) for job, part in jobs.items()}


TRAINING = {"train plain", "train warped", "train hardened", "train on_manifold"}
ATTACKS = {"attack warps", "attack pixels", "attack codes"}
DISTANCES = {"distance pixels", "distance codes", "distance clean"}


def test_parts() -> None:
    jobs = {job: json.loads(part) for job, part in parts(Study.parse(valid())).items()}
    classifier = {
        "architecture": "convnet",
        "epochs": 20,
        "batch_size": 100,
        "rate": 0.01,
        "rate_decay": 0.95,
        "weight_decay": 1e-4,
    }
    assert set(jobs) == {"fonts", "codes"} | TRAINING | ATTACKS | DISTANCES
    assert jobs["fonts"] == {"fonts": 5, "fonts_from": "installed", "letters": "AB"}
    assert jobs["codes"] == {
        "study_seed": 0,
        "dataset": "letters",
        "fonts": 5,
        "letters": "AB",
        "transformations": "hard",
        "train_draws": 6,
        "test_draws": 2,
    }
    assert jobs["train plain"] == {
        "study_seed": 0,
        "dataset": "letters",
        "method": "plain",
        "classifier": classifier,
        "threat": None,
        "search": None,
    }
    assert jobs["train hardened"] == {
        "study_seed": 0,
        "dataset": "letters",
        "method": "hardened",
        "classifier": classifier,
        "threat": {"space": "image", "norm": "linf", "radius": 0.3},
        "search": {"steps": 7, "step_rule": "adam", "step_size": 0.005},
    }
    assert jobs["attack pixels"] == {
        "study_seed": 0,
        "dataset": "letters",
        "attack": "pixels",
        "threat": {"space": "image", "norm": "linf", "radius": 0.3},
        "search": {"steps": 40, "step_rule": "adam", "step_size": 0.005, "restarts": 2},
        "examples": 10,
    }
    for job in DISTANCES:
        assert jobs[job] == {"examples": 8, "steps": 200, "step_size": 0.05, "neighbours": 3}


@pytest.mark.parametrize(
    ("keys", "value", "altered"),
    [
        (("study",), "other", set()),
        (("seed",), 1, {"codes"} | TRAINING | ATTACKS),
        (("seeds",), 6, set()),
        (("sizes",), [20, 40, 60], set()),
        (("datasets", "letters", "fonts"), 6, {"fonts", "codes"}),
        (("datasets", "letters", "fonts_from"), "a/folder", {"fonts"}),
        (("datasets", "letters", "letters"), "XY", {"fonts", "codes"}),
        (("datasets", "letters", "transformations"), "easy", {"codes"}),
        (("datasets", "letters", "train_draws"), 7, {"codes"}),
        (("datasets", "letters", "test_draws"), 3, {"codes"}),
        (("datasets", "others"), {"kind": "fonts", "letters": "AB"}, set()),
        (("classifier",), {"epochs": 2}, TRAINING),
        (("classifier",), {"batch_size": 50}, TRAINING),
        (("threats", "ball", "radius"), 0.1, {"train hardened", "attack pixels"}),
        (("threats", "manifold", "norm"), "linf", {"train on_manifold", "attack codes"}),
        (("threats", "warp", "radius"), 0.1, {"train warped", "attack warps"}),
        (("methods", "hardened", "steps"), 8, {"train hardened"}),
        (("methods", "on_manifold", "step_rule"), "adam", {"train on_manifold"}),
        (("methods", "warped", "threat"), "ball", {"train warped"}),
        (("methods", "further"), {"threat": "ball"}, {"train further"}),
        (("attacks", "pixels", "restarts"), 3, {"attack pixels"}),
        (("attacks", "pixels", "examples"), 11, {"attack pixels"}),
        (("attacks", "codes", "threat"), "ball", {"attack codes"}),
        (("attacks", "further"), {"threat": "ball"}, {"attack further"}),
        (("distances", "examples"), 9, DISTANCES),
        (("distances", "neighbours"), 4, DISTANCES),
        (("distances", "methods"), ["plain", "hardened"], set()),
        (("distances", "attacks"), ["pixels", "codes", "warps"], {"distance warps"}),
        (("seed",), 0, set()),
        (("threats", "manifold", "radius"), 1.0, set()),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_change_alters_only_the_parts_that_use_it(
    keys: Keys, value: Any, altered: set[str]
) -> None:
    config = valid()
    if keys == ("distances", "attacks"):
        config["distances"]["examples"] = 5
    before = parts(Study.parse(config))
    after = parts(Study.parse(changed((keys, value), config=config)))
    assert {job for job in after if after[job] != before.get(job)} == altered


def test_downloads_are_the_machines_and_in_no_part() -> None:
    clothes = (("datasets",), {"clothes": {"kind": "fashion_mnist", "transformations": "easy"}})
    config = changed(*MANIFOLD_OUT, clothes)
    study = Study.parse(config)
    moved = Study.parse({**config, "downloads": {"folder": "/data", "mirror": "http://nearby"}})
    assert study.downloads.model_dump() == {"folder": "data", "mirror": None}
    assert study.resolved() == moved.resolved()
    part = {"study_seed": 0, "dataset": "clothes", "kind": "fashion_mnist"}
    assert moved.images_part("clothes") == {**part, "transformations": "easy"}


def test_parts_of_what_is_not_in_the_study_are_errors() -> None:
    study = Study.parse(valid())
    for part in (
        lambda: study.fonts_part("x"),
        lambda: study.codes_part("x"),
        lambda: study.images_part("x"),
        lambda: study.training_part("letters", "x"),
        lambda: study.attack_part("letters", "x"),
        lambda: study.distance_part("letters", "warps"),
        lambda: study.distance_part("x", "clean"),
    ):
        with pytest.raises(KeyError):
            part()


def test_the_config_is_left_as_it_was_and_the_study_is_frozen() -> None:
    config = valid()
    study = Study.parse(config)
    assert config == valid()
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 1  # type: ignore[misc]


def paths_in(block: Any, above: Keys = ()) -> Iterator[Keys]:
    """The keys of every value in a config."""
    items = block.items() if isinstance(block, dict) else enumerate(block)
    for key, value in items:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from paths_in(value, (*above, key))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 100)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e-4", "fonts", "image", "linf", "adam", "ball", "plain", "pixels"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_gives_a_study_or_one_sentence(data: st.DataObject) -> None:
    config = Study.parse(valid()).resolved()
    for _ in range(data.draw(st.integers(1, 2))):
        *above, last = data.draw(st.sampled_from(list(paths_in(config))))
        block: Any = reduce(lambda held, key: held[key], above, config)
        match data.draw(st.sampled_from(["set", "add", "drop"])):
            case "add" if isinstance(block, dict):
                block[data.draw(SCALARS)] = data.draw(VALUES)
            case "drop":
                del block[last]
            case _:
                block[last] = data.draw(VALUES)
    try:
        study = Study.parse(config)
    except UserError as error:
        told = str(error)
    else:
        assert Study.parse(study.resolved()) == study
        return
    assert len(told.splitlines()) == 1
    assert len(told) < 500


def shipped(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [path.name for path in CONFIGS.glob("*.yaml")])
def test_shipped_configs_are_valid_and_leave_nothing_to_defaults(name: str) -> None:
    config = shipped(name)
    study = Study.parse(config)
    assert study.resolved() == config
    assert all(study.roles().values())
    for dataset, data in study.datasets.items():
        for of in study.on_manifold(dataset):
            assert all(of.values()) or of["manifold"] == "data_manifold"
        manifolds = [of["manifold"] for of in study.on_manifold(dataset)]
        assert manifolds == ["true_manifold"] * data.has_true_manifold + study.learned(dataset)


def test_paper_config_holds_the_papers_settings() -> None:
    study = Study.parse(shipped("paper.yaml"))
    fonts = study.datasets["fonts"]
    assert (fonts.train_examples, fonts.test_examples) == (960_000, 160_000)
    assert study.sizes == (250, 500, 1000, 2500, 5000, 10_000, 20_000, 40_000)
    assert study.cohorts() == [(0, 4)]
    radii = {name: (threat.norm, threat.radius) for name, threat in study.threats.items()}
    assert radii.pop("on_data_manifold") == ("linf", 0.1)
    assert set(radii.values()) == {("linf", 0.3)}
    betas = {
        name: [study.manifold_part(name, f"class{k}")["recipe"]["beta"] for k in range(10)]
        for name in study.datasets
    }
    digits = [2.25, 5.0, *[2.25] * 5, 3.0, 2.25, 2.25]
    assert betas == {"fonts": [3.0] * 10, "digits": digits, "clothes": [2.75] * 10}
    assert {study.manifold_part(n, "all")["recipe"]["beta"] for n in study.datasets} == {3.0}
    assert [study.manifolds[name].epochs for name in study.datasets] == [10, 30, 30]
    faces = Study.parse(shipped("celeba.yaml"))
    assert faces.manifold_part("faces", "all")["recipe"].pop("beta") == 3.0
    for of, latent in ((study, 10), (faces, 25)):
        for name, manifold in of.manifolds.items():
            assert manifold.latent == latent, name
            assert manifold.channels == (64, 128, 256)
            learned = (manifold.gamma, manifold.rate, manifold.rate_decay, manifold.weight_decay)
            assert learned == (1.0, 0.005, 0.9, 1e-4)
            assert manifold.batch_size == 100
    assert {a.examples for a in study.attacks.values()} == {1000, 2500}
    assert {(a.steps, a.step_size) for a in study.attacks.values()} == {(40, 0.005)}


def test_the_import_brings_no_torch() -> None:
    code = "import sys, robustgen.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
