"""Interrupted training and attacks resume and end with the same result as undisturbed runs."""

from dataclasses import replace

import pytest
import torch
from conftest import SCHEDULE, make_cohort, make_generators

from robustgen.data.decoders import ClassDecoders
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.evaluation import attacks as evaluation
from robustgen.evaluation.attacks import attack_cohort
from robustgen.io.checkpoints import Checkpoint, job_identity
from robustgen.sampling import make_generator
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
    """Return the identity of a job on these images."""
    return job_identity({}, "code", data.identity_tensors(), torch.device("cpu"), "plain")


def interrupt_after(monkeypatch, module, name: str, max_calls: int) -> None:
    """Let the function `name` of a module raise a `KeyboardInterrupt` after `max_calls` calls."""
    function, remaining_calls = getattr(module, name), iter(range(max_calls))

    def call_or_interrupt(*args):
        if next(remaining_calls, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    monkeypatch.setattr(module, name, call_or_interrupt)


def make_checkpoint(folder, interrupts: tuple[int, ...]) -> Checkpoint:
    """Return a checkpoint that is written at every opportunity."""
    identity = {"interrupts": str(interrupts)}
    return Checkpoint(folder / "job.checkpoint.safetensors", identity, interval_s=0)


def train_cohort(data, method, checkpoint=None):
    """Train a new cohort; return its learning curves and its weights."""
    cohort, generators = make_cohort(SEEDS), make_generators(SEEDS)
    schedule = replace(SCHEDULE, batch_size=20)
    curves = train(cohort, data.select(slice(48)), schedule, method, generators, checkpoint)
    return curves, cohort.state_dict()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_resumed_training_ends_with_the_same_weights(
    training_images, method, tmp_path, monkeypatch, caplog
):
    """Four epochs of three updates are interrupted within and between epochs and in the last."""
    curves, state = train_cohort(training_images, method)
    for interrupts in ((2, 3, 1), (3,), (11,)):
        checkpoint = make_checkpoint(tmp_path, interrupts)
        for max_calls in interrupts:
            with monkeypatch.context() as patch:
                interrupt_after(patch, training, "_update", max_calls)
                with pytest.raises(KeyboardInterrupt):
                    train_cohort(training_images, method, checkpoint)
        with monkeypatch.context() as patch:
            interrupt_after(patch, training, "_update", 12 - sum(interrupts))
            with caplog.at_level("INFO"):
                resumed_curves, resumed_state = train_cohort(training_images, method, checkpoint)
        finished_epochs, updates = divmod(sum(interrupts), 3)
        # The checkpoint of an epoch's last update is written before the epoch ends.
        epoch, updates = (finished_epochs, 3) if updates == 0 else (finished_epochs + 1, updates)
        assert f"resuming in epoch {epoch} after {updates} updates" in caplog.messages
        assert resumed_curves == curves
        for name in state:
            assert torch.equal(state[name], resumed_state[name]), (interrupts, name)


def attack_forty_images(cohort, data, threat, checkpoint=None):
    """Attack the first forty images with new generators."""
    generators = [make_generator(0, "attack", seed) for seed in cohort.seeds]
    return attack_cohort(cohort, data.select(slice(40)), threat, SEARCH, generators, checkpoint)


@pytest.mark.parametrize("space", ["image", "true_manifold", "learned_manifold"])
def test_a_resumed_attack_ends_with_the_same_examples(
    trained, test_images, space, tmp_path, monkeypatch, caplog
):
    """The attack has four batches and is interrupted between them."""
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 10)
    monkeypatch.setitem(evaluation.MAX_BATCHES, "cpu", 1)
    threat = Threat(space, "linf", 0.1)
    expected = attack_forty_images(trained, test_images, threat)
    for interrupts in ((1, 2), (3,)):
        checkpoint = make_checkpoint(tmp_path, interrupts)
        for max_calls in interrupts:
            with monkeypatch.context() as patch:
                interrupt_after(patch, evaluation, "_attack_batch", max_calls)
                with pytest.raises(KeyboardInterrupt):
                    attack_forty_images(trained, test_images, threat, checkpoint)
        with monkeypatch.context() as patch:
            interrupt_after(patch, evaluation, "_attack_batch", 4 - sum(interrupts))
            with caplog.at_level("INFO"):
                resumed = attack_forty_images(trained, test_images, threat, checkpoint)
        assert f"resuming after {10 * sum(interrupts)} images" in caplog.messages
        assert torch.equal(resumed.images, expected.images)
        assert torch.equal(resumed.codes, expected.codes)
        for name, column in expected.rows.items():
            assert list(resumed.rows[name]) == list(column), name
        checkpoint.remove()
        assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_refused_when_the_transformations_differ(test_images):
    """Neither the settings of a method nor images without codes depend on the ranges."""
    lower, upper = test_images.ranges
    narrower = replace(test_images, ranges=(lower, upper / 2))
    assert identify(test_images) != identify(narrower)


def test_a_checkpoint_is_refused_when_decoders_differ(test_images):
    """Equal codes have different images under different decoders."""
    space = "learned_manifold"
    manifold = test_images.learned[space]
    reversed_decoders = ClassDecoders(manifold.decoders.decoders[::-1])
    reversed_manifold = replace(manifold, decoders=reversed_decoders)
    original_images = replace(test_images, learned={space: manifold})
    reversed_images = replace(test_images, learned={space: reversed_manifold})
    assert identify(original_images) != identify(reversed_images)


@pytest.mark.parametrize("value", ["often", "-1", "nan"])
def test_the_interval_of_checkpoints_is_a_number_of_seconds(value, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", value)
    with pytest.raises(UserError, match="must be a number of seconds, 0 or more"):
        Checkpoint(tmp_path / "a", {})
    monkeypatch.setenv("ROBUSTGEN_CHECKPOINT_SECONDS", "0.5")
    assert Checkpoint(tmp_path / "a", {}).interval_s == 0.5
