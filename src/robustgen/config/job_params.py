"""The settings that each job depends on: the `params` of its rule.

A job runs again if its params change, so that each function returns the settings that the job uses,
and no others. The seeds and N of a cohort are wildcards of its rules, and inputs count by content;
neither is repeated here.
"""

from dataclasses import asdict
from typing import Any

from robustgen.config.blocks import Threat
from robustgen.config.study import Study
from robustgen.io.schemas import CLEAN


def prototypes_params(study: Study, dataset: str) -> dict[str, Any]:
    """Return the settings of rendering the letters; the font files count by their signature."""
    return study.datasets[dataset].model_dump(include={"fonts", "letters"})


def codes_params(study: Study, dataset: str) -> dict[str, Any]:
    """Return the settings of drawing the codes of FONTS."""
    settings = study.datasets[dataset].model_dump(exclude={"kind", "font_source"})
    return {"study_seed": study.seed, "dataset": dataset, **settings}


def images_params(study: Study, dataset: str) -> dict[str, Any]:
    """Return the settings of collecting the images of a data set other than FONTS.

    The user's files count by their signature and not by their path.
    """
    settings = study.datasets[dataset].model_dump(exclude={"path"})
    return {"study_seed": study.seed, "dataset": dataset, **settings}


def vaegan_params(study: Study, dataset: str, part: str) -> dict[str, Any]:
    """Return the settings of training a VAE-GAN.

    Args:
        study: the study.
        dataset: name of the data set.
        part: its images, as the wildcard names them: "all", or "class0" and so on.
    """
    manifold = study.manifolds[dataset]
    recipe = manifold.model_dump(exclude={"betas", "images", "judge"})
    recipe["beta"] = manifold.betas.get(part.removeprefix("class"), manifold.beta)
    names = {"study_seed": study.seed, "dataset": dataset}
    return {**names, "images": manifold.images, "recipe": recipe}


def judge_params(study: Study, dataset: str) -> dict[str, Any]:
    """Return the settings of training the judge of the learned manifolds of a data set."""
    data = study.datasets[dataset]
    settings = study.manifolds[dataset].judge.model_dump(exclude_none=True)
    max_images = min(settings.pop("images"), data.train_examples)
    n = max(max_images - max_images % data.classes, data.classes)
    names = {"study_seed": study.seed, "dataset": dataset, "n": n}
    return {**names, "classifier": {**study.classifier.model_dump(), **settings}}


def quality_params(study: Study, dataset: str, space: str) -> dict[str, Any]:
    """Return the settings of measuring the quality of a learned manifold.

    Its random steps lie in the first threat of the study in this space, or in the paper's.
    """
    threats = (t for t in study.threats.values() if t.space == space and t.radius is not None)
    threat = next(threats, Threat(space=space, norm="linf", radius=0.3))  # type: ignore[arg-type]
    names = {"study_seed": study.seed, "dataset": dataset}
    return {**names, "threat": threat.to_params()}


def training_params(study: Study, dataset: str, method: str) -> dict[str, Any]:
    """Return the settings of training a cohort."""
    block = study.methods[method]
    return {
        "study_seed": study.seed,
        "dataset": dataset,
        "method": method,
        "classifier": study.classifier.model_dump(),
        "threat": study.threats[block.threat].to_params() if block.threat else None,
        "search": block.model_dump(exclude={"threat"}) if block.threat else None,
    }


def attack_params(study: Study, dataset: str, attack: str) -> dict[str, Any]:
    """Return the settings of attacking a cohort."""
    block = study.attacks[attack]
    searches = {name: asdict(search) for name, search in study.searches_of(block).items()}
    return {
        "study_seed": study.seed,
        "dataset": dataset,
        "attack": attack,
        "threat": study.threats[block.threat].to_params(),
        "search": searches if block.members else searches[""],
        "examples": block.examples,
    }


def distance_params(study: Study, dataset: str, attack: str) -> dict[str, Any]:
    """Return the settings of measuring the distances of an attack's examples.

    Args:
        study: the study.
        dataset: name of the data set.
        attack: name of the attack; `schemas.CLEAN` for clean test images.

    Raises:
        KeyError: the study measures no such distances.
    """
    if dataset not in study.datasets or attack not in (CLEAN, *study.distance_attacks(dataset)):
        raise KeyError(f"no distances of {attack} on {dataset} in this study")
    return study.distances.model_dump(exclude={"methods", "attacks"})
