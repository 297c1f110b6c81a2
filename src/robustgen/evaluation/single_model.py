"""The attack of a study on one PyTorch model and any images, in one call."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from robustgen.analysis.robustness_checks import find_warnings
from robustgen.attacks.losses import LOSSES
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.backend import PLAIN
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.evaluation.attacks import attack_cohort
from robustgen.specs import (
    AUTO_STEP_RULES,
    L2_STEP_RULES,
    MEMBERS,
    MINIMAL_STEP_RULES,
    SearchConfig,
    Threat,
    describe_for_checks,
    require_name,
    require_number,
)
from robustgen.tensor_checks import (
    compute_logits,
    require_classes,
    require_eval_mode,
    require_images,
    require_labels,
)

MAX_SEED = 2**63 - 1
"""Largest seed of a random generator of PyTorch."""


class SingleModelAttack(NamedTuple):
    """The result of `attack`.

    Attributes:
        images: `(N, C, H, W)` adversarial images, on the device of the clean images. Without
            success, the image of highest loss, and for an ensemble the image of highest margin
            among those of its members. A clean image that is misclassified is not changed.
        table: one row per image with `example`, `label`, `prediction` (class of the clean image),
            `adversarial_prediction` (class of the returned image), `success`, `iterations` and
            `restart` (of the success), `member` (of an ensemble, that succeeded), `loss`
            (cross-entropy of the returned image), `refuted` (whether a search claimed a success
            that the model did not confirm), `clean_gradient` (largest component of the gradient of
            the cross-entropy at the clean image), and the norms `l1`, `l2` and `linf` of the
            perturbation. An image that the model misclassifies (`prediction` differs from `label`)
            is not attacked.
    """

    images: Tensor
    table: pd.DataFrame


class _CohortOfOne:
    """One model with the interface `AttackedModels`."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seeds, self.backend = model, [0], PLAIN

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `(1, B, K)` of images `(1, B, C, H, W)`."""
        logits: Tensor = self.model(images[0])[None]
        return logits

    def reference_forward(self, images: Tensor) -> Tensor:
        """Return the logits of `__call__` without gradients."""
        with torch.no_grad():
            return self(images)


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float | None,
    norm: str = "linf",
    steps: int = SearchConfig.steps,
    loss: str | None = None,
    step_rule: str | None = None,
    step_size: float | None = None,
    restarts: int = SearchConfig.restarts,
    members: Sequence[str] = (),
    seed: int = 0,
) -> SingleModelAttack:
    """Attack a model on images, as the workflow attacks the classifiers of a study.

    The attack is projected gradient ascent on a loss, from random starts in the ball
    until the first success. Without a radius it finds the smallest perturbation of each image. With
    `members` it is an ensemble. Images that the model misclassifies are not attacked. Every success
    is checked: the model misclassifies the returned image, which lies in the ball and in [0, 1].
    Where the success rate is likely too low, a `UserWarning` says why, as the table of robustness
    checks of a study does.

    Args:
        model: images `(N, C, H, W)` to logits `(N, K)`, in eval mode.
        images: `(N, C, H, W)` of 32-bit floats in [0, 1], on the device of the model.
        labels: `(N,)` true classes, int64, on the same device.
        radius: radius of the ball, in pixel values, for example 8 / 255. None finds the smallest
            perturbation.
        norm: norm of the ball, "linf" or "l2".
        steps: number of steps from each random start. "auto" needs about 100, "carlini_wagner" 120
            and "random" 1,000 or more.
        loss: the loss that the attack increases: "cross_entropy", "scaled_cross_entropy", "margin",
            "dlr" or "targeted_dlr"; without a radius one of the last three. None takes the
            cross-entropy, and without a radius the margin.
        step_rule: "signed", "normalized" or "adam", or a rule without a step size, "auto" or
            "random"; None takes "signed" for the norm "linf" and "normalized" for the norm "l2".
            Without a radius "fmn", which None takes, or, for the norm "l2", "carlini_wagner".
        step_size: the factor on a step of the step rule, if the rule has a step size. None takes
            steps whose length in the norm of the ball is 2.5 times the radius, divided by the steps
            (Madry et al., ICLR 2018).
        restarts: number of random starts per image.
        members: names of searches of an ensemble: "auto_cross_entropy", "auto_margin",
            "auto_targeted", "fmn", "fmn_targeted" and "random". They run one after the other on the
            images on which those before had no success, with settings of their own: the settings
            above, except radius and norm, are left at their defaults.
        seed: seed of the random starts; equal calls give equal results.

    Raises:
        ValueError: an argument is not as described; the message names it.

    Examples:
        >>> import robustgen, torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
        >>> images = torch.full((3, 1, 2, 2), 0.5)
        >>> labels = model(images).argmax(1)
        >>> result = robustgen.attack(model, images, labels, radius=0.5, norm="linf")
        >>> result.images.shape, len(result.table)
        (torch.Size([3, 1, 2, 2]), 3)
    """
    threat = Threat("image", norm) if radius is None else Threat("image", norm, radius)
    require_number("seed", seed, 0, highest=MAX_SEED, is_integer=True)
    _check_images(images)
    settings: dict[str, Any] = {
        "steps": steps,
        "restarts": restarts,
        "loss": loss,
        "step_rule": step_rule,
        "step_size": step_size,
    }
    if members:
        searches = _make_ensemble(threat, members, **settings)
    else:
        searches = {"": _make_search(threat, images[0].numel(), **settings)}
    _check_radius(threat, images)
    require_labels("labels", labels, images.shape[:1], images.device)
    _check_model(model, images, labels)
    generator = torch.Generator().manual_seed(int(seed))
    # In inference mode there would be no gradients with respect to the images.
    with torch.inference_mode(False), torch.enable_grad():
        data = _make_split(images.detach().clone(), labels.clone())
        try:
            result = attack_cohort(_CohortOfOne(model), data, threat, searches, [generator])
        except UserError as error:
            raise ValueError("model has logits that are not finite") from error
    table = _make_table(result.rows)
    description = describe_for_checks(searches, is_minimal=radius is None)
    for sentence in find_warnings(table, description):
        warnings.warn(f"the success rate may be too low: {sentence}", stacklevel=2)
    return SingleModelAttack(result.images[0].to(images.device), table)


def _make_search(
    threat: Threat,
    pixels: int,
    *,
    steps: int,
    restarts: int,
    loss: str | None,
    step_rule: str | None,
    step_size: float | None,
) -> SearchConfig:
    """Return the search of `attack`, for images of so many numbers."""
    is_minimal = threat.radius == math.inf
    if step_rule is None:
        rule_by_norm = {"linf": "signed", "l2": "normalized"}
        step_rule = "fmn" if is_minimal else rule_by_norm[threat.norm]
    if loss is None:
        loss = "margin" if is_minimal else SearchConfig.loss
    require_name("step_rule", step_rule, STEP_RULES)
    require_name("loss", loss, LOSSES)
    require_number("steps", steps, 0, is_integer=True)
    if step_rule in MINIMAL_STEP_RULES and not is_minimal:
        raise ValueError(
            f"radius is {threat.radius:g}, but must be None for step_rule {step_rule!r}, which "
            "finds the smallest radius itself"
        )
    if step_size is None:
        step_size = _default_step_size(threat, step_rule, steps, pixels)
    elif step_rule in AUTO_STEP_RULES:
        raise ValueError(
            f"step_size is {step_size!r}, but must be left out: step_rule {step_rule!r} chooses "
            "its steps itself"
        )
    return SearchConfig(step_rule, step_size, steps, restarts, loss)


def _make_ensemble(
    threat: Threat, members: Sequence[str], **settings: object
) -> dict[str, SearchConfig]:
    """Return the searches of an ensemble by name.

    Args:
        threat: the ball, which must have a radius.
        members: names of searches, or the name of a single one.
        settings: arguments of `attack`, which must have their defaults.
    """
    defaults = {"steps": SearchConfig.steps, "restarts": SearchConfig.restarts}
    for name, value in settings.items():
        if value != defaults.get(name):
            raise ValueError(
                f"{name} is {value!r}, but must be left out: members have their own settings"
            )
    if threat.radius == math.inf:
        raise ValueError(
            "radius is None, but members search within a radius; without members, radius=None "
            "finds the smallest perturbation"
        )
    names = [members] if isinstance(members, str) else list(members)
    for name in names:
        require_name("members", name, MEMBERS)
        if names.count(name) > 1:
            raise ValueError(f"members has {name!r} twice, but must have different names")
    return {name: MEMBERS[name] for name in names}


def _default_step_size(threat: Threat, step_rule: str, steps: int, pixels: int) -> float:
    """Return the step size with which a step has 2.5 times the radius over the steps as length.

    A step of the rules `L2_STEP_RULES` has the L2 norm 1, so that its coordinates are about 1 over
    the root of the number of `pixels`. A step of other rules has a length of about 1 in each
    coordinate, so that its L2 norm is this root.
    """
    if step_rule in AUTO_STEP_RULES or threat.radius == math.inf:
        return SearchConfig.step_size  # not used
    length = 2.5 * threat.radius / max(steps, 1)
    if step_rule in L2_STEP_RULES:
        return length * pixels**0.5 if threat.norm == "linf" else length
    return length / pixels**0.5 if threat.norm == "l2" else length


def _make_split(images: Tensor, labels: Tensor) -> Split:
    """Return the images as a split without codes, whose classes have their numbers as names."""
    rows = torch.arange(len(images), device=images.device)
    class_names = tuple(str(label) for label in range(int(labels.max()) + 1))
    no_ranges = rows, rows  # the space `image` does not read the ranges of transformations
    return Split(images, rows, labels, None, no_ranges, class_names)


def _make_table(rows: dict[str, Any]) -> pd.DataFrame:
    """Return the columns that apply to one model and to the space `image`, as a table."""
    norms = {f"image_{name}": name for name in ("l1", "l2", "linf")}
    names = [
        *("example", "label", "prediction", "adversarial_prediction", "success"),
        *("iterations", "restart", "member", "loss", "refuted", "clean_gradient", *norms),
    ]
    table = pd.DataFrame({name: pd.array(rows[name]) for name in names}).rename(columns=norms)
    return table.astype({"iterations": "Int64", "restart": "Int64"})


def _check_images(images: Tensor) -> None:
    """Raise a `ValueError` unless `images` is a batch of at least one image in [0, 1]."""
    require_images("images", images)
    if not len(images):
        raise ValueError("images must be a tensor (N, C, H, W) with at least one image")


def _check_radius(threat: Threat, images: Tensor) -> None:
    """Raise a `ValueError` if the ball contains every image, as with a radius in grey values."""
    largest = 1.0 if threat.norm == "linf" else images[0].numel() ** 0.5
    if largest < threat.radius < math.inf:
        raise ValueError(
            f"radius is {threat.radius:g}, but must be at most {largest:g}, the largest distance "
            f"in [0, 1]; {threat.radius:g} of 255 grey values are {threat.radius / 255:.4g}"
        )


def _check_model(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise a `ValueError` unless `model` has a gradient and logits for all labels."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    require_eval_mode("model", model)
    device = next((parameter.device for parameter in model.parameters()), images.device)
    if device != images.device:
        raise ValueError(f"model is on {device}, but images on {images.device}")
    with torch.inference_mode(False), torch.enable_grad():
        image = images[:1].detach().clone().requires_grad_()
        logits = compute_logits("model", model, image, (1,))
        require_classes("labels", labels, logits.shape[1])
        has_gradient = _depends_on(logits, image)
    if not has_gradient:
        raise ValueError(
            "model has logits without a gradient with respect to the images; remove detach() and "
            "no_grad() from its forward pass"
        )


def _depends_on(logits: Tensor, images: Tensor) -> bool:
    """Whether autograd has recorded how `logits` depend on `images`."""
    if not logits.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(logits.sum(), images, allow_unused=True)
    return gradient is not None
