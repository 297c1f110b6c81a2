"""Results on a GPU equal those of the CPU and of the plain backend, and repeat exactly."""

from dataclasses import replace

import pytest
import torch
from conftest import SCHEDULE, make_cohort, make_generators

from robustgen.acceleration import backends
from robustgen.acceleration.cuda.cuda_graph import CudaGraphed
from robustgen.acceleration.cuda.whole_search import ascend
from robustgen.backend import PLAIN, Backend
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort
from robustgen.evaluation.distances import measure_to_manifold
from robustgen.io.checkpoints import Checkpoint
from robustgen.io.tensors import compute_digest
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat
from robustgen.training import classifiers
from robustgen.training.classifiers import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU, SEEDS = "cuda", [0, 1, 2]
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


def choose_backend(device: str) -> Backend:
    """The backend that a job on this device uses."""
    return backends.for_cohorts(torch.device(device))


def move_split(split: Split, device: str) -> Split:
    """The split on a device, without learned manifolds."""
    lower, upper = (limits.to(device) for limits in split.ranges)
    return replace(
        split,
        source_images=split.source_images.to(device),
        source_index=split.source_index.to(device),
        labels=split.labels.to(device),
        codes=None if split.codes is None else split.codes.to(device),
        ranges=(lower, upper),
        learned={},
    )


def copy_trained(trained: Cohort, device: str, backend: Backend | None = None) -> Cohort:
    """Copy the trained cohort to a device, with the backend of the device or another one."""
    cohort = make_cohort(SEEDS, backend=backend or choose_backend(device))
    cohort.load_state_dict(trained.state_dict())
    return cohort.to(device).eval()


def train_three(
    data: Split,
    method: AdversarialTraining | None,
    device: str = GPU,
    backend: Backend | None = None,
) -> tuple[dict[str, torch.Tensor], dict]:
    """Train three models, with batches of two sizes; return weights and learning curves."""
    cohort = make_cohort(SEEDS, backend=backend or choose_backend(device)).to(device)
    curves = train(cohort, move_split(data, device), SCHEDULE, method, make_generators(SEEDS))
    return copy_weights(cohort), curves


def copy_weights(cohort: Cohort) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in cohort.stacked_params.state_dict().items()}


def test_logits_and_gradients_of_attacked_models_equal_those_of_the_cpu(trained, test_images):
    images = test_images.select(slice(60)).expand(3).images().requires_grad_()
    logits = trained(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    gpu_images = images.detach().to(GPU).requires_grad_()
    gpu_logits = copy_trained(trained, GPU)(gpu_images)
    torch.testing.assert_close(gpu_logits.cpu(), logits, atol=1e-5, rtol=1e-5)
    (gpu_gradient,) = torch.autograd.grad(gpu_logits.square().sum(), gpu_images)
    # Rounding at the kink of a ReLU changes the whole gradient of an image.
    is_equal = torch.isclose(gpu_gradient.cpu(), gradient, atol=1e-4, rtol=1e-4)
    assert is_equal.flatten(2).all(2).float().mean() > 0.98


def test_gradients_of_training_equal_those_of_the_cpu(trained, test_images):
    images = test_images.select(slice(60)).expand(3).images()
    gradients = {}
    for device in ("cpu", GPU):
        cohort = copy_trained(trained, device).train()
        loss = cohort(images.to(device)).square().sum()
        gradients[device] = torch.autograd.grad(loss, list(cohort.parameters()))
    for gpu_gradient, gradient in zip(gradients[GPU], gradients["cpu"], strict=True):
        torch.testing.assert_close(gpu_gradient.cpu(), gradient, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_replayed_training_steps_equal_eager_ones(training_images, name):
    data, accelerated = training_images.select(slice(90)), choose_backend(GPU)
    weights, curves = train_three(data, METHODS[name], backend=accelerated)
    repeated_weights, _ = train_three(data, METHODS[name])
    assert compute_digest(weights) == compute_digest(repeated_weights)
    eager = replace(accelerated, compile_step=PLAIN.compile_step)
    eager_weights, eager_curves = train_three(data, METHODS[name], backend=eager)
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, eager_weights[key], atol=1e-5, rtol=1e-5)
    assert curves["loss_clean"] == pytest.approx(eager_curves["loss_clean"], rel=1e-4)


def test_an_attack_with_kernels_equals_the_plain_one(trained, test_images, caplog):
    data, threat = move_split(test_images, GPU), Threat("image", "linf", 0.1)
    rows = []
    for backend in (choose_backend(GPU), PLAIN):
        cohort = copy_trained(trained, GPU, backend)
        generators = [make_generator(0, seed) for seed in SEEDS]
        search = SearchConfig("adam", 0.01, 20, 2)
        rows.append(attack_cohort(cohort, data, threat, search, generators).rows)
    assert (rows[0]["success"] != rows[1]["success"]).mean() < 0.01
    assert (rows[0]["iterations"] != rows[1]["iterations"]).mean() < 0.05
    assert "differs from its plain definition" not in caplog.text


def test_no_kernel_fails_its_verification(training_images, test_images, trained, caplog):
    for method in METHODS.values():
        train_three(training_images.select(slice(90)), method)
    data = move_split(test_images, GPU)
    for space in ("image", "true_manifold", "transformation"):
        for rule in ("adam", "signed", "normalized"):
            attack_cohort(
                copy_trained(trained, GPU),
                data,
                Threat(space, "linf", 0.1),
                SearchConfig(rule, 0.01, 5),
                [make_generator(0, seed) for seed in SEEDS],
            )
    assert "differs from its plain definition" not in caplog.text
    assert "cannot be captured" not in caplog.text


def test_a_wrong_kernel_is_not_used(trained, test_images, monkeypatch, caplog):
    """With a search that returns its starts unchanged."""
    monkeypatch.setattr(backends, "ascend", lambda *_: None)
    data, threat = move_split(test_images, GPU), Threat("image", "linf", 0.1)
    search = SearchConfig("adam", 0.01, 20)
    rows = [
        attack_cohort(
            copy_trained(trained, GPU, backend),
            data,
            threat,
            search,
            [make_generator(0, seed) for seed in SEEDS],
        ).rows
        for backend in (backends.make_cuda_backend(), replace(choose_backend(GPU), ascend=ascend))
    ]
    assert "the accelerated search until success in image" in caplog.text
    assert (rows[0]["success"] != rows[1]["success"]).mean() < 0.01


def test_a_step_is_called_twice_for_each_shape_and_then_replayed():
    """The first call warms up, the second is captured. Replays use their own inputs."""
    weights, calls = torch.arange(3.0, device=GPU), []

    def multiply(x):
        calls.append(x.shape)
        return [(x * weights).sum(-1)]

    step = CudaGraphed(multiply)
    for rows in (2, 5):
        for value in range(1, 6):
            (product,) = step(torch.full((rows, 3), float(value), device=GPU))
            assert product.tolist() == [3.0 * value] * rows
    assert calls == [(2, 3)] * 2 + [(5, 3)] * 2


def test_a_step_that_cannot_be_captured_is_called_each_time_with_one_warning(caplog):
    calls = []

    def synchronize(x):
        calls.append(1)
        return [x * int(x.sum().item())]  # a copy to the CPU cannot be captured

    step = CudaGraphed(synchronize)
    for value in range(1, 5):
        (product,) = step(torch.tensor([value], device=GPU))
        assert product.item() == value**2
    assert len(calls) >= 4
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "cannot be captured" in caplog.text


def test_losses_of_normal_training_equal_those_of_the_cpu(training_images):
    data = training_images.select(slice(90))
    _, curves = train_three(data, None)
    _, cpu_curves = train_three(data, None, "cpu")
    assert curves["loss_clean"] == pytest.approx(cpu_curves["loss_clean"], rel=2e-2, abs=2e-2)


def test_a_resumed_training_equals_an_undisturbed_one(training_images, tmp_path, monkeypatch):
    data, method = training_images.select(slice(90)), METHODS["adversarial"]
    undisturbed, _ = train_three(data, method)
    checkpoint = Checkpoint(tmp_path / "checkpoint", {}, interval_s=0)
    update, calls = classifiers._update, []

    def interrupted_update(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return update(*arguments)

    def run() -> Cohort:
        cohort = make_cohort(SEEDS, backend=choose_backend(GPU)).to(GPU)
        generators = make_generators(SEEDS)
        train(cohort, move_split(data, GPU), SCHEDULE, method, generators, checkpoint)
        return cohort

    monkeypatch.setattr(classifiers, "_update", interrupted_update)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(classifiers, "_update", update)
    for key, tensor in copy_weights(run()).items():
        torch.testing.assert_close(tensor, undisturbed[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("space", ["image", "true_manifold", "transformation"])
def test_starts_and_successes_of_attacks_equal_those_of_the_cpu(trained, test_images, space):
    threat, results = Threat(space, "linf", 0.1), {}
    for device in ("cpu", GPU):
        cohort, data = copy_trained(trained, device), move_split(test_images, device)
        for steps in (0, 20):
            generators = [make_generator(0, seed) for seed in SEEDS]
            search = SearchConfig("signed", 0.01, steps, restarts=2 if steps else 1)
            results[device, steps] = attack_cohort(cohort, data, threat, search, generators)
    for steps in (0, 20):
        success, gpu_success = (results[d, steps].rows["success"] for d in ("cpu", GPU))
        assert (success != gpu_success).mean() < 0.02
    starts = [results[device, 0] for device in ("cpu", GPU)]
    has_failed = ~starts[0].rows["success"] & ~starts[1].rows["success"]
    codes = [result.codes.cpu().flatten(0, 1)[has_failed] for result in starts]
    torch.testing.assert_close(*codes, atol=1e-5, rtol=1e-5)


def test_distances_equal_those_of_the_cpu(test_images):
    data = test_images.select(slice(40))
    examples = (data.images() + 0.1).clamp(0, 1)
    means = []
    for device in ("cpu", GPU):
        distance = measure_to_manifold(
            examples.to(device),
            move_split(data, device),
            "true_manifold",
            steps=20,
            step_size=0.05,
            make_adam=backends.for_vaegans(torch.device(device)).make_adam,
        )
        means.append(distance.distance.mean().item())
    assert means[1] == pytest.approx(means[0], rel=1e-2)
