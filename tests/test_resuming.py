"""Training and attacks that are interrupted and gone on with end as if nothing had happened."""

from dataclasses import replace

import pytest
import torch
from conftest import SCHEDULE, make_cohort, make_generators

from robustgen.data.learned_manifold import ClassDecoders
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.evaluation import attacks as evaluation
from robustgen.evaluation.attacks import attack_cohort
from robustgen.io.checkpoints import Checkpoint, job_identity
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat
from robustgen.training import classifiers as training
from robustgen.training.classifiers import train

SEEDS = [0, 1]
SEARCH = SearchConfig(steps=3, step_rule="adam", step_size=0.05, restarts=2)
METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(Threat("image", "linf", 0.1), SEARCH),
    "on the learned manifold": AdversarialTraining(Threat("learned_manifold", "l2", 0.3), SEARCH),
}


def identify(data: Split) -> dict:
    """The identity of a job on these images."""
    return job_identity({}, "code", data.identity_tensors(), torch.device("cpu"), "plain")


def interrupting(monkeypatch, module, name: str, allowed: int) -> None:
    """After so many calls of a function of a module the next one is an interrupt."""
    function, left = getattr(module, name), iter(range(allowed))

    def some(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    monkeypatch.setattr(module, name, some)


def run(data, method, going=None):
    cohort = make_cohort(SEEDS)
    curves = train(cohort, data.take(slice(120)), SCHEDULE, method, make_generators(SEEDS), going)
    return curves, cohort.state_dict()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_cohort(training_images, method, tmp_path, monkeypatch):
    """Of four epochs of three updates: stopped within and between epochs, and at the end."""
    curves, state = run(training_images, method)
    for stops in ((2, 3, 1), (3,), (11,)):
        going = Checkpoint(tmp_path / "going.safetensors", {"of": str(stops)}, interval_s=0)
        for allowed in stops:
            with monkeypatch.context() as patch:
                interrupting(patch, training, "_update", allowed)
                with pytest.raises(KeyboardInterrupt):
                    run(training_images, method, going)
        with monkeypatch.context() as patch:
            interrupting(patch, training, "_update", 12 - sum(stops))
            again, other = run(training_images, method, going)
        assert again == curves
        assert all(torch.equal(state[name], other[name]) for name in state), stops


def attacked(cohort, data, threat, going=None):
    drawn = [generator(0, "attack", seed) for seed in cohort.seeds]
    return attack_cohort(cohort, data.take(slice(40)), threat, SEARCH, drawn, going)


@pytest.mark.parametrize("space", ["image", "true_manifold", "learned_manifold"])
def test_an_attack(trained, test_images, space, tmp_path, monkeypatch):
    """Of four batches."""
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 10)
    threat = Threat(space, "linf", 0.1)
    whole = attacked(trained, test_images, threat)
    for stops in ((1, 2), (3,)):
        going = Checkpoint(tmp_path / "going.safetensors", {"of": str(stops)}, interval_s=0)
        for allowed in stops:
            with monkeypatch.context() as patch:
                interrupting(patch, evaluation, "_attack_batch", allowed)
                with pytest.raises(KeyboardInterrupt):
                    attacked(trained, test_images, threat, going)
        with monkeypatch.context() as patch:
            interrupting(patch, evaluation, "_attack_batch", 4 - sum(stops))
            again = attacked(trained, test_images, threat, going)
        assert torch.equal(again.images, whole.images)
        assert torch.equal(again.codes, whole.codes)
        for name, column in whole.rows.items():
            assert again.rows[name].tolist() == column.tolist(), name
        going.remove()
        assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_refused_when_the_transformations_differ(test_images):
    """They are no part of a method's settings, and images without codes are the same under all."""
    low, high = test_images.ranges
    others = replace(test_images, ranges=(low, high / 2))
    assert identify(test_images) != identify(others)


def test_a_checkpoint_is_refused_when_decoders_differ(test_images):
    """The codes alone do not say what images they stand for."""
    space = "learned_manifold"
    held = test_images.learned[space]
    others = ClassDecoders(held.decoders.decoders[::-1])
    changed = replace(test_images, learned={space: replace(held, decoders=others)})
    plain = replace(test_images, learned={space: held})
    assert identify(plain) != identify(changed)


@pytest.mark.parametrize("given", ["often", "-1", "nan"])
def test_the_interval_is_a_number_of_seconds(given, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", given)
    with pytest.raises(UserError, match="must be a number of seconds, 0 or more"):
        Checkpoint(tmp_path / "a", {})
    monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", "0.5")
    assert Checkpoint(tmp_path / "a", {}).interval_s == 0.5
