"""Cohorts: architecture, forward passes, independence of members, files."""

import filecmp
import math
from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, CPU_BACKEND, SCHEDULE, make_cohort, make_generators
from torch import nn

from robustgen.acceleration import batched_forward
from robustgen.acceleration.cpu import inference_layers
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import SPACES
from robustgen.errors import UserError
from robustgen.jobs.runtime import provenance
from robustgen.models import architectures
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat
from robustgen.training.classifiers import train

TOLERANCE = dict(atol=1e-5, rtol=1e-5)
"""Between a cohort and single models, whose float32 sums have another order."""


def test_the_convnet_has_the_papers_layers():
    model = architectures.build("convnet", (1, 28, 28), 10)
    weights = [tuple(p.shape) for p in model.parameters() if p.dim() > 1]
    assert weights == [(16, 1, 4, 4), (32, 16, 4, 4), (64, 32, 4, 4), (100, 576), (10, 100)]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(3, 56, 48), (1, 8, 8)], ids=["colour", "smallest"])
def test_other_image_shapes_are_classified(shape):
    cohort = make_cohort([0, 1], shape, classes=2)
    assert cohort(torch.rand(2, 5, *shape)).shape == (2, 5, 2)


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 8x8 pixels"):
        architectures.build("convnet", (1, 7, 28), 10)


def test_initialization_is_glorot_uniform():
    cohort = make_cohort([0, 1])
    weights = cohort.stacked_params.get_parameter("10__weight").detach()
    limit = math.sqrt(6 / sum(weights.shape[1:]))
    assert weights.abs().max() <= limit
    assert weights.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    member = cohort.member(1)
    for module in member.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert (module.weight == 1).all()
            assert (module.running_var == 1).all()
        if hasattr(module, "bias") and module.bias is not None:
            assert (module.bias == 0).all()


@pytest.mark.parametrize("training", [False, True])
def test_the_reference_forward_pass_equals_each_member_bit_for_bit(trained, test_images, training):
    """In eval mode and without gradients; the mode of the cohort is kept."""
    batch = test_images.select(slice(20)).expand(3).images().requires_grad_()
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    cohort.train(training)
    reference = cohort.reference_forward(batch)
    assert not reference.requires_grad
    for i, logits in enumerate(reference):
        assert torch.equal(logits, cohort.member(i)(batch[i]))
    assert cohort._model[0].training is training


def test_forward_equals_single_models_in_both_modes(trained, test_images):
    batch = test_images.select(slice(60)).expand(3).images()
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    members = [cohort.member(i).train() for i in range(3)]
    cohort_logits = cohort.train()(batch)
    for member, images, logits in zip(members, batch, cohort_logits, strict=True):
        torch.testing.assert_close(logits, member(images), **TOLERANCE)
    # The running statistics were updated in the same way.
    for i, member in enumerate(members):
        for name, buffer in cohort.member(i).named_buffers():
            torch.testing.assert_close(buffer, member.get_buffer(name), **TOLERANCE)
    cohort_logits = cohort.eval()(batch)
    for member, images, logits in zip(members, batch, cohort_logits, strict=True):
        torch.testing.assert_close(logits, member.eval()(images), **TOLERANCE)


METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("adam", 0.05, 3)),
    "on-manifold": AdversarialTraining(
        Threat("true_manifold", "linf", 0.3), SearchConfig("adam", 0.05, 3)
    ),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_training_does_not_depend_on_the_other_members(training_images, method):
    """In double precision: training amplifies rounding, and in single precision the difference
    could also be that of random numbers of another member."""
    data = training_images.select(slice(100))
    lower, upper = (limits.double() for limits in data.ranges)
    data = replace(
        data,
        source_images=data.source_images.double(),
        codes=data.codes.double(),
        ranges=(lower, upper),
    )
    cohort = make_cohort([0, 1, 2]).double()
    train(cohort, data, SCHEDULE, method, make_generators([0, 1, 2]))
    single = make_cohort([1]).double()
    train(single, data, SCHEDULE, method, make_generators([1]))
    for name, tensor in single.stacked_params.state_dict().items():
        torch.testing.assert_close(
            cohort.stacked_params.state_dict()[name][1], tensor[0], atol=1e-9, rtol=1e-9
        )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("stop_at_success", [True, False], ids=["evaluation", "training"])
def test_an_attack_does_not_depend_on_the_other_members(
    trained, test_images, space, stop_at_success
):
    seeds, threat = [0, 1, 2], Threat(space, "linf", 0.2)
    search = SearchConfig("adam", 0.05, 5, restarts=2)

    def attack(cohort: Cohort, seeds: list[int]):
        batch = test_images.select(slice(30)).expand(len(seeds))
        generators = make_generators(seeds).attacks
        return run_search(
            cohort,
            SPACES[space](batch),
            batch.labels,
            threat,
            search,
            generators,
            stop_at_success=stop_at_success,
        )

    result = attack(trained, seeds)
    single = Cohort("convnet", (1, 28, 28), CLASSES, [1], CPU_BACKEND)
    state = {name: tensor[1:2] for name, tensor in trained.stacked_params.state_dict().items()}
    single.stacked_params.load_state_dict(state)
    single_result = attack(single.eval(), [1])
    torch.testing.assert_close(result.codes[1], single_result.codes[0], **TOLERANCE)
    assert torch.equal(result.success[1], single_result.success[0])
    assert torch.equal(result.iterations[1], single_result.iterations[0])


def test_a_cohort_is_saved_with_its_provenance_and_loaded_again(tmp_path, trained, test_images):
    path = tmp_path / "cohort.safetensors"
    trained.save(path, {"rate": 0.01}, provenance("cpu"))
    loaded = Cohort.load(path, backend=CPU_BACKEND)
    assert loaded.seeds == [0, 1, 2]
    assert not loaded.training
    batch = test_images.select(slice(20)).expand(3).images()
    assert torch.equal(loaded(batch), trained(batch))
    second_path = tmp_path / "second.safetensors"
    trained.save(second_path, {"rate": 0.01}, provenance("cpu"))
    assert filecmp.cmp(path, second_path, shallow=False)
    header = path.read_bytes()[:2000]
    for word in (b"provenance", b"torch", b"commit", b"seeds", b"rate"):
        assert word in header


@pytest.mark.parametrize("damage", [b"", b"x" * 100], ids=["empty", "noise"])
def test_a_damaged_cohort_is_reported_in_one_sentence(tmp_path, damage):
    path = tmp_path / "cohort.safetensors"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"cohort\.safetensors is not a readable"):
        Cohort.load(path, backend=CPU_BACKEND)


class _Branching(nn.Module):
    """An architecture that is no sequence of layers, and so is neither folded nor batched."""

    def __init__(self) -> None:
        super().__init__()
        self.branch1, self.branch2 = nn.Linear(64, 4), nn.Linear(64, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images):
        flat = images.flatten(1)
        return self.norm(self.branch1(flat)) + self.branch2(flat)


PLAIN_NORM = nn.BatchNorm2d(6, affine=False)
ARCHITECTURES = {
    "with and without bias": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), PLAIN_NORM
    ),
    "norm before and after": lambda: nn.Sequential(
        nn.BatchNorm2d(1), nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(6)
    ),
    "strides and pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=(3, 1), padding=2), nn.LeakyReLU(), nn.MaxPool2d(2)
    ),
    "groups": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 2), nn.GELU(), nn.Conv2d(6, 9, 4, 2, 1, groups=3), nn.BatchNorm2d(9)
    ),
    "statistics of the batch": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)
    ),
    "a layer that is not supported": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 4, 2, 1, padding_mode="reflect"), nn.Softplus(), nn.Flatten()
    ),
    "in place": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 4, 2, 1), nn.LeakyReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU(True)
    ),
    "named padding": lambda: nn.Sequential(nn.Conv2d(1, 6, 3, padding="same"), nn.ReLU()),
    "ends in a ReLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU()),
    "starts with a ReLU": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 4)),
    "no norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
    "no sequence": _Branching,
}


@pytest.mark.parametrize(("models_per_chunk", "max_channels"), [(1, 0), (1, 5), (3, 1 << 30)])
@pytest.mark.parametrize("build", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_an_attacked_cohort_of_any_architecture_equals_its_members(
    monkeypatch, build, models_per_chunk, max_channels
):
    """With the settings for each type of processor, whichever this one is."""
    monkeypatch.setattr(batched_forward, "MODELS_PER_CHUNK", models_per_chunk)
    monkeypatch.setattr(inference_layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", max_channels)
    monkeypatch.setitem(architectures.ARCHITECTURES, "other", lambda *_: build())
    cohort = Cohort("other", (1, 8, 8), 4, [0, 1])
    cohort.initialize([torch.Generator().manual_seed(i) for i in range(2)])
    images = torch.randn(2, 30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            cohort.train()(images * 3)
    images.requires_grad_()
    images_copy = images.detach().clone()
    logits = cohort.eval()(images)
    assert torch.equal(images, images_copy)
    upstream = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1))
    upstream_copy = upstream.clone()
    (gradient,) = torch.autograd.grad(logits, images, upstream)
    assert torch.equal(upstream_copy, upstream)
    for i in range(2):
        member_logits = cohort.member(i)(images[i])
        torch.testing.assert_close(logits[i], member_logits, **TOLERANCE)
        (expected,) = torch.autograd.grad(member_logits, images, upstream[i])
        torch.testing.assert_close(gradient[i], expected[i], **TOLERANCE)


@pytest.mark.parametrize("chunk_images", [1, 7, 14, 1000])
@pytest.mark.parametrize("models_per_chunk", [2, 5])
def test_results_do_not_depend_on_the_sizes_of_chunks(
    monkeypatch, trained, test_images, chunk_images, models_per_chunk
):
    images = test_images.select(slice(10)).expand(3).images().requires_grad_()
    logits = trained(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    monkeypatch.setattr(batched_forward, "CPU_CHUNK_IMAGES", chunk_images)
    monkeypatch.setattr(batched_forward, "MODELS_PER_CHUNK", models_per_chunk)
    # Another cohort, because `trained` would cache the forward pass with these sizes.
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    chunked_logits = cohort.eval()(images)
    torch.testing.assert_close(chunked_logits, logits, **TOLERANCE)
    (chunked_gradient,) = torch.autograd.grad(chunked_logits.square().sum(), images)
    torch.testing.assert_close(chunked_gradient, gradient, **TOLERANCE)


def test_modified_weights_are_used_without_a_change_of_mode(test_images):
    cohort, batch = make_cohort([0, 1]).eval(), test_images.select(slice(5)).expand(2).images()
    logits = cohort(batch)
    with torch.no_grad():
        cohort.stacked_params.get_parameter("0__weight").mul_(2)
        cohort.stacked_params.get_buffer("1__running_mean").add_(1)
    modified_logits = cohort(batch)
    assert not torch.allclose(logits, modified_logits)
    for i in range(2):
        expected = cohort.member(i)(batch[i])
        torch.testing.assert_close(modified_logits[i], expected, **TOLERANCE)
    cohort.load_state_dict(make_cohort([0, 1]).state_dict())
    torch.testing.assert_close(cohort(batch), logits, **TOLERANCE)


@pytest.mark.parametrize(
    "build_layers",
    [
        lambda: [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.LeakyReLU(inplace=True)],
        lambda: [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Identity(), nn.ReLU(inplace=True)],
        lambda: [nn.Conv2d(1, 6, 3), nn.SiLU(inplace=True), nn.BatchNorm2d(6, affine=False)],
        lambda: [nn.ReLU(inplace=True), nn.BatchNorm2d(1), nn.Conv2d(1, 6, 4, 2, 1), nn.ReLU()],
    ],
)
def test_training_gradients_of_any_sequence_equal_those_of_single_models(monkeypatch, build_layers):
    """With layers that work in place, which must not change the images."""

    def build(shape, classes):
        features = nn.Sequential(*build_layers())(torch.zeros(2, *shape)).flatten(1).shape[1]
        return nn.Sequential(*build_layers(), nn.Flatten(), nn.Linear(features, classes))

    monkeypatch.setitem(architectures.ARCHITECTURES, "other", build)
    cohort = Cohort("other", (1, 8, 8), 3, [0, 1], CPU_BACKEND)
    cohort.initialize([make_generator(0, "chain", seed) for seed in range(2)])
    members = [cohort.member(i).train() for i in range(2)]
    images = torch.randn(2, 5, 1, 8, 8, generator=make_generator(0, "images"))
    images_copy = images.clone()
    cohort.train()(images).square().sum().backward()
    assert torch.equal(images, images_copy)
    for member, member_images in zip(members, images, strict=True):
        member(member_images.clone()).square().sum().backward()
    stacked = dict(cohort.stacked_params.named_parameters())
    for i, member in enumerate(members):
        for name, weight in member.named_parameters():
            gradient = stacked[name.replace(".", "__")].grad[i]
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-4)


def test_modified_weights_are_used_in_inference_mode():
    """Inference-mode tensors have no version counter, so no forward pass is cached."""
    images = torch.rand(2, 3, 1, 28, 28, generator=make_generator(0, "images"))
    expected = make_cohort([0, 1]).eval()(images)
    with torch.inference_mode():
        cohort = make_cohort([0, 1]).eval()
        assert cohort(images).equal(expected)
        next(cohort.parameters()).zero_()
        assert not cohort(images).equal(expected)
