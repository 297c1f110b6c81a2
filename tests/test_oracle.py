"""Our search against a public attack library on the same trained model."""

import foolbox
import numpy as np
import pytest
import torch
from conftest import make_generators

from robustgen.attack import Search
from robustgen.evaluation import attack
from robustgen.spaces import Threat

EXAMPLES, STEPS = 240, 20

CASES = {
    "linf": (Threat("image", "linf", 0.15), "signed", 0.015, foolbox.attacks.LinfPGD),
    "l2": (Threat("image", "l2", 1.6), "normalized", 0.16, foolbox.attacks.L2PGD),
}


@pytest.mark.parametrize(("threat", "rule", "step_size", "peer"), CASES.values(), ids=CASES.keys())
def test_success_rate_equals_that_of_foolbox(trained, test_images, threat, rule, step_size, peer):
    data = test_images.take(slice(EXAMPLES))
    how = Search(rule, step_size, STEPS)
    ours = attack(trained, data, threat, how, make_generators([0, 1, 2]).attacks).rows
    torch.manual_seed(0)  # the peer draws from the global generator
    for member, seed in enumerate([0, 1, 2]):
        mine = (ours["seed"] == seed) & (ours["prediction"] == ours["label"])
        model = foolbox.PyTorchModel(trained.member(member), bounds=(0, 1), device="cpu")
        method = peer(abs_stepsize=step_size, steps=STEPS, random_start=True)
        right = torch.from_numpy(mine.reshape(3, -1)[member])
        images, labels = data.images()[right], data.labels[right]
        _, _, fooled = method(model, images, labels, epsilons=threat.radius)
        rate, theirs = ours["success"][mine].mean(), fooled.float().mean().item()
        assert 0.1 < theirs < 0.97, "the case must be able to tell attacks apart"
        sampling = 3 * np.sqrt(2 * theirs * (1 - theirs) / len(labels))
        assert abs(rate - theirs) <= sampling
