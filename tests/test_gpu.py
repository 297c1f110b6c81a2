"""On a GPU: the same as on the CPU, and again the same when work is replayed."""

import pytest
import torch
from conftest import SCHEDULE, make_cohort, make_generators, stacked

from robustgen.acceleration.cuda import search_step as fused
from robustgen.acceleration.cuda.cuda_graph import CudaGraphed
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort
from robustgen.evaluation.distances import measure_to_manifold
from robustgen.io.checkpoints import Checkpoint
from robustgen.io.tensors import digest
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat
from robustgen.training import classifiers as training
from robustgen.training.classifiers import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(
        Threat("image", "linf", 0.1), SearchConfig("adam", 0.01, 3, restarts=2)
    ),
    "on the manifold": AdversarialTraining(
        Threat("true_manifold", "l2", 0.1), SearchConfig("normalized", 0.01, 3)
    ),
    "transformation": AdversarialTraining(
        Threat("transformation", "linf", 0.1), SearchConfig("signed", 0.01, 0)
    ),
}


def there(split: Split, device: str) -> Split:
    """The split on a device."""
    codes = None if split.codes is None else split.codes.to(device)
    return Split(
        split.bank.to(device),
        split.source.to(device),
        split.labels.to(device),
        codes,
        (split.ranges[0].to(device), split.ranges[1].to(device)),
        split.classes,
    )


def learnt(
    data: Split, method: AdversarialTraining | None, device: str = "cuda"
) -> tuple[Cohort, dict]:
    """Three models after some updates of two sizes."""
    cohort = make_cohort([0, 1, 2]).to(device)
    curves = train(cohort, there(data, device), SCHEDULE, method, make_generators([0, 1, 2]))
    return cohort, curves


@pytest.mark.parametrize("mode", ["attacked", "trained"])
def test_the_pass_is_that_of_the_cpu(trained, test_images, mode):
    images = stacked(test_images, 3, 60).images().requires_grad_()
    (wanted,) = torch.autograd.grad(trained(images).square().sum(), images)
    twin = make_cohort([0, 1, 2])
    twin.load_state_dict(trained.state_dict())
    there = images.detach().cuda().requires_grad_()
    if mode == "trained":
        weights = list(twin.train().parameters())
        wanted = torch.autograd.grad(twin(images).square().sum(), weights)
        twin.cuda()
        found = torch.autograd.grad(twin(there).square().sum(), list(twin.parameters()))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)
    else:
        logits = twin.eval().cuda()(there)
        torch.testing.assert_close(logits.cpu(), trained(images), atol=1e-5, rtol=1e-5)
        (found,) = torch.autograd.grad(logits.square().sum(), there)
        # What rounding takes over 0 before a ReLU changes all of an image's gradient.
        alike = torch.isclose(found.cpu(), wanted, atol=1e-4, rtol=1e-4).flatten(2).all(2)
        assert alike.float().mean() > 0.98


@pytest.mark.parametrize("name", METHODS)
def test_replayed_updates_are_the_plain_ones(training_images, name, monkeypatch):
    data = training_images.take(slice(90))
    replayed, curves = learnt(data, METHODS[name])
    again, _ = learnt(data, METHODS[name])
    assert digest(_held(replayed)) == digest(_held(again))
    monkeypatch.setattr(training, "Replayed", lambda function: function)
    plain, plainly = learnt(data, METHODS[name])
    for one, other in zip(_held(replayed).values(), _held(plain).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert curves["loss_clean"] == pytest.approx(plainly["loss_clean"], rel=1e-4)


def test_a_search_by_kernels_is_the_plain_one(trained, test_images, monkeypatch):
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    cohort.cuda().eval()
    data, threat = there(test_images, "cuda"), Threat("image", "linf", 0.1)
    made = []
    for kernels in (True, False):
        monkeypatch.setattr(fused, "applies", lambda _, kernels=kernels: kernels)
        rngs = [generator(0, seed) for seed in range(3)]
        made.append(
            attack_cohort(cohort, data, threat, SearchConfig("adam", 0.01, 20, 2), rngs).rows
        )
    assert (made[0]["success"] != made[1]["success"]).mean() < 0.01
    assert (made[0]["iterations"] != made[1]["iterations"]).mean() < 0.05


def test_a_function_is_called_twice_and_then_replayed():
    """For each shape: once to warm up, once to be recorded; replays get their own inputs."""
    weights, calls = torch.arange(3.0, device="cuda"), []

    def multiply(x):
        calls.append(x.shape)
        return [(x * weights).sum(-1)]

    step = CudaGraphed(multiply)
    for rows in (2, 5):
        for value in range(1, 6):
            (product,) = step(torch.full((rows, 3), float(value), device="cuda"))
            assert product.tolist() == [3.0 * value] * rows
    assert calls == [(2, 3)] * 2 + [(5, 3)] * 2


def test_what_waits_for_the_gpu_is_called_each_time_with_one_warning(caplog):
    calls = []

    def wait(x):
        calls.append(1)
        return [x * int(x.sum().item())]  # a copy to the CPU cannot be recorded

    step = CudaGraphed(wait)
    for value in range(1, 5):
        (product,) = step(torch.tensor([value], device="cuda"))
        assert product.item() == value**2
    assert len(calls) >= 4
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "cannot be recorded" in caplog.text


def test_a_recording_does_not_fail(training_images, caplog):
    learnt(training_images.take(slice(90)), METHODS["adversarial"])
    assert "cannot be recorded" not in caplog.text


def test_normal_training_is_that_of_the_cpu(training_images):
    data = training_images.take(slice(90))
    _, curves = learnt(data, None)
    _, wanted = learnt(data, None, "cpu")
    assert curves["loss_clean"] == pytest.approx(wanted["loss_clean"], rel=2e-2, abs=2e-2)


def test_an_interrupted_training_goes_on(training_images, tmp_path, monkeypatch):
    data, method = training_images.take(slice(90)), METHODS["adversarial"]
    wanted, _ = learnt(data, method)
    checkpoint = Checkpoint(tmp_path / "checkpoint", {}, every=0)
    whole, count = training._update, []

    def interrupted(*args: object) -> object:
        count.append(1)
        if len(count) > 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(training, "_update", interrupted)
    args = (there(data, "cuda"), SCHEDULE, method, make_generators([0, 1, 2]), checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(make_cohort([0, 1, 2]).cuda(), *args)
    monkeypatch.setattr(training, "_update", whole)
    cohort = make_cohort([0, 1, 2]).cuda()
    train(cohort, *args[:3], make_generators([0, 1, 2]), checkpoint)
    for one, other in zip(_held(cohort).values(), _held(wanted).values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("space", ["image", "true_manifold", "transformation"])
def test_attacks_start_alike_and_succeed_alike(trained, test_images, space):
    threat = Threat(space, "linf", 0.1)
    made = {}
    for device in ("cpu", "cuda"):
        twin = make_cohort([0, 1, 2])
        twin.load_state_dict(trained.state_dict())
        for steps in (0, 20):
            rngs = [generator(0, seed) for seed in range(3)]
            how = SearchConfig("signed", 0.01, steps, restarts=2 if steps else 1)
            data = there(test_images, device)
            made[device, steps] = attack_cohort(twin.to(device).eval(), data, threat, how, rngs)
    for steps in (0, 20):
        one, other = (made[device, steps].rows["success"] for device in ("cpu", "cuda"))
        assert (one != other).mean() < 0.02
    missed = ~made["cpu", 0].rows["success"] & ~made["cuda", 0].rows["success"]
    codes = [made[device, 0].codes.cpu().flatten(0, 1)[missed] for device in ("cpu", "cuda")]
    torch.testing.assert_close(*codes, atol=1e-5, rtol=1e-5)


def test_distances_are_those_of_the_cpu(test_images):
    data = test_images.take(slice(40))
    moved = (data.images() + 0.1).clamp(0, 1)
    found = [
        measure_to_manifold(moved.to(d), there(data, d), "true_manifold", steps=20, step_size=0.05)
        for d in ("cpu", "cuda")
    ]
    assert found[1].distance.cpu().mean() == pytest.approx(
        float(found[0].distance.mean()), rel=1e-2
    )


def _held(cohort: Cohort) -> dict[str, torch.Tensor]:
    return {name: of.cpu() for name, of in cohort.stacked_params.state_dict().items()}
