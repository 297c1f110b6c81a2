"""Radii that are larger than a space, and searches whose steps do not suit their ball."""

import math

import pytest
from studies import changed, refused, valid

from robustgen.config.blocks import Attack, Threat
from robustgen.config.search_checks import require_possible_radii, search_warnings
from robustgen.config.study import Study

HARD = (math.pi**2 + 2 * 0.4**2 + 2 * 1.0**2 + 0.4**2) ** 0.5
TOO_LARGE = {
    "8, meant as 8/255": (
        {"space": "image", "norm": "linf", "radius": 8},
        "threats.ball.radius is 8, but must be at most 1, the largest linf distance within the "
        "space image of datasets.letters; pixels are in [0, 1]: write 0.03137 for 8/255",
    ),
    "an L2 radius beyond all images of 28x28": (
        {"space": "image", "norm": "l2", "radius": 28.1},
        "threats.ball.radius is 28.1, but must be at most 28, the largest l2 distance within the "
        "space image of datasets.letters; pixels are in [0, 1]: write 0.1102 for 28.1/255",
    ),
    "a rotation by more than the ranges": (
        {"space": "transformation", "norm": "linf", "radius": 3.2},
        "threats.ball.radius is 3.2, but must be at most 3.142, the largest linf distance within "
        "the space transformation of datasets.letters",
    ),
    "an L2 radius beyond all parameters": (
        {"space": "true_manifold", "norm": "l2", "radius": 4},
        f"threats.ball.radius is 4, but must be at most {HARD:.4g}, the largest l2 distance within "
        "the space true_manifold of datasets.letters",
    ),
}


@pytest.mark.parametrize(("threat", "sentence"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_radius_larger_than_the_space_is_refused(threat, sentence):
    assert refused(changed((("threats", "ball"), threat))) == sentence


def test_a_radius_larger_than_a_learned_manifold_is_refused():
    config = changed((("threats", "ball", "space"), "learned_manifold"))
    config["manifolds"] = {"letters": {"latent_dim": 3}}
    config["methods"] = {"plain": {}}
    config["threats"]["ball"]["radius"] = 4.1
    assert "must be at most 4, the largest linf distance" in refused(config)
    config["threats"]["ball"] |= {"norm": "l2", "radius": 6.9}
    Study.parse(config)


SEARCHES = {
    # norm, radius, step rule, steps, step size, and the reach if the search cannot cross the ball
    "as far as the radius": ("linf", 0.3, "signed", 3, 0.1, None),
    "a little less": (
        "linf",
        0.3,
        "signed",
        29,
        0.01,
        "29 steps of 0.01 move at most 0.29, but the radius is 0.3",
    ),
    "the paper's": (
        "linf",
        0.3,
        "adam",
        40,
        0.005,
        "40 steps of 0.005 move at most 0.2, but the radius is 0.3",
    ),
    "L2 steps": (
        "l2",
        3,
        "normalized",
        40,
        0.005,
        "40 steps of 0.005 move at most 0.2, but the radius is 3",
    ),
    "L2 steps that are longer": ("l2", 3, "normalized", 40, 0.3, None),
    "L2 by steps in every pixel": ("l2", 3, "adam", 40, 0.005, None),
    "too few steps in every pixel": (
        "l2",
        3,
        "signed",
        10,
        0.01,
        "10 steps of 0.01 move at most 2.8, but the radius is 3",
    ),
}


STEPS = {
    "as long as the ball is wide": ("linf", "signed", 0.2, False),
    "in units of 1/255": ("linf", "signed", 8, True),
    "in each pixel of an L2 ball": ("l2", "adam", 0.3, True),
    "of an L2 length": ("l2", "normalized", 0.3, True),
    "of an L2 length that is spread over all pixels": ("linf", "normalized", 0.3, False),
}


@pytest.mark.parametrize(("norm", "rule", "step_size", "is_long"), STEPS.values(), ids=STEPS)
def test_a_warning_names_steps_longer_than_the_ball_is_wide(norm, rule, step_size, is_long):
    config = valid()
    config["threats"]["ball"] |= {"norm": norm, "radius": 0.1}
    search = {"threat": "ball", "steps": 40, "step_rule": rule, "step_size": step_size}
    config["attacks"], config["methods"] = {"pixels": search}, {"plain": {}}
    del config["distances"]
    start = f"the step_size of attacks.pixels ({step_size}, with the radius 0.1) is larger than"
    assert [warning[: len(start)] for warning in search_warnings(Study.parse(config))] == (
        [start] if is_long else []
    )


@pytest.mark.parametrize(
    ("norm", "radius", "rule", "steps", "step_size", "reach"), SEARCHES.values(), ids=SEARCHES
)
def test_a_warning_names_searches_that_cannot_cross_their_ball(
    norm, radius, rule, steps, step_size, reach
):
    search = {"threat": "ball", "step_rule": rule, "steps": steps, "step_size": step_size}
    config = valid()
    config["threats"]["ball"] |= {"norm": norm, "radius": radius}
    config["methods"] = {"plain": {}, "random": {"threat": "ball", "steps": 0}, "hardened": search}
    config["attacks"] = {"pixels": search}
    del config["distances"]
    warning = " ".join(search_warnings(Study.parse(config)))
    if reach is None:
        assert warning == ""
    else:
        assert warning.startswith(f"the steps of attacks.pixels ({reach}) and methods.hardened (")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_space_without_known_widths_has_neither_limit_nor_warning(norm):
    """A space that was added to the library may be wider than six affine parameters."""
    study = Study.parse(valid())
    wide = Threat.model_construct(space="contrast", norm=norm, radius=100.0)
    search = Attack(threat="ball", steps=2, step_size=60.0)
    study = study.model_copy(
        update={"threats": {"ball": wide}, "methods": {}, "attacks": {"pixels": search}}
    )
    require_possible_radii(study)
    assert search_warnings(study) == []
