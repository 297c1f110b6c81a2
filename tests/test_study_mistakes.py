"""Each mistake in a config is reported in one sentence."""

import os
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import KIND_NAMES, OUT, Keys, changed, refused, valid

from robustgen.config.messages import format_value, join_words
from robustgen.config.study import Study
from robustgen.errors import UserError
from robustgen.specs import ArchitectureName, SpaceName, StepRuleName


def any_of(names: Any) -> str:
    """Return the names of a `Literal` as a list in a sentence: "a, b or c"."""
    return join_words(get_args(names), "or")


RELATIVE = "is relative to the working directory, which snakemake's --directory sets"

MISTAKES: dict[str, tuple[Keys, Any, str]] = {
    # mistake: (keys, value, sentence)
    "unknown key": (
        ("threats", "ball", "colour"),
        1,
        "threats.ball.colour is not a known key; allowed are space, norm and radius",
    ),
    "misspelt key": (
        ("attacks", "pixels", "restart"),
        3,
        "attacks.pixels.restart is not a known key (did you mean restarts?); allowed are "
        "threat, steps, loss, step_rule, step_size, restarts, members and examples",
    ),
    "misspelt key of the whole": (
        ("atacks",),
        {},
        "atacks is not a known key (did you mean attacks?); allowed are study, seed, seeds, "
        "cohort_size, sizes, datasets, classifier, manifolds, threats, methods, attacks, distances "
        "and downloads",
    ),
    "misspelt key of a data set": (
        ("datasets", "letters", "letter"),
        "AB",
        "datasets.letters.letter is not a known key (did you mean letters?); allowed are kind, "
        "fonts, font_source, letters, transformations, train_images_per_glyph and "
        "test_images_per_glyph",
    ),
    "key that is no text": (
        ("classifier",),
        {True: 1},
        "classifier.true is not a known key; allowed are architecture, epochs, batch_size, "
        "learning_rate, learning_rate_decay and weight_decay",
    ),
    "missing number": (
        ("threats", "ball", "radius"),
        OUT,
        "threats.ball.radius is missing, but must be a number above 0 and up to 1,000,000, because "
        "methods.hardened searches within a radius",
    ),
    "a smallest perturbation within a radius": (
        ("attacks", "smallest"),
        {"threat": "ball", "step_rule": "fmn"},
        "attacks.smallest.threat is 'ball', but must be a threat without a radius, of the norm "
        "linf or l2 ({space: image, norm: linf}): the step rule fmn finds the smallest radius "
        "itself",
    ),
    "Carlini-Wagner in another norm": (
        ("attacks", "smallest"),
        {"threat": "ball", "step_rule": "carlini_wagner"},
        "attacks.smallest.threat is 'ball', but must be a threat without a radius, of the norm l2 "
        "({space: image, norm: l2}): the step rule carlini_wagner finds the smallest radius itself",
    ),
    "a smallest perturbation by the cross-entropy": (
        ("attacks", "smallest"),
        {"threat": "ball", "step_rule": "fmn", "loss": "cross_entropy"},
        "attacks.smallest.loss is cross_entropy, but must be one of margin, dlr or targeted_dlr, "
        "as the step rule fmn needs a loss that is positive only where the model is wrong",
    ),
    "training on the smallest perturbation": (
        ("methods", "hardened"),
        {"threat": "ball", "step_rule": "fmn"},
        "methods.hardened.step_rule is fmn, which finds the smallest perturbation, but must be one "
        "of adam, signed, normalized, auto or random: training needs a perturbation within a "
        "radius",
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
        {"learning_rate": "1.5e4"},
        "classifier.learning_rate is '1.5e4', but must be a number above 0 and up to 1,000,000; "
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
    "fraction": (
        ("threats", "ball", "radius"),
        "8/255",
        "threats.ball.radius is '8/255', but must be a number above 0 and up to 1,000,000; "
        "write 0.03137 for 8/255",
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
        ("threats", "ball", "norm"),
        None,
        "threats.ball.norm is null, but must be linf or l2",
    ),
    "null radius": (
        ("threats", "ball", "radius"),
        None,
        "threats.ball.radius is null, but must be a number above 0 and up to 1,000,000; leave the "
        "key out for its default",
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
        "threat, steps, loss, step_rule and step_size",
    ),
    "null in a list": (
        ("sizes",),
        [20, None],
        "sizes[1] is null, but must be a whole number from 1 to 1,000,000",
    ),
    "no sizes": (
        ("sizes",),
        [],
        "sizes is [], but must be a list or mapping with at least one entry",
    ),
    "no methods": (
        ("methods",),
        {},
        "methods is {}, but must be a list or mapping with at least one entry",
    ),
    "no attacks": (
        ("attacks",),
        {},
        "attacks is {}, but must be a list or mapping with at least one entry",
    ),
    "no threats": (
        ("threats",),
        {},
        "threats is {}, but must be a list or mapping with at least one entry",
    ),
    "no data sets": (
        ("datasets",),
        {},
        "datasets is {}, but must be a list or mapping with at least one entry",
    ),
    "no methods measured": (
        ("distances", "methods"),
        [],
        "distances.methods is [], but must be a list or mapping with at least one entry",
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
        f"study is {format_value('x' * 61)}, but must be text of up to 60 letters, digits, "
        "- and _ alone",
    ),
    "no seeds": (("seeds",), 0, "seeds is 0, but must be a whole number from 1 to 10,000"),
    "seeds that fill no cohort": (
        ("seeds",),
        7,
        "seeds is 7, but must be at most cohort_size, 3, or a multiple of it, such as 6 or 9, "
        "so that more seeds add cohorts and retrain none",
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
        "sizes[1] is 62, but must be at most 60, the number of training images of datasets.letters",
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
        "methods.'My method' is not a usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name that YAML reads as true": (
        ("threats", True),
        {},
        "threats.true is not a usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name of a data set": (
        ("datasets", "Letters"),
        {"kind": "fonts"},
        "datasets.Letters is not a usable name: "
        "it must be a lower-case letter and then lower-case letters, digits or _, 60 in all",
    ),
    "name of a results folder": (
        ("datasets", "tables"),
        {"kind": "fonts"},
        "datasets.tables must have another name: benchmarks, figures, logs "
        "and tables are folders of the results",
    ),
    "reserved name": (
        ("attacks", "clean"),
        {"threat": "ball"},
        "attacks.clean must have another name: this one is reserved for clean test images",
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
        ("datasets", "letters", "font_source"),
        "",
        "datasets.letters.font_source is '', but must be installed, or the path of a folder of "
        "fonts, as text",
    ),
    "unknown architecture": (
        ("classifier",),
        {"architecture": "resnet"},
        f"classifier.architecture is 'resnet', but must be {any_of(ArchitectureName)}",
    ),
    "batch of one": (
        ("classifier",),
        {"batch_size": 1},
        "classifier.batch_size is 1, but must be a whole number from 2 to 1,000,000",
    ),
    "learning rate that grows": (
        ("classifier",),
        {"learning_rate_decay": 1.1},
        "classifier.learning_rate_decay is 1.1, but must be a number above 0 and up to 1",
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
        f"threats.ball.space is 'pixels', but must be {any_of(SpaceName)}",
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
        f"attacks.pixels.step_rule is 'sgd', but must be {any_of(StepRuleName)}",
    ),
    "step size of a rule that has none": (
        ("attacks", "pixels"),
        {"threat": "ball", "step_rule": "auto", "step_size": 0.1},
        "attacks.pixels.step_size is 0.1, but must be left out: the step rule auto chooses its "
        "steps itself",
    ),
    "steps of an ensemble": (
        ("attacks", "pixels"),
        {"threat": "ball", "members": ["random"], "steps": 9},
        "attacks.pixels.steps is 9, but must be left out: the attack has members, which have "
        "their own",
    ),
    "an ensemble of itself": (
        ("attacks", "strong"),
        {"threat": "ball", "members": ["random", "strong"]},
        "attacks.strong.members[1] is 'strong', but must be one of the searches "
        "auto_cross_entropy, auto_margin, auto_targeted, fmn, fmn_targeted, random or pixels: an "
        "ensemble cannot be its own member",
    ),
    "a member in another space": (
        ("attacks", "strong"),
        {"threat": "ball", "members": ["codes"]},
        "attacks.strong.members[0] is 'codes', but must be one of the searches "
        "auto_cross_entropy, auto_margin, auto_targeted, fmn, fmn_targeted, random or pixels: "
        "codes is an attack in another space",
    ),
    "an ensemble without members": (
        ("attacks", "strong"),
        {"threat": "ball", "members": []},
        "attacks.strong.members is [], but must be a list or mapping with at least one entry",
    ),
    "an attack with the name of a search": (
        ("attacks", "random"),
        {"threat": "ball", "steps": 1},
        "attacks.random must have another name: as a member of an ensemble, this one is a search "
        "of the library",
    ),
    "several restarts from the clean image": (
        ("attacks", "smallest"),
        {"threat": "ball", "step_rule": "fmn", "restarts": 5},
        "attacks.smallest.restarts is 5, but must be left out: searches with the step rule fmn and "
        "the loss margin begin at the clean image, so that all are equal",
    ),
    "an unknown member": (
        ("attacks", "strong"),
        {"threat": "ball", "members": ["autotargeted"]},
        "attacks.strong.members[0] is 'autotargeted', but must be one of the searches "
        "auto_cross_entropy, auto_margin, auto_targeted, fmn, fmn_targeted, random or pixels (did "
        "you mean auto_targeted?)",
    ),
    "a targeted loss of two classes": (
        ("attacks", "strong"),
        {"threat": "ball", "loss": "targeted_dlr"},
        "attacks.strong has the loss targeted_dlr, which needs 3 or more classes, but "
        "datasets.letters has 2; use the loss margin, or the members auto_margin and fmn",
    ),
    "a targeted member of two classes": (
        ("attacks", "strong"),
        {"threat": "ball", "members": ["auto_targeted"]},
        "the member auto_targeted of attacks.strong has the loss targeted_dlr, which needs 3 or "
        "more classes, but datasets.letters has 2; use the loss margin, or the members "
        "auto_margin and fmn",
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
        {"kind": "images", "path": "docs", "test_share": 0},
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
        f"datasets.photos.path is 'no.npz', but there is no file {Path.cwd()}/no.npz to take "
        f"images from; no.npz {RELATIVE}",
    ),
    "mirror in two lines": (
        ("downloads",),
        {"mirror": "http://a\n"},
        r"downloads.mirror is 'http://a\n', but must be the path of a folder, or a URL, "
        "as text",
    ),
    "null mirror": (
        ("downloads",),
        {"mirror": None},
        "downloads.mirror is null, but must be the path of a folder, or a URL, as text; "
        "leave the key out for its default",
    ),
    "as many neighbours as images": (
        ("distances", "neighbours"),
        60,
        "distances.neighbours is 60, but must be below 60, "
        "the number of training images of datasets.letters",
    ),
}


@pytest.mark.parametrize(("keys", "value", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(keys: Keys, value: Any, sentence: str) -> None:
    assert refused(changed((keys, value))) == sentence


RENAMED: dict[str, tuple[Keys, Any, str]] = {
    # former key: (keys, value, sentence)
    "rate of classifiers": (
        ("classifier",),
        {"rate": 0.1},
        "classifier.rate is called learning_rate now: rename the key",
    ),
    "rate_decay of classifiers": (
        ("classifier",),
        {"rate_decay": 0.9},
        "classifier.rate_decay is called learning_rate_decay now: rename the key",
    ),
    "rate of VAE-GANs": (
        ("manifolds",),
        {"letters": {"rate": 0.1}},
        "manifolds.letters.rate is called learning_rate now: rename the key",
    ),
    "rate_decay of VAE-GANs": (
        ("manifolds",),
        {"letters": {"rate_decay": 0.9}},
        "manifolds.letters.rate_decay is called learning_rate_decay now: rename the key",
    ),
    "rate_decay of judges": (
        ("manifolds",),
        {"letters": {"judge": {"rate_decay": 0.9}}},
        "manifolds.letters.judge.rate_decay is called learning_rate_decay now: rename the key",
    ),
    "latent of VAE-GANs": (
        ("manifolds",),
        {"letters": {"latent": 5}},
        "manifolds.letters.latent is called latent_dim now: rename the key",
    ),
    "fonts_from of data sets": (
        ("datasets", "letters"),
        {"kind": "fonts", "fonts_from": "installed"},
        "datasets.letters.fonts_from is called font_source now: rename the key",
    ),
    "train_draws of data sets": (
        ("datasets", "letters"),
        {"kind": "fonts", "train_draws": 5},
        "datasets.letters.train_draws is called train_images_per_glyph now: rename the key",
    ),
    "test_draws of data sets": (
        ("datasets", "letters"),
        {"kind": "fonts", "test_draws": 5},
        "datasets.letters.test_draws is called test_images_per_glyph now: rename the key",
    ),
    "rate of judges, which never was a key": (
        ("manifolds",),
        {"letters": {"judge": {"rate": 0.1}}},
        "manifolds.letters.judge.rate is not a known key; allowed are images, epochs and "
        "learning_rate_decay",
    ),
}


@pytest.mark.parametrize(("keys", "value", "sentence"), RENAMED.values(), ids=RENAMED)
def test_a_former_key_is_refused_with_its_current_name(
    keys: Keys, value: Any, sentence: str
) -> None:
    assert refused(changed((keys, value))) == sentence


@pytest.mark.parametrize("config", [None, 3, ["study"]], ids=repr)
def test_a_config_that_is_not_a_mapping_is_refused(config: Any) -> None:
    assert refused(config).startswith(f"the config is {'null' if config is None else config}, but")


def test_a_misspelt_key_is_reported_before_the_missing_one() -> None:
    assert refused(changed((("size",), [20]), (("sizes",), OUT))).startswith("size is not a known")


def test_long_values_are_shortened() -> None:
    assert len(refused(changed((("study",), "?" * 10_000)))) < 150


def paths_in(block: Any, parent_keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of every value in a config."""
    items = block.items() if isinstance(block, dict) else enumerate(block)
    for key, value in items:
        yield (*parent_keys, key)
        if isinstance(value, dict | list):
            yield from paths_in(value, (*parent_keys, key))


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
def test_a_random_change_gives_a_study_or_one_sentence(data: st.DataObject) -> None:
    config = Study.parse(valid()).to_config()
    for _ in range(data.draw(st.integers(1, 2))):
        *parent_keys, key = data.draw(st.sampled_from(list(paths_in(config))))
        block: Any = reduce(lambda parent, name: parent[name], parent_keys, config)
        match data.draw(st.sampled_from(["set", "add", "drop"])):
            case "add" if isinstance(block, dict):
                block[data.draw(SCALARS)] = data.draw(VALUES)
            case "drop":
                del block[key]
            case _:
                block[key] = data.draw(VALUES)
    try:
        study = Study.parse(config)
    except UserError as error:
        message = str(error)
    else:
        assert Study.parse(study.to_config()) == study
        return
    assert len(message.splitlines()) == 1
    assert len(message) < 500


NUL = "a path must be UTF-8 without control characters"
NO_HOME = "no home folder is known for ~no_such_user: write the path in full"
PATHS: dict[str, tuple[str, str]] = {
    # mistake: (path, part of the sentence)
    "home of nobody": ("~no_such_user/x", NO_HOME),
    "null byte": ("a\0b", NUL),
    "null byte in a home folder": ("~a\0b/x", NUL),
    "two lines": ("a\nb", NUL),
    "half a character": ("a\ud800", "as text"),
    "long name": ("/" + "x" * 300, "/" + "x" * 196 + "... cannot be read: File name too long"),
    "long path": ("/x" * 3000, "cannot be read: File name too long"),
    "loop": ("loop", "/loop cannot be read: Too many levels of symbolic links; loop is relative"),
    "broken link": ("broken", "/broken is a link to gone, which does not exist: fix or remove"),
    "missing": ("missing/x", "/missing/x to take "),
    "below a file": ("file/x", "/file/x to take "),
    "pipe": ("pipe", "/pipe is "),
}
KINDS_OF_PATHS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # kind: (key, expected type, sentence by path of the wrong type)
    "images": ("path", "folder", {"file": "is a file, but must be a folder to take images from"}),
    "npz": ("path", "file", {"folder": "is a folder, but must be a file to take images from"}),
    "fonts": ("font_source", "folder", {"file": "is a file, but must be a folder to take fonts"}),
}


@pytest.fixture
def odd_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("gone")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def refused_path(kind: str, path: str) -> str:
    """Return the sentence with which a path of a data set is refused."""
    key = KINDS_OF_PATHS[kind][0]
    sentence = refused(changed((("datasets", "photos"), {"kind": kind, key: path})))
    assert sentence.startswith(f"datasets.photos.{key} is {format_value(path)}, but ")
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 600
    return sentence


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("kind", KINDS_OF_PATHS)
@pytest.mark.parametrize(("path", "words"), PATHS.values(), ids=PATHS)
def test_an_unusable_path_is_one_sentence(kind: str, path: str, words: str) -> None:
    assert words in refused_path(kind, path)


@pytest.mark.parametrize("kind", KINDS_OF_PATHS)
def test_a_path_of_the_wrong_type_is_named_in_full(kind: str, odd_files: Path) -> None:
    for path, words in KINDS_OF_PATHS[kind][2].items():
        assert f"{odd_files}/{path} {words}" in refused_path(kind, path)
        assert refused_path(kind, path).endswith(f"; {path} {RELATIVE}")
        assert RELATIVE not in refused_path(kind, str(odd_files / path))


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize("kind", KINDS_OF_PATHS)
def test_a_path_without_permission_is_one_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    assert "/folder cannot be read: Permission denied" in refused_path(kind, "folder")


@pytest.mark.parametrize("key", ["folder", "mirror"])
@pytest.mark.parametrize("path", ["~no_such_user/x", "a\0b"])
def test_an_unusable_place_of_downloads_is_one_sentence(key: str, path: str) -> None:
    sentence = refused(changed((("downloads",), {key: path})))
    assert sentence.startswith(f"downloads.{key} is {format_value(path)}, but ")
    assert "no home folder is known" in sentence or "must be " in sentence
