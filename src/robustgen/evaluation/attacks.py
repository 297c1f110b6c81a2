"""The evaluation of a trained cohort: predictions on the test split, and attacks on it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.attacks.losses import cross_entropy, margin
from robustgen.attacks.search import SearchResult, run_search_from_starts
from robustgen.attacks.spaces import Space, make_space, perturbation_norm, perturbation_norms
from robustgen.backend import Backend
from robustgen.data.split import Split, require_split
from robustgen.errors import UserError
from robustgen.io.checkpoints import (
    Checkpoint,
    ExampleStore,
    get_generator_states,
    set_generator_states,
)
from robustgen.models.cohort import NO_CLASS, Cohort, predict_class
from robustgen.progress import log, log_progress
from robustgen.sampling import expand_trailing_dims
from robustgen.specs import (
    GRADIENT_FREE_STEP_RULES,
    SearchConfig,
    Threat,
    require_instance,
    require_search_fits,
)
from robustgen.tensor_checks import (
    SLACK,
    require_classes,
    require_eval_mode,
    require_generators,
    require_same_device,
)

BATCH_SIZE = 100
"""Number of examples whose random starts are drawn together. Another number gives other starts."""

MAX_BATCHES = {"cpu": 5, "cuda": 20}
"""Batches that are attacked together, by type of device. A step for few examples takes almost as
long as one for many, and most searches end with few."""
MAX_START_NUMBERS, MAX_CODE_NUMBERS_ON_CPU = 50_000_000, 5_000_000
"""Fewer batches are attacked together if the random starts of all models and restarts, or on a CPU
the codes of all models, would exceed so many numbers."""


class AttackedModels(Protocol):
    """The interface of `Cohort` that attacks use: M models in eval mode.

    Attributes:
        seeds: the M seeds, which identify the models.
        backend: the operations that search and draw the random starts.
    """

    seeds: list[int]
    backend: Backend

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`, differentiable in the images."""
        ...

    def reference_forward(self, images: Tensor) -> Tensor:
        """Return the logits as plain PyTorch layers compute them, without gradients.

        Successes are verified with these logits.
        """
        ...


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack on a cohort.

    Attributes:
        rows: columns of `schemas.ATTACKS`, a row per model and example.
        images: `(M, B, C, H, W)` adversarial images on the CPU. Without success, the image of
            highest loss, and for an ensemble the image of highest margin among those of its
            members. A test image that is misclassified is not changed.
        codes: `(M, B, *D)` codes of these images, on the CPU.
    """

    rows: dict[str, Any]
    images: Tensor
    codes: Tensor


def predict(cohort: AttackedModels, data: Split) -> dict[str, Any]:
    """Predict the class of every image of `data` with every model.

    Returns:
        Columns of `schemas.PREDICTIONS`.

    Raises:
        ValueError: `cohort` is in train mode, or does not fit `data`.
        UserError: a logit is not finite, because the training diverged.
    """
    _check_arguments(cohort, data)
    predictions = []
    with torch.no_grad():
        for start in range(0, len(data), BATCH_SIZE):
            batch = data.select(slice(start, start + BATCH_SIZE)).expand(len(cohort.seeds))
            logits = cohort(batch.images())
            require_classes("the labels of data", batch.labels, logits.shape[-1])
            if not logits.isfinite().all():
                raise UserError(
                    "training diverged: logits are not finite; set a lower classifier.learning_rate"
                )
            predictions.append(predict_class(logits))
    classes = torch.cat(predictions, 1)
    _warn_of_ties(classes)
    return {**_key_columns(cohort, data), "prediction": _to_column(classes)}


def attack_cohort(
    cohort: AttackedModels,
    data: Split,
    threat: Threat,
    search: SearchConfig | Mapping[str, SearchConfig],
    generators: Sequence[torch.Generator],
    checkpoint: Checkpoint | None = None,
) -> AttackResult:
    """Attack every model of `cohort` on every image of `data` that it classifies correctly.

    A success counts only if the model, computed by plain PyTorch layers, misclassifies the saved
    image, and if the code of the image lies in the ball and within the bounds.

    Args:
        cohort: M models in eval mode.
        data: the images.
        threat: the ball to search; without a radius for a search for the smallest perturbation.
        search: loss, step rule, step size, steps and restarts. Several searches by name are an
            ensemble: each one works on the images on which those before it had no success. One
            without gradients begins at the best codes of those before it.
        generators: M generators from which nothing has been drawn.
        checkpoint: read to resume an interrupted run, and written between batches. Adversarial
            examples are written to files beside it, so that memory holds one batch of them. The
            caller deletes all these files.

    Raises:
        ValueError: an argument is not as described; the message names it.
        UserError: a loss is not finite, or examples cannot be written.

    Examples:
        >>> import robustgen, torch
        >>> study = robustgen.open_study("results/smoke")
        >>> cohort = study.cohort("fonts", "normal", n=60)
        >>> images = study.split("fonts").select(slice(8))
        >>> threat = robustgen.Threat("image", "linf", 0.1)
        >>> search = robustgen.SearchConfig("signed", step_size=0.02, steps=10)
        >>> generators = [torch.Generator().manual_seed(seed) for seed in cohort.seeds]
        >>> result = robustgen.attack_cohort(cohort, images, threat, search, generators)
        >>> result.images.shape, len(result.rows["success"])
        (torch.Size([2, 8, 1, 28, 28]), 16)
    """
    _check_arguments(cohort, data)
    require_instance("threat", threat, Threat)
    searches = _list_searches(search)
    for member in searches.values():
        require_search_fits(threat, member)
    require_generators("generators", generators, len(cohort.seeds))
    examples = _make_example_store(cohort, data, threat, checkpoint)
    restarts = sum(member.restarts for member in searches.values())
    batch_size = choose_batch_size(cohort, data, restarts)
    saved_columns = _resume(checkpoint, generators, examples, batch_size)
    examples_done = saved_columns["claimed"].shape[1] if saved_columns else 0
    columns: dict[str, Tensor] = {}
    _store_columns(columns, saved_columns, 0, len(data))
    with examples:
        for start in log_progress(range(examples_done, len(data), batch_size), "batch"):
            batch = data.select(slice(start, start + batch_size)).expand(len(cohort.seeds))
            result = _attack_batch(cohort, batch, threat, searches, generators)
            examples.write_batch(start, {name: result.pop(name) for name in examples.shapes})
            _store_columns(columns, result, start, len(data))
            if checkpoint and checkpoint.due():
                end = start + batch_size
                filled_columns = {name: column[:, :end] for name, column in columns.items()}
                tensors = {**filled_columns, **get_generator_states(generators)}
                checkpoint.write(tensors, {"digest": examples.digest()})
                examples.keep_on_error()
    return _assemble(cohort, data, list(searches), columns, examples.tensors())


def _list_searches(
    search: SearchConfig | Mapping[str, SearchConfig],
) -> Mapping[str, SearchConfig]:
    """Return the searches of an attack by name; a single search has an empty name.

    Raises:
        ValueError: there is no search, or one is none.
    """
    searches = search if isinstance(search, Mapping) else {"": search}
    if not searches:
        raise ValueError("search is empty, but must have one or more searches by name")
    for name, member in searches.items():
        require_instance(f"search[{name!r}]" if name else "search", member, SearchConfig)
    return searches


def _check_arguments(cohort: AttackedModels, data: Split) -> None:
    """Raise a `ValueError` unless the models are in eval mode and `data` has proper images."""
    if not hasattr(cohort, "reference_forward"):
        raise ValueError(f"cohort must be a Cohort, not {type(cohort).__name__}")
    require_eval_mode("cohort", cohort)
    require_split("data", data)
    if not len(data):
        raise ValueError("data has no images")
    if isinstance(cohort, Cohort):
        require_same_device("the models", cohort.device, "the images", data.labels.device)


def choose_batch_size(cohort: AttackedModels, data: Split, restarts: int) -> int:
    """Return the number of examples to attack together, a multiple of `BATCH_SIZE`.

    It bounds the memory that the codes and the random starts of all `restarts` take.
    """
    image_numbers = data.select(slice(1)).images().numel()
    code_numbers = BATCH_SIZE * image_numbers * len(cohort.seeds)
    is_cpu = data.labels.device.type == "cpu"
    batches = min(
        MAX_BATCHES["cpu" if is_cpu else "cuda"],
        MAX_START_NUMBERS // (code_numbers * restarts),
        *([MAX_CODE_NUMBERS_ON_CPU // code_numbers] if is_cpu else []),
    )
    return BATCH_SIZE * max(1, batches)


def _attack_batch(
    cohort: AttackedModels,
    batch: Split,
    threat: Threat,
    searches: Mapping[str, SearchConfig],
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Attack a batch `(M, B)`; return columns, images and codes by name, each `(M, B, ...)`."""
    space = make_space(threat.space, batch)
    clean_images = batch.images()
    clean_columns = _evaluate_clean(cohort, space, clean_images, batch.labels)
    is_wrong = clean_columns["prediction"] != batch.labels
    best: dict[str, Tensor] = {}
    restarts = sum(search.restarts for search in searches.values())
    starts = iter(_sample_starts(cohort, space, threat.norm, restarts, generators))
    for member, search in enumerate(searches.values()):
        skip = is_wrong | best["success"] if best else is_wrong
        member_starts: Iterator[Tensor] = islice(starts, search.restarts)
        if best and search.step_rule in GRADIENT_FREE_STEP_RULES:
            member_starts = _begin_at(best["codes"], space, threat, member_starts)
        member_result = _search_batch(
            cohort, clean_images, batch.labels, space, threat, search, member_starts, skip
        )
        member_result["member"] = torch.full_like(batch.labels, member)
        best = _merge(best, member_result, ~skip) if best else member_result
    best["member"] = torch.where(best["success"], best["member"], -1)
    del best["margin"]  # compares the searches, and is no column of the table
    image_norms = perturbation_norms(best["images"] - clean_images)
    return {
        **clean_columns,
        **best,
        **{f"image_{norm}": norms for norm, norms in image_norms.items()},
    }


def _begin_at(
    codes: Tensor, space: Space, threat: Threat, starts: Iterator[Tensor]
) -> Iterator[Tensor]:
    """Replace the first of the starts by `codes`.

    A search without gradients succeeds on more images from the best codes of the searches before it
    than from a random start.

    Args:
        codes: `(M, B, *D)` codes within the threat.
        space: the space around the images.
        threat: the ball that is searched.
        starts: points `(M, B, *D)` of the unit ball; all of them are drawn.
    """
    next(starts)
    yield (codes - space.clean_codes) / threat.radius
    yield from starts


def _evaluate_clean(
    cohort: AttackedModels, space: Space, clean_images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the columns `(M, B)` of `schemas.ATTACKS` that do not depend on a search.

    In the space `image` the model is evaluated once, because a clean code is the clean image.

    Args:
        cohort: M models in eval mode.
        space: the space around the images.
        clean_images: `(M, B, C, H, W)` images of the batch.
        labels: `(M, B)` true classes.
    """
    codes = space.clean_codes.detach().requires_grad_()
    logits = cohort(space.decode(codes))
    require_classes("the labels of data", labels, logits.shape[-1])
    _, grad_logits = cross_entropy(logits.detach(), labels, labels)
    (gradient,) = torch.autograd.grad(logits, codes, grad_logits)
    decoded_prediction = prediction = predict_class(logits.detach())
    if space.is_latent:
        with torch.no_grad():
            prediction = predict_class(cohort(clean_images))
    return {
        "prediction": prediction,
        "code_correct": decoded_prediction == labels,
        "clean_gradient": perturbation_norm(gradient, "linf"),
    }


def _merge(
    best: dict[str, Tensor], member_result: dict[str, Tensor], is_attacked: Tensor
) -> dict[str, Tensor]:
    """Return the better of two results of each example: the success, else the higher margin.

    The margin, unlike the cross-entropy, orders codes equally whatever the scale of the logits.

    Args:
        best: columns, images and codes by name, each `(M, B, ...)`, of the searches before.
        member_result: those of a further search.
        is_attacked: `(M, B)` whether the further search worked on the example.
    """
    is_better = is_attacked & (
        member_result["success"] | (member_result["margin"] > best["margin"])
    )
    merged = {
        name: torch.where(expand_trailing_dims(is_better, values), values, best[name])
        for name, values in member_result.items()
    }
    return {**merged, "claimed": best["claimed"] | (member_result["claimed"] & is_attacked)}


def _search_batch(
    cohort: AttackedModels,
    clean_images: Tensor,
    labels: Tensor,
    space: Space,
    threat: Threat,
    search: SearchConfig,
    starts: Iterable[Tensor],
    skip: Tensor,
) -> dict[str, Tensor]:
    """Search in a batch, and check the successes.

    Args:
        cohort, threat, search: as for `attack_cohort`.
        clean_images: `(M, B, C, H, W)` images of the batch.
        labels: `(M, B)` true classes.
        space: the space around these images.
        starts: for each restart, points `(M, B, *D)` of the unit ball.
        skip: `(M, B)` mask of examples that are not attacked.

    Returns:
        Columns of the result, images and codes by name, each `(M, B, ...)`.
    """
    result = run_search_from_starts(
        cohort,
        space,
        labels,
        threat,
        search,
        starts,
        stop_at_success=True,
        skip=skip,
        backend=cohort.backend,
    )
    if not result.loss[~skip].isfinite().all():
        radius = f", radius {threat.radius:g}" if math.isfinite(threat.radius) else ""
        raise UserError(
            f"the loss of the attack is not finite (space {threat.space}, norm {threat.norm}"
            f"{radius}); if training diverged, set a lower classifier.learning_rate"
        )
    with torch.no_grad():
        is_clean = skip[:, :, None, None, None]
        images = torch.where(is_clean, clean_images, space.decode(result.codes))
    return {
        **_verify(space, threat, result, cohort.reference_forward(images), labels),
        "claimed": result.success,
        "images": images,
        "codes": result.codes,
    }


def _verify(
    space: Space, threat: Threat, result: SearchResult, logits: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Check every success and return the columns of the result and the margin, each `(M, B)`.

    A success that fails a check is recorded as no success.

    Args:
        space: the space around the images of the batch.
        threat: the ball that was searched.
        result: the result of the search.
        logits: `(M, B, K)` of the saved images, by the reference forward pass.
        labels: `(M, B)` true classes.
    """
    code_norms = perturbation_norms(result.codes - space.clean_codes)
    is_bounded = (result.codes >= space.lower - SLACK) & (result.codes <= space.upper + SLACK)
    is_in_ball = code_norms[threat.norm] <= threat.radius * (1 + SLACK) + 1e-6
    prediction = predict_class(logits)
    is_allowed = is_bounded.flatten(2).all(2) & is_in_ball
    success = result.success & is_allowed & (prediction != labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return {
        "adversarial_prediction": prediction,
        "success": success,
        "iterations": torch.where(success, result.iterations, -1),
        "restart": torch.where(success, result.restart, -1),
        "loss": loss.view_as(labels),
        "margin": margin(logits, labels, labels)[0],
        **{f"code_{norm}": norms for norm, norms in code_norms.items()},
    }


def _sample_starts(
    cohort: AttackedModels,
    space: Space,
    norm: str,
    restarts: int,
    generators: Sequence[torch.Generator],
) -> Iterable[Tensor]:
    """Sample the starts `(M, B, *D)` of each restart, the same as if batches came one by one.

    The searches of an ensemble share the `restarts`: each takes its own ones in turn.
    """
    device, (examples, *shape) = space.clean_codes.device, space.clean_codes.shape[1:]
    batch_sizes = [min(BATCH_SIZE, examples - start) for start in range(0, examples, BATCH_SIZE)]
    return cohort.backend.sample_starts(norm, batch_sizes, shape, restarts, generators, device)


def _make_example_store(
    cohort: AttackedModels, data: Split, threat: Threat, checkpoint: Checkpoint | None
) -> ExampleStore:
    """Return an empty store for images and codes: files beside the checkpoint, or memory."""
    first = data.select(slice(1)).expand(len(cohort.seeds))
    templates = {"images": first.images(), "codes": make_space(threat.space, first).clean_codes}
    shapes = {
        name: (len(template), len(data), *template.shape[2:])
        for name, template in templates.items()
    }
    path = checkpoint.path if checkpoint else None
    return ExampleStore(shapes, path, pinned=data.labels.is_cuda)


def _resume(
    checkpoint: Checkpoint | None,
    generators: Sequence[torch.Generator],
    examples: ExampleStore,
    batch_size: int,
) -> dict[str, Tensor]:
    """Restore generators and examples from a checkpoint and return its columns.

    Without a usable checkpoint nothing is restored and there are no columns.

    Args:
        checkpoint: the checkpoint, whose file may not exist.
        generators: generators that get their state in the checkpoint.
        examples: the store that gets the examples of the interrupted run.
        batch_size: number of examples that are written together.
    """
    saved = checkpoint.read() if checkpoint else None
    if saved is None:
        return {}
    tensors, metadata = saved
    columns = {name: t for name, t in tensors.items() if not name.startswith("generator.")}
    examples_done = columns["claimed"].shape[1]
    starts = range(0, examples_done, batch_size)
    if not examples.resume(starts, examples_done, metadata["digest"]):
        log.warning(
            "the job starts from the beginning: the examples beside its checkpoint have changed"
        )
        return {}
    set_generator_states(tensors, generators)
    log.info("resuming after %d images", examples_done)
    return columns


def _store_columns(
    columns: dict[str, Tensor], values: dict[str, Tensor], start: int, examples: int
) -> None:
    """Write `values` `(M, B)`, of the examples from `start` on, into `columns` `(M, N)`.

    Columns are allocated once, because small tensors of each batch would fragment the memory that
    large tensors have freed.
    """
    for name, batch_values in values.items():
        if name not in columns:
            shape = len(batch_values), examples
            columns[name] = torch.empty(shape, dtype=batch_values.dtype)
        columns[name][:, start : start + batch_values.shape[1]] = batch_values


def _assemble(
    cohort: AttackedModels,
    data: Split,
    members: Sequence[str],
    columns: dict[str, Tensor],
    examples: dict[str, Tensor],
) -> AttackResult:
    """Combine the columns `(M, N)` and the examples into the result of the attack.

    Log how many successes there are, and how many more the plain model did not confirm.
    """
    success = columns["success"]
    columns["refuted"] = columns.pop("claimed") & ~success
    log.info(
        "%d successes, and %d more that the plain model did not confirm",
        int(success.sum()),
        int(columns["refuted"].sum()),
    )
    _warn_of_models_without_attack(cohort.seeds, columns["prediction"], data.labels)
    rows: dict[str, Any] = {name: _to_column(values) for name, values in columns.items()}
    for name in ("iterations", "restart"):
        rows[name] = np.ma.masked_less(rows[name], 0)
    rows["member"] = [members[i] or None if i >= 0 else None for i in rows["member"]]
    return AttackResult({**_key_columns(cohort, data), **rows}, **examples)


def _warn_of_models_without_attack(seeds: list[int], classes: Tensor, labels: Tensor) -> None:
    """Log the models that classify no image correctly: `classes` `(M, N)`, `labels` `(N,)`."""
    is_correct = (classes == labels.cpu()).any(1)
    for seed, has_correct_image in zip(seeds, is_correct.tolist(), strict=True):
        if not has_correct_image:
            log.warning(
                "the model of seed %d classifies none of the %d images correctly, so none was "
                "attacked; are the labels those of the images?",
                seed,
                len(labels),
            )


def _warn_of_ties(classes: Tensor) -> None:
    """Log how many of the predictions `(M, B)` are no class, because logits are equal."""
    ties = int((classes == NO_CLASS).sum())
    if ties:
        log.warning(
            "%d of %d predictions count as wrong: their highest logits are equal",
            ties,
            classes.numel(),
        )


def _key_columns(cohort: AttackedModels, data: Split) -> dict[str, Any]:
    """Return the columns that identify model and example: all rows of a model, then the next."""
    members, examples = len(cohort.seeds), len(data)
    return {
        "seed": np.repeat(np.array(cohort.seeds), examples),
        "example": np.tile(np.arange(examples), members),
        "label": np.tile(data.labels.cpu().numpy(), members),
    }


def _to_column(values: Tensor) -> Any:
    """Return `values` `(M, B)` as a NumPy array of M * B rows."""
    return values.cpu().numpy().reshape(-1)
