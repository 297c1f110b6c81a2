import filecmp
import math
from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, CPU_BACKEND, SCHEDULE, make_cohort, make_generators
from torch import nn

from robustgen.acceleration import batched_forward as stacking
from robustgen.acceleration.cpu import inference_layers as layers
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import SPACES
from robustgen.errors import UserError
from robustgen.io.provenance import provenance
from robustgen.models import architectures as networks
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat
from robustgen.training.classifiers import train

TOLERANCE = dict(atol=1e-5, rtol=1e-5)
"""Between a stack and single models: float32 sums taken in another order."""


def test_the_paper_network_has_its_layers():
    model = networks.build("convnet", (1, 28, 28), 10)
    weights = [tuple(p.shape) for p in model.parameters() if p.dim() > 1]
    assert weights == [(16, 1, 4, 4), (32, 16, 4, 4), (64, 32, 4, 4), (100, 576), (10, 100)]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(3, 56, 48), (1, 8, 8)], ids=["colour", "smallest"])
def test_other_images_pass(shape):
    cohort = make_cohort([0, 1], shape, classes=2)
    assert cohort(torch.rand(2, 5, *shape)).shape == (2, 5, 2)


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="8x8 at least"):
        networks.build("convnet", (1, 7, 28), 10)


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
def test_the_plain_pass_is_that_of_each_member_in_eval_mode(trained, test_images, training):
    """To the bit, without gradients, and the mode stays."""
    batch = test_images.take(slice(20)).expand(3).images().requires_grad_()
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    cohort.train(training)
    plain = cohort.reference_forward(batch)
    assert not plain.requires_grad
    for i, logits in enumerate(plain):
        assert torch.equal(logits, cohort.member(i)(batch[i]))
    assert cohort._model[0].training is training


def test_forward_equals_single_models_in_both_modes(trained, test_images):
    batch = test_images.take(slice(60)).expand(3).images()
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    singles = [cohort.member(i).train() for i in range(3)]
    together = cohort.train()(batch)
    for single, images, logits in zip(singles, batch, together, strict=True):
        torch.testing.assert_close(logits, single(images), **TOLERANCE)
    # The running statistics of the stack moved as those of the single models did.
    for i, single in enumerate(singles):
        for name, buffer in cohort.member(i).named_buffers():
            torch.testing.assert_close(buffer, single.get_buffer(name), **TOLERANCE)
    together = cohort.eval()(batch)
    for single, images, logits in zip(singles, batch, together, strict=True):
        torch.testing.assert_close(logits, single.eval()(images), **TOLERANCE)


METHODS = {
    "normal": None,
    "adversarial": AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("adam", 0.05, 3)),
    "on-manifold": AdversarialTraining(
        Threat("true_manifold", "linf", 0.3), SearchConfig("adam", 0.05, 3)
    ),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_training_does_not_depend_on_who_shares_the_cohort(training_images, method):
    """In double precision: training amplifies rounding, and single precision rounds too coarsely
    to tell it from a draw that was taken from another member."""
    data = training_images.take(slice(100))
    low, high = (end.double() for end in data.ranges)
    data = replace(data, bank=data.bank.double(), codes=data.codes.double(), ranges=(low, high))
    together = make_cohort([0, 1, 2]).double()
    train(together, data, SCHEDULE, method, make_generators([0, 1, 2]))
    alone = make_cohort([1]).double()
    train(alone, data, SCHEDULE, method, make_generators([1]))
    for name, tensor in alone.stacked_params.state_dict().items():
        torch.testing.assert_close(
            together.stacked_params.state_dict()[name][1], tensor[0], atol=1e-9, rtol=1e-9
        )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("stop", [True, False], ids=["evaluation", "training"])
def test_attack_does_not_depend_on_who_shares_the_cohort(trained, test_images, space, stop):
    seeds, threat = [0, 1, 2], Threat(space, "linf", 0.2)
    settings = SearchConfig("adam", 0.05, 5, restarts=2)

    def attacked(cohort: Cohort, seeds: list[int]):
        batch = test_images.take(slice(30)).expand(len(seeds))
        generators = make_generators(seeds).attacks
        return run_search(
            cohort,
            SPACES[space](batch),
            batch.labels,
            threat,
            settings,
            generators,
            stop_at_success=stop,
        )

    together = attacked(trained, seeds)
    single = Cohort("convnet", (1, 28, 28), CLASSES, [1], CPU_BACKEND)
    state = {name: tensor[1:2] for name, tensor in trained.stacked_params.state_dict().items()}
    single.stacked_params.load_state_dict(state)
    alone = attacked(single.eval(), [1])
    torch.testing.assert_close(together.codes[1], alone.codes[0], **TOLERANCE)
    assert torch.equal(together.success[1], alone.success[0])
    assert torch.equal(together.iterations[1], alone.iterations[0])


def test_saved_and_loaded(tmp_path, trained, test_images):
    path = tmp_path / "cohort.safetensors"
    trained.save(path, {"rate": 0.01}, provenance("cpu"))
    loaded = Cohort.load(path, backend=CPU_BACKEND)
    assert loaded.seeds == [0, 1, 2]
    assert not loaded.training
    batch = test_images.take(slice(20)).expand(3).images()
    assert torch.equal(loaded(batch), trained(batch))
    again = tmp_path / "again.safetensors"
    trained.save(again, {"rate": 0.01}, provenance("cpu"))
    assert filecmp.cmp(path, again, shallow=False)
    first = path.read_bytes()
    for word in (b"provenance", b"torch", b"commit", b"seeds", b"rate"):
        assert word in first[:2000]


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None], ids=["empty", "noise", "missing"])
def test_a_damaged_cohort_is_one_sentence(tmp_path, damage):
    path = tmp_path / "cohort.safetensors"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(UserError, match=r"cohort\.safetensors is not a readable"):
        Cohort.load(path, backend=CPU_BACKEND)


class _Branching(nn.Module):
    """An architecture that is no chain of layers, and so is neither folded nor stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 4), nn.Linear(64, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images):
        flat = images.flatten(1)
        return self.norm(self.one(flat)) + self.two(flat)


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
    "a layer that is not known": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 4, 2, 1, padding_mode="reflect"), nn.Softplus(), nn.Flatten()
    ),
    "in place": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 4, 2, 1), nn.LeakyReLU(inplace=True), nn.Conv2d(6, 6, 3), nn.ReLU(True)
    ),
    "named padding": lambda: nn.Sequential(nn.Conv2d(1, 6, 3, padding="same"), nn.ReLU()),
    "ends in a ReLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU()),
    "starts with a ReLU": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(64, 4)),
    "no norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
    "no chain": _Branching,
}


@pytest.mark.parametrize(("side_by_side", "few"), [(1, 0), (1, 5), (3, 1 << 30)])
@pytest.mark.parametrize("build", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_any_architecture_makes_a_cohort(monkeypatch, build, side_by_side, few):
    """Eval mode, where batch normalization is folded, equals the members one by one.

    In the ways of each processor, whichever this one is.
    """
    monkeypatch.setattr(stacking, "MODELS_PER_CHUNK", side_by_side)
    monkeypatch.setattr(layers, "MAX_CHANNELS_FOR_STRIDED_GRAD", few)
    monkeypatch.setitem(networks.ARCHITECTURES, "other", lambda *_: build())
    cohort = Cohort("other", (1, 8, 8), 4, [0, 1])
    cohort.initialize([torch.Generator().manual_seed(i) for i in range(2)])
    images = torch.randn(2, 30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            cohort.train()(images * 3)
    images.requires_grad_()
    before = images.detach().clone()
    logits = cohort.eval()(images)
    assert torch.equal(images, before)
    towards = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1))
    given = towards.clone()
    (found,) = torch.autograd.grad(logits, images, towards)
    assert torch.equal(given, towards)
    for i in range(2):
        alone = cohort.member(i)(images[i])
        torch.testing.assert_close(logits[i], alone, **TOLERANCE)
        (expected,) = torch.autograd.grad(alone, images, towards[i])
        torch.testing.assert_close(found[i], expected[i], **TOLERANCE)


@pytest.mark.parametrize("at_once", [1, 7, 14, 1000])
@pytest.mark.parametrize("side_by_side", [2, 5])
def test_images_go_through_the_layers_in_parts(
    monkeypatch, trained, test_images, at_once, side_by_side
):
    images = test_images.take(slice(10)).expand(3).images().requires_grad_()
    logits = trained(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    monkeypatch.setattr(stacking, "CPU_CHUNK_IMAGES", at_once)
    monkeypatch.setattr(stacking, "MODELS_PER_CHUNK", side_by_side)
    # A cohort of its own: `trained` would keep the pass that these sizes make, for other tests.
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    logits_in_parts = cohort.eval()(images)
    torch.testing.assert_close(logits_in_parts, logits, **TOLERANCE)
    (gradient_in_parts,) = torch.autograd.grad(logits_in_parts.square().sum(), images)
    torch.testing.assert_close(gradient_in_parts, gradient, **TOLERANCE)


def test_changed_weights_are_seen_without_a_change_of_mode(test_images):
    cohort, batch = make_cohort([0, 1]).eval(), test_images.take(slice(5)).expand(2).images()
    before = cohort(batch)
    with torch.no_grad():
        cohort.stacked_params.get_parameter("0__weight").mul_(2)
        cohort.stacked_params.get_buffer("1__running_mean").add_(1)
    after = cohort(batch)
    assert not torch.allclose(before, after)
    for i in range(2):
        torch.testing.assert_close(after[i], cohort.member(i)(batch[i]), **TOLERANCE)
    cohort.load_state_dict(make_cohort([0, 1]).state_dict())
    torch.testing.assert_close(cohort(batch), before, **TOLERANCE)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.LeakyReLU(inplace=True)],
        lambda: [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Identity(), nn.ReLU(inplace=True)],
        lambda: [nn.Conv2d(1, 6, 3), nn.SiLU(inplace=True), nn.BatchNorm2d(6, affine=False)],
        lambda: [nn.ReLU(inplace=True), nn.BatchNorm2d(1), nn.Conv2d(1, 6, 4, 2, 1), nn.ReLU()],
    ],
)
def test_any_chain_learns_as_single_models_do(monkeypatch, layers):
    """Gradients to the weights in train mode, whatever works in place."""

    def build(shape, classes):
        wide = nn.Sequential(*layers())(torch.zeros(2, *shape)).flatten(1).shape[1]
        return nn.Sequential(*layers(), nn.Flatten(), nn.Linear(wide, classes))

    monkeypatch.setitem(networks.ARCHITECTURES, "chain", build)
    cohort = Cohort("chain", (1, 8, 8), 3, [0, 1], CPU_BACKEND)
    cohort.initialize([generator(0, "chain", seed) for seed in range(2)])
    members = [cohort.member(i).train() for i in range(2)]
    images = torch.randn(2, 5, 1, 8, 8, generator=generator(0, "images"))
    kept = images.clone()
    cohort.train()(images).square().sum().backward()
    assert torch.equal(images, kept)
    sums = [model(x.clone()).square().sum() for model, x in zip(members, images, strict=True)]
    for of in sums:
        of.backward()
    held = dict(cohort.stacked_params.named_parameters())
    for i, model in enumerate(members):
        for name, weight in model.named_parameters():
            got = held[name.replace(".", "__")].grad[i]
            torch.testing.assert_close(got, weight.grad, rtol=1e-4, atol=1e-4)


def test_a_cohort_of_inference_mode():
    """It keeps nothing of what is made of weights that do not tell of being written to."""
    images = torch.rand(2, 3, 1, 28, 28, generator=generator(0, "images"))
    expected = make_cohort([0, 1]).eval()(images)
    with torch.inference_mode():
        cohort = make_cohort([0, 1]).eval()
        assert cohort(images).equal(expected)
        next(cohort.parameters()).zero_()
        assert not cohort(images).equal(expected)
