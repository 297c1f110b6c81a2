"""The search against a public attack library: the same starts, the same models, image by image."""

import foolbox
import pytest
import torch
from torch import nn

from robustgen.attacks.search import run_search_from_starts
from robustgen.attacks.spaces import ImageSpace
from robustgen.sampling import sample_unit_ball
from robustgen.specs import SearchConfig, Threat

EXAMPLES, STEPS = 80, 12
CASES = {
    "linf": (Threat("image", "linf", 0.15), "signed", 0.02, foolbox.attacks.LinfPGD),
    "l2": (Threat("image", "l2", 1.6), "normalized", 0.2, foolbox.attacks.L2PGD),
}


class Recorder(nn.Module):
    """A model that keeps all images which it is given, and its predictions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images: list[torch.Tensor] = []
        self.predictions: list[torch.Tensor] = []
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.model(images)
        self.images.append(images.detach().clone())
        self.predictions.append(logits.argmax(-1))
        return logits


@pytest.mark.parametrize(("threat", "rule", "step_size", "peer"), CASES.values(), ids=CASES.keys())
def test_first_successes_are_those_of_foolbox(
    trained, test_images, threat, rule, step_size, peer, monkeypatch
):
    """In double precision, so that no rounding turns the sign of a gradient."""
    cohort = type(trained)(trained.architecture, trained.shape, trained.classes, trained.seeds)
    cohort.load_state_dict(trained.state_dict())
    cohort.double().eval()
    batch = test_images.take(slice(EXAMPLES)).expand(3)
    images = batch.images().double()
    noise = sample_unit_ball(
        threat.norm, images.shape[1:], [torch.Generator().manual_seed(i) for i in range(3)]
    )
    noise = noise.double()
    ours = run_search_from_starts(
        cohort,
        ImageSpace(images, 0.0, 1.0),
        batch.labels,
        threat,
        SearchConfig(rule, step_size, STEPS),
        [noise],
        stop_at_success=True,
    )
    for member in range(3):
        recorder = Recorder(cohort.member(member).double())
        monkeypatch.setattr(
            peer, "get_random_start", lambda _, x0, epsilon, i=member: x0 + epsilon * noise[i]
        )
        method = peer(abs_stepsize=step_size, steps=STEPS, random_start=True)
        model = foolbox.PyTorchModel(recorder, bounds=(0, 1), device="cpu")
        last = method.run(model, images[member], batch.labels[member], epsilon=threat.radius)
        recorder(last)  # the library does not look at what its last step gives
        assert len(recorder.images) == STEPS + 1
        wrong = torch.stack(recorder.predictions) != batch.labels[member]
        first = torch.where(wrong.any(0), wrong.int().argmax(0), -1)
        assert torch.equal(ours.iterations[member], first)
        assert (first > 0).any()
        assert (first < 0).any(), "the case must be able to tell attacks apart"
        at_success = torch.stack(recorder.images)[first, torch.arange(EXAMPLES)]
        success = first >= 0
        torch.testing.assert_close(ours.codes[member][success], at_success[success])
