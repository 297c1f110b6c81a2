"""The training of a cohort of classifiers on clean images and, with a method, on attacked images.

Every method of training is the loop `train`; methods differ in their threat and in their search.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.attacks.search import SearchResult, run_search_from_starts
from robustgen.attacks.spaces import Space, make_space
from robustgen.backend import Optimizer, Step, set_learning_rate
from robustgen.data.split import Split, require_split, shuffle_into_batches
from robustgen.device import to_device_async
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint
from robustgen.io.schemas import CURVES, empty
from robustgen.models.cohort import Cohort
from robustgen.progress import log_progress
from robustgen.specs import AdversarialTraining, TrainConfig, require_instance
from robustgen.tensor_checks import require_classes, require_generators, require_same_device
from robustgen.training.resumable import load_state_tensors, state_tensors

log = logging.getLogger("robustgen")


@dataclass(frozen=True)
class Generators:
    """Random generators for the training of a cohort of M models.

    Attributes:
        batches: M CPU generators for the order of the images.
        attacks: M CPU generators for the starts of the attacks; normal training needs none.

    Examples:
        >>> import robustgen, torch
        >>> batches, attacks = ([torch.Generator().manual_seed(seed)] for seed in (1, 2))
        >>> len(robustgen.Generators(batches, attacks).batches)
        1
    """

    batches: Sequence[torch.Generator]
    attacks: Sequence[torch.Generator]


def train(
    cohort: Cohort,
    data: Split,
    config: TrainConfig,
    method: AdversarialTraining | None,
    generators: Generators,
    checkpoint: Checkpoint | None = None,
) -> dict[str, list[Any]]:
    """Train an initialized cohort in place and leave it in eval mode.

    Normal training uses clean images only. With a method, the first half of each batch is clean
    and the second half is attacked (all steps, with the model in eval mode); the loss is the mean
    of the two mean losses (Stutz et al., equations 2 to 4). Both halves go through the model
    together, so that batch normalization computes its statistics over both.

    Args:
        cohort: M initialized models.
        data: the N training images, which every model sees in an order of its own.
        config: epochs, batch size, weight decay and learning rates.
        method: threat and search, or None for normal training.
        generators: generators from which nothing has been drawn.
        checkpoint: read to resume an interrupted run, and written between updates. The caller
            deletes it.

    Returns:
        Learning curves, columns of `schemas.CURVES`.

    Raises:
        ValueError: an argument is not as described; the message names it.
        UserError: the loss is no longer finite.

    Examples:
        >>> import robustgen, torch
        >>> images = robustgen.open_study("results/smoke").split("fonts", "train").select(slice(60))
        >>> cohort = robustgen.Cohort("convnet", (1, 28, 28), classes=3, seeds=[0, 1])
        >>> cohort.initialize([torch.Generator().manual_seed(seed) for seed in cohort.seeds])
        >>> batch_generators, attack_generators = (
        ...     [torch.Generator().manual_seed(first + seed) for seed in cohort.seeds]
        ...     for first in (10, 20)
        ... )
        >>> generators = robustgen.Generators(batch_generators, attack_generators)
        >>> config = robustgen.TrainConfig(epochs=2, batch_size=20)
        >>> curves = robustgen.train(cohort, images, config, None, generators)
        >>> curves["seed"], curves["epoch"], cohort.training
        ([0, 1, 0, 1], [1, 1, 2, 2], False)
    """
    _check_arguments(cohort, data, config, method, generators)
    optimizer = cohort.backend.make_adam(
        cohort.parameters(), config.learning_rate, config.weight_decay
    )
    state = _TrainingState(cohort, optimizer, generators, checkpoint)
    space = None if method is None else _make_probe_space(data, method)
    step = _make_step(cohort, optimizer, data, method, space, state.metrics)
    for epoch in log_progress(range(state.epoch, config.epochs + 1), "epoch"):
        lr = config.learning_rate * config.learning_rate_decay ** (epoch - 1)
        set_learning_rate(optimizer, lr)
        for rows in state.batches(len(data), config.batch_size):
            starts = _sample_starts(cohort, space, rows.shape[1], method, generators.attacks)
            step(to_device_async(rows, data.labels.device), *starts)
            state.metrics.count(rows.shape[1], method is not None)
            state.write()
        state.end_epoch(lr)
    cohort.eval()
    return state.curves


def _check_arguments(
    cohort: Cohort,
    data: Split,
    config: TrainConfig,
    method: AdversarialTraining | None,
    generators: Generators,
) -> None:
    """Raise a `ValueError` for a wrong argument of `train`."""
    require_instance("cohort", cohort, Cohort)
    require_instance("config", config, TrainConfig)
    require_instance("generators", generators, Generators)
    require_split("data", data)
    if len(data) < 2:
        count = "one image" if len(data) else "no images"
        raise ValueError(f"data has {count}, but batch normalization needs two or more")
    require_same_device("the models", cohort.device, "the images", data.labels.device)
    shape = tuple(data.source_images.shape[1:])
    if shape != tuple(cohort.shape):
        raise ValueError(
            f"data has images of shape {shape}, but cohort was made for {tuple(cohort.shape)}"
        )
    require_classes("the labels of data", data.labels, cohort.classes)
    require_generators("generators.batches", generators.batches, len(cohort.seeds))
    if method is not None:
        require_instance("method", method, AdversarialTraining)
        require_generators("generators.attacks", generators.attacks, len(cohort.seeds))


def _make_step(
    cohort: Cohort,
    optimizer: Optimizer,
    data: Split,
    method: AdversarialTraining | None,
    space: Space | None,
    metrics: "_EpochMetrics",
) -> Step:
    """Return a function of rows and starts that updates the cohort and adds to `metrics`.

    The backend compiles the function, unless decoding a code synchronizes with the GPU.
    """

    def update(*arguments: Tensor) -> tuple[Tensor, ...]:
        metrics.add(*_update(cohort, optimizer, data, method, *arguments))
        return ()

    can_compile = space is None or not space.needs_host_sync
    return cohort.backend.compile_step(update) if can_compile else update


def _make_probe_space(data: Split, method: AdversarialTraining) -> Space:
    """Return the space of the method around the first image, which gives the shape of codes."""
    row = torch.zeros(1, 1, dtype=torch.int64, device=data.labels.device)
    return make_space(method.threat.space, data.select(row))


def _sample_starts(
    cohort: Cohort,
    space: Space | None,
    batch_size: int,
    method: AdversarialTraining | None,
    generators: Sequence[torch.Generator],
) -> list[Tensor]:
    """Sample the starts of the attacks on the second half of a batch.

    Returns:
        For each restart, points `(M, b, *D)` of the unit ball; empty without a method.
    """
    if method is None or space is None:
        return []
    attacked = batch_size - batch_size // 2
    codes = space.clean_codes
    return list(
        cohort.backend.sample_starts(
            method.threat.norm,
            [attacked],
            codes.shape[2:],
            method.search.restarts,
            generators,
            codes.device,
        )
    )


def _update(
    cohort: Cohort,
    optimizer: Optimizer,
    data: Split,
    method: AdversarialTraining | None,
    rows: Tensor,
    *starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Update all models on the training images `rows` `(M, b)`.

    Returns:
        Loss (nat) and error of each image, both `(M, b)`, and the success of the attack on each
        attacked image, which are the last images of the batch.
    """
    batch = data.select(rows)
    clean, attacked, result = _make_halves(cohort, batch, method, starts)
    cohort.train()
    logits = cohort(torch.cat([clean, attacked], dim=1))
    losses = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="none"
    ).view_as(batch.labels)
    half = clean.shape[1]
    loss = losses[:, :half].mean(1)
    if method is not None:
        loss = (loss + losses[:, half:].mean(1)) / 2
    optimizer.zero_grad()
    loss.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    is_wrong = logits.argmax(-1) != batch.labels
    return losses.detach(), is_wrong, is_wrong[:, :0] if result is None else result.success


def _make_halves(
    cohort: Cohort, batch: Split, method: AdversarialTraining | None, starts: Sequence[Tensor]
) -> tuple[Tensor, Tensor, SearchResult | None]:
    """Split a batch `(M, b)` in two and attack its second half.

    Returns:
        The clean images, the attacked images and the result of the search. Without a method all
        images are clean, no image is attacked and the result is None.
    """
    if method is None:
        images = batch.images()
        return images, images[:, :0], None
    half = batch.labels.shape[1] // 2
    second_half = batch.select((slice(None), slice(half, None)))
    space = make_space(method.threat.space, second_half)
    cohort.eval()
    result = run_search_from_starts(
        cohort,
        space,
        second_half.labels,
        method.threat,
        method.search,
        starts,
        stop_at_success=False,
        backend=cohort.backend,
    )
    first_half = batch.select((slice(None), slice(half)))
    with torch.no_grad():
        return first_half.images(), space.decode(result.codes), result


class _TrainingState:
    """Everything that training changes, initial or restored from a checkpoint.

    Attributes:
        curves: learning curves of the finished epochs.
        epoch: number of the current epoch, from 1.
        metrics: sums over the updates of the current epoch.
    """

    def __init__(
        self,
        cohort: Cohort,
        optimizer: Optimizer,
        generators: Generators,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.curves, self.epoch, self._updates_done = empty(CURVES), 1, 0
        self._seeds, self._state, self._optimizer = cohort.seeds, cohort.state_dict(), optimizer
        self._generators, self._checkpoint = generators, checkpoint
        self._epoch_starts: list[torch.Generator] = []
        self.metrics = _EpochMetrics(len(cohort.seeds), next(cohort.parameters()).device)
        saved = checkpoint.read() if checkpoint else None
        if saved is not None:
            self._restore(*saved)

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Set models, optimizer, generators, curves and metrics to those of a checkpoint."""
        all_generators = [*self._generators.batches, *self._generators.attacks]
        load_state_tensors(tensors, self._state, [self._optimizer], all_generators)
        self.metrics.sums.copy_(tensors["metrics"])
        self.metrics.clean, self.metrics.attacked = metadata["counts"]
        self.curves, self.epoch = metadata["curves"], metadata["epoch"]
        self._updates_done = metadata["updates_done"]
        log.info("resuming in epoch %d after %d updates", self.epoch, self._updates_done)

    def batches(self, examples: int, batch_size: int) -> Iterator[Tensor]:
        """Yield the rows `(M, b)` of each remaining batch of the current epoch."""
        # The batch order is not stored: a resumed run redraws it from the stored generator state.
        self._epoch_starts = [rng.clone_state() for rng in self._generators.batches]
        epoch_batches = shuffle_into_batches(examples, batch_size, self._generators.batches)
        for rows in epoch_batches[self._updates_done :]:
            self._updates_done += 1
            yield rows

    def write(self) -> None:
        """Write the checkpoint, if there is one and its interval has passed."""
        if self._checkpoint is None or not self._checkpoint.due():
            return
        generators = [*self._epoch_starts, *self._generators.attacks]
        tensors = state_tensors(self._state, [self._optimizer], generators)
        metadata = {
            "curves": self.curves,
            "epoch": self.epoch,
            "updates_done": self._updates_done,
            "counts": [self.metrics.clean, self.metrics.attacked],
        }
        self._checkpoint.write({**tensors, "metrics": self.metrics.sums}, metadata)

    def end_epoch(self, lr: float) -> None:
        """Append the metrics of the current epoch to the curves and begin the next epoch."""
        self.metrics.append_epoch(self.curves, self._seeds, self.epoch, lr)
        self.metrics.clear()
        self.epoch, self._updates_done = self.epoch + 1, 0


class _EpochMetrics:
    """Sums over the images of an epoch: loss, error and success of each model.

    Attributes:
        sums: `(5, M)` sums of clean loss, clean error, attacked loss, attacked error and success,
            on the device of the cohort.
        clean, attacked: numbers of clean and of attacked images of each model.
    """

    def __init__(self, members: int, device: torch.device) -> None:
        self.sums = torch.zeros(5, members, dtype=torch.float64, device=device)
        self.clean = self.attacked = 0

    def add(self, losses: Tensor, is_wrong: Tensor, success: Tensor) -> None:
        """Add `losses` and `is_wrong` `(M, b)` of a batch, and `success` of its attacked images."""
        half = losses.shape[1] - success.shape[1]
        parts = [losses[:, :half], is_wrong[:, :half], losses[:, half:], is_wrong[:, half:]]
        for total, part in zip(self.sums, [*parts, success], strict=True):
            total += part.sum(1)

    def count(self, images: int, has_attack: bool) -> None:
        """Count the images of a batch, whose second half is attacked if `has_attack`."""
        attacked = images - images // 2 if has_attack else 0
        self.clean += images - attacked
        self.attacked += attacked

    def clear(self) -> None:
        """Set all sums to zero, in place because a CUDA graph holds the address of `sums`."""
        self.sums.zero_()
        self.clean = self.attacked = 0

    def append_epoch(
        self, curves: dict[str, list[Any]], seeds: Sequence[int], epoch: int, lr: float
    ) -> None:
        """Append the means of the epoch to `curves`, one row per model.

        Raises:
            UserError: a loss is not finite.
        """
        sums = self.sums.cpu()
        if not sums.isfinite().all():
            raise UserError(
                f"training diverged: the loss is not finite in epoch {epoch} at learning rate "
                f"{lr:.3g}; set a lower classifier.learning_rate"
            )
        clean = (sums[:2] / self.clean).tolist()
        attacked = (sums[2:] / self.attacked).tolist() if self.attacked else None
        for member, seed in enumerate(seeds):
            row = [seed, epoch, lr, *(means[member] for means in clean)]
            row += [means[member] for means in attacked] if attacked else [None] * 3
            for column, value in zip(curves.values(), row, strict=True):
                column.append(value)
        errors = ", ".join(f"{error:.3f}" for error in clean[1])
        log.info("epoch %d: error on clean training images %s", epoch, errors)
