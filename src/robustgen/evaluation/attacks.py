"""What a trained cohort does: predictions on the test split, and attacks on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.random_starts import starts
from robustgen.attacks.search import Found, Search, search_from
from robustgen.attacks.spaces import SPACES, Space, Threat, sizes
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint, gathered, restore
from robustgen.io.example_store import Growing
from robustgen.jobs.runtime import log, progress
from robustgen.models.cohort import Cohort
from robustgen.models.predictions import NO_CLASS, predicted_class

BATCH = 100
"""Examples for which random starts are drawn at once; fixed, since it decides which they are."""

BATCHES, STARTS = 20, 50_000_000
"""How many of these are attacked at once on a GPU: so many, or so few that the random starts of all
models and restarts have as many numbers as this. On a CPU it is one."""

SLACK = 1e-5
"""Rounding allowed beyond radius (as a share of it) and bounds."""


@dataclass(frozen=True)
class Attacked:
    """Result of an attack on a cohort: a table and the examples it speaks of.

    Attributes:
        rows: columns of `tables.ATTACKS`, a row per model and example.
        images: `(M, B, C, H, W)` adversarial examples, on the CPU; the search's best where it
            failed, the test image itself where the model was wrong from the start.
        codes: `(M, B, *D)` their codes, on the CPU.
    """

    rows: dict[str, Any]
    images: Tensor
    codes: Tensor


def predictions(cohort: Cohort, data: Split) -> dict[str, Any]:
    """Predictions on all of `data`, columns of `tables.PREDICTIONS`.

    Raises:
        UserError: logits are not finite, as after a last update that went astray.
    """
    predicted = []
    with torch.no_grad():
        for start in range(0, len(data), BATCH):
            batch = _for_all(cohort, data.take(slice(start, start + BATCH)))
            logits = cohort(batch.images())
            if not logits.isfinite().all():
                raise UserError(
                    "training diverged: logits are not finite; set a lower classifier.rate"
                )
            predicted.append(predicted_class(logits))
    classes = torch.cat(predicted, 1)
    _warn_of_ties(classes)
    return {**_keys(cohort, data), "prediction": _column(classes)}


def _warn_of_ties(classes: Tensor) -> None:
    """Log how many of the `classes` `(M, B)` were not predicted because of equal logits."""
    ties = int((classes == NO_CLASS).sum())
    if ties:
        log.warning(
            "%d of %d predictions count as wrong: their highest logits are equal",
            ties,
            classes.numel(),
        )


def attack(
    cohort: Cohort,
    data: Split,
    threat: Threat,
    settings: Search,
    generators: Sequence[torch.Generator],
    checkpoint: Checkpoint | None = None,
) -> Attacked:
    """Attack every model of `cohort` on every image of `data` that it gets right.

    Each success counts only after the example, as saved, is wrong for the plain single model and
    lies in its ball and bounds.

    Args:
        cohort: in eval mode.
        data: the images.
        threat: the ball to search.
        settings: how to search it.
        generators: of the members, from which nothing has been drawn.
        checkpoint: where an interrupted run is gone on with. Examples are then written beside it
            as they are found, and memory holds no more than a batch of them; the caller removes
            it once they are saved elsewhere.

    Raises:
        UserError: a loss is not finite, or examples cannot be written.
    """
    examples = _to_be_found(cohort, data, threat, checkpoint)
    size = at_once(cohort, data, settings.restarts)
    before = _found_before(checkpoint, generators, examples, size)
    done = before["claimed"].shape[1] if before else 0
    columns: dict[str, Tensor] = {}
    _keep(columns, before, 0, len(data))
    with examples:
        for start in progress(range(done, len(data), size), "batch"):
            batch = _for_all(cohort, data.take(slice(start, start + size)))
            found = _attack_batch(cohort, batch, threat, settings, generators)
            examples.put(start, {name: found.pop(name) for name in examples.shapes})
            _keep(columns, found, start, len(data))
            if checkpoint and checkpoint.due():
                kept = {name: values[:, : start + size] for name, values in columns.items()}
                about = {"digest": examples.digest()}
                checkpoint.write({**kept, **gathered({}, [], generators)}, about)
                examples.last()
    return _assemble(cohort, data, columns, examples.tensors())


def _attack_batch(
    cohort: Cohort,
    batch: Split,
    threat: Threat,
    settings: Search,
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """What is found for `batch` `(M, B)`: each `(M, B, ...)`."""
    space = SPACES[threat.space](batch)
    clean = batch.images()
    with torch.no_grad():
        prediction = predicted_class(cohort(clean))
        start = prediction
        if space.encodes:
            start = predicted_class(cohort(space.decode(space.origin)))
    skip = prediction != batch.labels
    drawn = _draws(space, threat, settings, generators)
    args = (cohort, space, batch.labels, threat, settings, drawn)
    found = search_from(*args, stop_at_success=True, skip=skip)
    if not found.loss[~skip].isfinite().all():
        raise UserError(f"a loss is not finite under the threat {threat}")
    with torch.no_grad():
        images = torch.where(_wide(skip), clean, space.decode(found.codes))
    return {
        "prediction": prediction,
        "start_correct": start == batch.labels,
        **_check(space, threat, found, cohort.plainly(images), batch.labels),
        **{f"image_{norm}": size for norm, size in sizes(images - clean).items()},
        "claimed": found.success,
        "images": images,
        "codes": found.codes,
    }


def at_once(cohort: Cohort, data: Split, restarts: int) -> int:
    """Examples that are attacked at once: whole batches, which bound the memory."""
    if data.labels.device.type == "cpu":
        return BATCH
    numbers = BATCH * data.take(slice(1)).images().numel() * len(cohort.seeds) * restarts
    return BATCH * max(1, min(BATCHES, STARTS // numbers))


def _draws(
    space: Space, threat: Threat, settings: Search, generators: Sequence[torch.Generator]
) -> Iterable[Tensor]:
    """The starts of each restart, drawn as if one batch were attacked after the other."""
    device, (many, *shape) = space.origin.device, space.origin.shape[1:]
    batches = [min(BATCH, many - start) for start in range(0, many, BATCH)]
    return starts(threat.norm, batches, shape, settings.restarts, generators, device)


def _to_be_found(
    cohort: Cohort, data: Split, threat: Threat, checkpoint: Checkpoint | None
) -> Growing:
    """Room for the examples, where there are none yet."""
    first = _for_all(cohort, data.take(slice(1)))
    like = {"images": first.images(), "codes": SPACES[threat.space](first).origin}
    shapes = {name: (len(of), len(data), *of.shape[2:]) for name, of in like.items()}
    return Growing(shapes, checkpoint.path if checkpoint else None, pinned=data.labels.is_cuda)


def _found_before(
    checkpoint: Checkpoint | None,
    generators: Sequence[torch.Generator],
    examples: Growing,
    size: int,
) -> dict[str, Tensor]:
    """What a checkpoint holds, and generators and examples as they were; or nothing.

    Examples were put so many at a time.
    """
    known = checkpoint.read() if checkpoint else None
    if known is None:
        return {}
    held = {k: v for k, v in known[0].items() if not k.startswith("generator.")}
    done = held["claimed"].shape[1]
    if not examples.go_on(range(0, done, size), done, known[1]["digest"]):
        log.warning("checkpoint ignored: the examples beside it are not as they were written")
        return {}
    restore(known[0], {}, [], generators)
    log.info("going on after %d images", done)
    return held


def _keep(columns: dict[str, Tensor], found: dict[str, Tensor], start: int, examples: int) -> None:
    """Hold what was `found`, `(M, B)` each, of the examples from `start`, in `columns` `(M, N)`.

    These are made once: a few small tensors of each batch that stay would keep the memory of large
    ones that went from being used again.
    """
    for name, values in found.items():
        if name not in columns:
            columns[name] = torch.empty(len(values), examples, dtype=values.dtype)
        columns[name][:, start : start + values.shape[1]] = values


def _check(
    space: Space, threat: Threat, found: Found, logits: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Refute successes that are right for the plain models or out of ball or bounds."""
    moved = sizes(found.codes - space.origin)
    within = (found.codes >= space.low - SLACK) & (found.codes <= space.high + SLACK)
    inside = within.flatten(2).all(2) & (moved[threat.norm] <= threat.radius * (1 + SLACK) + 1e-6)
    prediction = predicted_class(logits)
    success = found.success & inside & (prediction != labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return {
        "answer": prediction,
        "success": success,
        "iterations": torch.where(success, found.iterations, -1),
        "restart": torch.where(success, found.restart, -1),
        "loss": loss.view_as(labels),
        **{f"code_{norm}": size for norm, size in moved.items()},
    }


def _assemble(
    cohort: Cohort, data: Split, held: dict[str, Tensor], examples: dict[str, Tensor]
) -> Attacked:
    claimed = held.pop("claimed")
    refuted = int((claimed & ~held["success"]).sum())
    log.info("%d successes, %d refuted by the re-check", int(held["success"].sum()), refuted)
    rows: dict[str, Any] = {name: _column(values) for name, values in held.items()}
    for name in ("iterations", "restart"):
        rows[name] = np.ma.masked_less(rows[name], 0)
    return Attacked({**_keys(cohort, data), **rows}, **examples)


def _for_all(cohort: Cohort, batch: Split) -> Split:
    """The same examples for every member: leading shape `(M, B)`."""
    rows = torch.arange(len(batch), device=batch.labels.device)
    return batch.take(rows.expand(len(cohort.seeds), -1))


def _keys(cohort: Cohort, data: Split) -> dict[str, Any]:
    """The columns that name model and example, member by member."""
    members, examples = len(cohort.seeds), len(data)
    return {
        "seed": np.repeat(np.array(cohort.seeds), examples),
        "example": np.tile(np.arange(examples), members),
        "label": np.tile(data.labels.cpu().numpy(), members),
    }


def _wide(flags: Tensor) -> Tensor:
    return flags[:, :, None, None, None]


def _column(values: Tensor) -> Any:
    return values.cpu().numpy().reshape(-1)
