"""AutoPGD for a single example, written from the algorithm in the paper."""

from torch import Tensor

from robustgen.specs import Threat


class AutoPgd:
    """Algorithm 1 of Croce and Hein (ICML 2020) for one example, from lists of all iterates."""

    def __init__(self, steps: int, codes: Tensor, threat: Threat, project) -> None:
        self.checkpoints, period = [0], max(int(0.22 * steps), 1)
        while self.checkpoints[-1] <= steps:
            self.checkpoints.append(self.checkpoints[-1] + period)
            period = max(period - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        self.codes, self.norm, self.project = codes, threat.norm, project
        self.points: list[Tensor] = []
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []
        self.step_size, self.has_halved = 2 * threat.radius, {0: True}

    def __call__(self, gradient: Tensor, loss: float) -> None:
        point, k = self.codes.detach().clone(), len(self.points)
        self.points.append(point)
        self.losses.append(loss)
        self.gradients.append(gradient)
        if k in self.checkpoints[1:] and self.must_halve(k):
            self.step_size /= 2
            best = self.losses.index(max(self.losses))
            point, gradient = self.points[best], self.gradients[best]
        direction = gradient.sign() if self.norm == "linf" else gradient / gradient.norm()
        next_point = self.project(point + self.step_size * direction)
        if k:
            momentum = 0.25 * (point - self.last_point)
            next_point = self.project(point + 0.75 * (next_point - point) + momentum)
        self.last_point, self.codes.data = point, next_point

    def must_halve(self, k: int) -> bool:
        """Whether condition 1 or 2 holds at checkpoint k."""
        last = self.checkpoints[self.checkpoints.index(k) - 1]
        rises = sum(self.losses[i] > self.losses[i - 1] for i in range(last + 1, k + 1))
        is_stuck = max(self.losses[: last + 1]) >= max(self.losses)
        self.has_halved[k] = rises <= 0.75 * (k - last) or (not self.has_halved[last] and is_stuck)
        return self.has_halved[k]
