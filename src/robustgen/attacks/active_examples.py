"""The examples that a search still works on, and what it found for them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustgen.acceleration.cuda import search_step as fused
from robustgen.attacks.spaces import Space, Threat, gather, spread
from robustgen.attacks.step_rules import StepRule


class Front:
    """The examples still searched: columns `index` `(M, B')` of the batch, or all of them.

    Members may have unequal numbers of them left; `alive` is False for what fills the rows up.
    What is found is kept here, and goes to the batch with the examples that leave.
    """

    def __init__(
        self,
        space: Space,
        labels: Tensor,
        codes: Tensor,
        rule: StepRule,
        alive: Tensor,
        best: "Kept",
    ) -> None:
        self.space, self.rule = space, rule
        self.labels, self.codes = labels.contiguous(), codes.contiguous()
        self.alive, self.best, self.found = alive.clone(), best, best
        self.index: Tensor | None = None  # all, as they come

    def narrow(self) -> bool:
        """Let examples that are not alive leave, as far as all members can spare them.

        Returns:
            Whether any are left.
        """
        width = int(self.alive.sum(1).max())
        if 0 < width < self.alive.shape[1]:
            self.leave()
            kept = (~self.alive).int().argsort(dim=1, stable=True)[:, :width]
            self.index = kept if self.index is None else gather(self.index, kept)
            self.alive = gather(self.alive, kept)
            self.labels, self.codes = gather(self.labels, kept), gather(self.codes, kept)
            self.found = Kept(*(gather(held, kept) for held in self.found))
            self.rule.state = {name: gather(held, kept) for name, held in self.rule.state.items()}
            self.space = self.space.take(kept)
        return width > 0

    def look(self, logits: Tensor, when: int, stop_at_success: bool) -> Tensor:
        """Keep the codes where they beat the best: a first success, else a higher loss.

        Args:
            logits: `(M, B', K)` of the codes.
            when: steps of all restarts so far.
            stop_at_success: whether successes are no longer alive.

        Returns:
            The gradient of each loss to its logits.
        """
        if fused.applies(logits):
            held = (self.codes, self.alive, *self.found)
            return fused.look(logits, self.labels, *held, when, stop_at_success)
        of, label = F.log_softmax(logits, -1), self.labels[..., None]
        loss = -of.gather(-1, label).squeeze(-1)
        classes = torch.arange(of.shape[-1], device=of.device)  # `F.one_hot` waits for a GPU
        uphill = of.exp() - (classes == label).to(of.dtype)
        wrong = logits.argmax(-1) != self.labels
        better = loss > self.found.loss
        if stop_at_success:
            better |= wrong
        better &= self.alive
        now = Kept(self.codes, loss, wrong, wrong * (when + 1) - 1)
        self.found = Kept(
            *(
                torch.where(spread(better, new), new, held)
                for new, held in zip(now, self.found, strict=True)
            )
        )
        if stop_at_success:
            self.alive &= ~wrong
        return uphill

    def move(self, gradient: Tensor, threat: Threat, step_size: float) -> None:
        """Take a step along the gradient, and project it into the threat."""
        space, rule = self.space, self.rule
        if fused.applies(gradient) and fused.moves(space, rule, threat):
            self.codes = fused.move(self.codes, gradient, space, rule, threat.radius, step_size)
            return
        moved = self.codes.add(rule(gradient), alpha=step_size)
        self.codes = space.project(moved, threat)

    def leave(self) -> None:
        """Write what was found where the batch keeps it."""
        if self.found is self.best:
            return
        for batch, found in zip(self.best, self.found, strict=True):
            if self.index is None:
                batch.copy_(found)
            else:
                member = torch.arange(len(found), device=found.device)[:, None]
                batch[member, self.index] = found


class Kept(NamedTuple):
    """What was found so far, as in `Found`; `when` counts the steps of all restarts, or is -1."""

    codes: Tensor
    loss: Tensor
    success: Tensor
    when: Tensor


def nothing(space: Space, labels: Tensor) -> Kept:
    """What is found before the first step."""
    return Kept(
        codes=space.origin.clone(memory_format=torch.contiguous_format),
        loss=space.origin.new_full(labels.shape, -torch.inf),
        success=torch.zeros_like(labels, dtype=torch.bool),
        when=torch.full_like(labels, -1),
    )
