"""The one training loop: a cohort on clean images and, given a threat, on attacked ones."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.adam import Optimizer, adam, set_rate
from robustgen.acceleration.cuda.cuda_graph import Replayed, sent
from robustgen.acceleration.random_starts import starts
from robustgen.attacks.search import Found, Search, search_from
from robustgen.attacks.spaces import SPACES, Space, Threat
from robustgen.data.split import Split, batches
from robustgen.errors import UserError
from robustgen.io.checkpoints import Checkpoint, gathered, restore
from robustgen.io.schemas import CURVES, empty
from robustgen.jobs.runtime import progress
from robustgen.models.cohort import Cohort

log = logging.getLogger("robustgen")


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained (Stutz et al., CVPR 2019, supplement), with Adam.

    Attributes:
        epochs: passes over the N training images.
        batch_size: images per update.
        rate: learning rate of the first epoch.
        rate_decay: factor on the rate after each epoch.
        weight_decay: L2 penalty.
    """

    epochs: int
    batch_size: int
    rate: float
    rate_decay: float
    weight_decay: float


@dataclass(frozen=True)
class Method:
    """What is added to normal training: a threat, and how it is searched (0 steps: a draw)."""

    threat: Threat
    search: Search


@dataclass(frozen=True)
class Generators:
    """Random generators of a training, one per member each."""

    batches: Sequence[torch.Generator]
    attacks: Sequence[torch.Generator]


def train(
    cohort: Cohort,
    data: Split,
    schedule: Schedule,
    method: Method | None,
    generators: Generators,
    checkpoint: Checkpoint | None = None,
) -> dict[str, list[Any]]:
    """Train an initialized cohort in place and leave it in eval mode.

    Without a method all of each batch is clean. With one, the first half is clean, the second is
    attacked (all iterations, model in eval mode), and the two mean losses are averaged
    (Stutz et al., equations 2 to 4). A batch's halves go through the model together, so that
    batch normalization sees both.

    Args:
        cohort: M initialized models.
        data: the N training images, shared by the members, each of which shuffles on its own.
        schedule: epochs, batches and rates.
        method: threat and search, or None for normal training.
        generators: those of the members, from which nothing has been drawn.
        checkpoint: where an interrupted run is gone on with, and the state is written between
            updates; the caller removes it.

    Returns:
        Learning curves, columns of `tables.CURVES`.

    Raises:
        UserError: the loss is no longer finite.
    """
    optimizer = adam(cohort.parameters(), schedule.rate, schedule.weight_decay)
    going = _Going(cohort, optimizer, generators, checkpoint)
    space = None if method is None else _around_one(data, method)

    def update(*given: Tensor) -> tuple[Tensor, ...]:
        going.tally.add(*_update(cohort, optimizer, data, method, *given))
        return ()

    step = update if space is not None and space.waits else Replayed(update)
    for epoch in progress(range(going.epoch, schedule.epochs + 1), "epoch"):
        rate = schedule.rate * schedule.rate_decay ** (epoch - 1)
        set_rate(optimizer, rate)
        for rows in going.batches(len(data), schedule.batch_size):
            drawn = _draws(space, rows.shape[1], method, generators.attacks)
            step(sent(rows, data.labels.device), *drawn)
            going.tally.count(rows.shape[1], method is not None)
            going.write()
        going.close(rate)
    cohort.eval()
    return going.curves


def _around_one(data: Split, method: Method) -> Space:
    """The space of a method's threat, around a single example."""
    row = torch.zeros(1, 1, dtype=torch.int64, device=data.labels.device)
    return SPACES[method.threat.space](data.take(row))


def _draws(
    space: Space | None,
    images: int,
    method: Method | None,
    generators: Sequence[torch.Generator],
) -> list[Tensor]:
    """What a batch is attacked from in this kind of space: for each restart, in units of radius."""
    if method is None or space is None:
        return []
    attacked, shape, device = images - images // 2, space.origin.shape[2:], space.origin.device
    norm, restarts = method.threat.norm, method.search.restarts
    return list(starts(norm, [attacked], shape, restarts, generators, device))


def _update(
    cohort: Cohort,
    optimizer: Optimizer,
    data: Split,
    method: Method | None,
    rows: Tensor,
    *drawn: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of all members on the rows `(M, b)`.

    Returns:
        Loss and error `(M, b)` of each image, and the success of the attack on the last ones.
    """
    batch = data.take(rows)
    clean, attacked, found = _halves(cohort, batch, method, drawn)
    cohort.train()
    logits = cohort(torch.cat([clean, attacked], dim=1))
    losses = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="none"
    ).view_as(batch.labels)
    split = clean.shape[1]
    loss = losses[:, :split].mean(1)
    if method is not None:
        loss = (loss + losses[:, split:].mean(1)) / 2
    optimizer.zero_grad()
    loss.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    wrong = logits.argmax(-1) != batch.labels
    return losses.detach(), wrong, wrong[:, :0] if found is None else found.success


def _halves(
    cohort: Cohort, batch: Split, method: Method | None, drawn: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Found | None]:
    """Clean images, attacked images (of no examples without a method) and what was found."""
    if method is None:
        images = batch.images()
        return images, images[:, :0], None
    half = batch.labels.shape[1] // 2
    rest = batch.take((slice(None), slice(half, None)))
    space = SPACES[method.threat.space](rest)
    cohort.eval()
    found = search_from(
        cohort, space, rest.labels, method.threat, method.search, drawn, stop_at_success=False
    )
    clean = batch.take((slice(None), slice(half)))
    with torch.no_grad():
        return clean.images(), space.decode(found.codes), found


class _Going:
    """Where training stands, at a start or where a checkpoint left it.

    Attributes:
        curves: of the epochs that are over.
        epoch: the one that is at work, from 1.
        tally: of its updates so far.
    """

    def __init__(
        self,
        cohort: Cohort,
        optimizer: Optimizer,
        generators: Generators,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.curves, self.epoch, self._done = empty(CURVES), 1, 0
        self._seeds, self._state, self._optimizer = cohort.seeds, cohort.state_dict(), optimizer
        self._generators, self._checkpoint = generators, checkpoint
        self._starts: list[torch.Generator] = []
        self.tally = _Tally(len(cohort.seeds), next(cohort.parameters()).device)
        known = checkpoint.read() if checkpoint else None
        if known is not None:
            tensors, about = known
            drawn = [*generators.batches, *generators.attacks]
            restore(tensors, self._state, [optimizer], drawn)
            self.tally.sums.copy_(tensors["tally"])
            self.tally.clean, self.tally.attacked = about["tallied"]
            self.curves, self.epoch, self._done = about["curves"], about["epoch"], about["done"]
            log.info("going on in epoch %d after %d updates", self.epoch, self._done)

    def batches(self, examples: int, batch_size: int) -> Iterator[Tensor]:
        """Rows `(M, b)` of each batch of the epoch that is still to be learned from."""
        # The order is drawn once more by who goes on: it is not kept, but what it is drawn from.
        self._starts = [rng.clone_state() for rng in self._generators.batches]
        every = batches(examples, batch_size, self._generators.batches)
        for rows in every[self._done :]:
            self._done += 1
            yield rows

    def write(self) -> None:
        """Write the checkpoint, if it is time: some updates of the epoch are done."""
        if self._checkpoint is None or not self._checkpoint.due():
            return
        drawn = [*self._starts, *self._generators.attacks]
        tensors = {**gathered(self._state, [self._optimizer], drawn), "tally": self.tally.sums}
        about = {"curves": self.curves, "epoch": self.epoch, "done": self._done}
        tallied = [self.tally.clean, self.tally.attacked]
        self._checkpoint.write(tensors, {**about, "tallied": tallied})

    def close(self, rate: float) -> None:
        """The epoch is over."""
        self.tally.close(self.curves, self._seeds, self.epoch, rate)
        self.tally.clear()
        self.epoch, self._done = self.epoch + 1, 0


class _Tally:
    """Sums over an epoch, kept on the device: loss and errors of both halves, and successes."""

    def __init__(self, members: int, device: torch.device) -> None:
        self.sums = torch.zeros(5, members, dtype=torch.float64, device=device)
        self.clean = self.attacked = 0

    def add(self, losses: Tensor, wrong: Tensor, success: Tensor) -> None:
        """Add to the sums: `losses` and `wrong` `(M, b)`, and `success` of the attacked ones."""
        split = losses.shape[1] - success.shape[1]
        parts = [losses[:, :split], wrong[:, :split], losses[:, split:], wrong[:, split:], success]
        for total, part in zip(self.sums, parts, strict=True):
            total += part.sum(1)

    def count(self, images: int, halved: bool) -> None:
        """Count the images of a batch, the second half of which may have been attacked."""
        attacked = images - images // 2 if halved else 0
        self.clean += images - attacked
        self.attacked += attacked

    def clear(self) -> None:
        """Begin anew, where the sums are."""
        self.sums.zero_()
        self.clean = self.attacked = 0

    def close(
        self, curves: dict[str, list[Any]], seeds: Sequence[int], epoch: int, rate: float
    ) -> None:
        """Append the epoch's means to `curves`, a row per member."""
        sums = self.sums.cpu()
        if not sums.isfinite().all():
            raise UserError(
                f"training diverged: the loss is not finite in epoch {epoch} at learning rate "
                f"{rate:.3g}; set a lower classifier.rate"
            )
        clean = (sums[:2] / self.clean).tolist()
        attacked = (sums[2:] / self.attacked).tolist() if self.attacked else None
        for i, seed in enumerate(seeds):
            row = [seed, epoch, rate, *(values[i] for values in clean)]
            row += [values[i] for values in attacked] if attacked else [None] * 3
            for column, value in zip(curves.values(), row, strict=True):
                column.append(value)
        errors = ", ".join(f"{value:.3f}" for value in clean[1])
        log.info("epoch %d: error on clean training images %s", epoch, errors)
