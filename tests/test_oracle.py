"""The search, compared with foolbox image by image, from the same starts on the same models."""

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
    """A model that records its input images and its predictions, call by call."""

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


@pytest.mark.parametrize(
    ("threat", "rule", "step_size", "foolbox_attack"), CASES.values(), ids=CASES.keys()
)
def test_first_successes_equal_those_of_foolbox(
    trained, test_images, threat, rule, step_size, foolbox_attack, monkeypatch
):
    """Both compute in double precision, because rounding could change the sign of a gradient."""
    cohort = type(trained)(trained.architecture, trained.shape, trained.classes, trained.seeds)
    cohort.load_state_dict(trained.state_dict())
    cohort.double().eval()
    batch = test_images.select(slice(EXAMPLES)).expand(3)
    images = batch.images().double()
    noise = sample_unit_ball(
        threat.norm, images.shape[1:], [torch.Generator().manual_seed(i) for i in range(3)]
    )
    noise = noise.double()
    result = run_search_from_starts(
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
            foolbox_attack,
            "get_random_start",
            lambda _, x0, epsilon, i=member: x0 + epsilon * noise[i],
        )
        attack = foolbox_attack(abs_stepsize=step_size, steps=STEPS, random_start=True)
        model = foolbox.PyTorchModel(recorder, bounds=(0, 1), device="cpu")
        last_images = attack.run(model, images[member], batch.labels[member], epsilon=threat.radius)
        recorder(last_images)  # foolbox does not evaluate the model after its last step
        assert len(recorder.images) == STEPS + 1
        is_wrong = torch.stack(recorder.predictions) != batch.labels[member]
        first_success = torch.where(is_wrong.any(0), is_wrong.int().argmax(0), -1)
        assert torch.equal(result.iterations[member], first_success)
        assert (first_success > 0).any(), "some images must need a step"
        assert (first_success < 0).any(), "some images must have no success"
        expected = torch.stack(recorder.images)[first_success, torch.arange(EXAMPLES)]
        success = first_success >= 0
        torch.testing.assert_close(result.codes[member][success], expected[success])
