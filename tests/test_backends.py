"""Every operation of every backend against the plain one, and the verification on a GPU."""

import logging
from dataclasses import fields, replace

import pytest
import torch
from conftest import RECIPE, make_cohort, make_generators, vaegan
from torch import nn

from robustgen.acceleration import backends, verification
from robustgen.acceleration.verification import Verifier, verify_forward
from robustgen.acceleration.verified_search import CHECKED_STEPS, verify_ascend
from robustgen.attacks.search import ascend, run_search, run_search_from_starts
from robustgen.attacks.spaces import SPACES
from robustgen.backend import PLAIN, Backend, vmapped_forward
from robustgen.data.decoders import ClassDecoders
from robustgen.errors import UserError
from robustgen.evaluation.attacks import attack_cohort, predict
from robustgen.models.cohort import Cohort
from robustgen.specs import SearchConfig, Threat

CPU = torch.device("cpu")
BACKENDS = {"on a CPU": backends.make_cpu_backend(), "on a GPU": backends.make_cuda_backend()}
"""The backend of a GPU also works on a CPU, where it uses no kernels and no CUDA graphs."""


def compare_forward(backend: Backend, trained: Cohort, test_images) -> None:
    """Compare logits and gradients in both modes, and buffers."""
    images = test_images.select(slice(20)).expand(3).images()
    results = []
    for variant in (backend, PLAIN):
        cohort = make_cohort([0, 1, 2], backend=variant)
        cohort.load_state_dict(trained.state_dict())
        inputs = images.clone().requires_grad_()
        logits = cohort.eval()(inputs)
        (gradient,) = torch.autograd.grad(logits.square().sum(), inputs)
        training_logits = cohort.train()(images)
        weights = torch.autograd.grad(training_logits.square().sum(), list(cohort.parameters()))
        buffers = [buffer.float() for buffer in cohort.buffers()]
        results.append([logits, gradient, training_logits, *weights, *buffers])
    for tensor, plain in zip(*results, strict=True):
        # Relative to the largest value: sums in another order, and kinks of ReLUs.
        torch.testing.assert_close(tensor, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


def compare_ascend(backend: Backend, trained: Cohort, test_images) -> None:
    """Compare the results of searches in three spaces."""
    for space_name in ("image", "true_manifold", "learned_manifold"):
        batch = test_images.select(slice(20)).expand(3)
        space = SPACES[space_name](batch)
        generator = torch.Generator().manual_seed(0)
        noise = [2 * torch.rand(space.clean_codes.shape, generator=generator) - 1]
        threat, search = Threat(space_name, "linf", 0.2), SearchConfig("adam", 0.05, 5)
        result, plain = (
            run_search_from_starts(
                trained,
                space,
                batch.labels,
                threat,
                search,
                noise,
                stop_at_success=True,
                backend=variant,
            )
            for variant in (backend, PLAIN)
        )
        assert plain.success.any()
        assert torch.equal(result.success, plain.success)
        assert torch.equal(result.iterations, plain.iterations)
        torch.testing.assert_close(result.codes, plain.codes)


def compare_sample_starts(backend: Backend, *_) -> None:
    """Compare starts of several batches and restarts, and the next numbers of the generators."""
    for norm in ("linf", "l2"):
        for batch_sizes in ([7], [10, 10, 3]):
            numbers = []
            for variant in (backend, PLAIN):
                generators = make_generators([0, 1]).attacks
                starts = list(variant.sample_starts(norm, batch_sizes, (2, 3), 3, generators, CPU))
                next_numbers = [torch.rand(2, generator=generator) for generator in generators]
                numbers.append([*starts, *next_numbers])
            for tensor, plain in zip(*numbers, strict=True):
                torch.testing.assert_close(tensor, plain, atol=0, rtol=1e-6)


def compare_compile_step(backend: Backend, *_) -> None:
    """Compare a step that changes a tensor in place, called with inputs of two shapes."""
    totals = []
    for variant in (backend, PLAIN):
        total = torch.zeros(3)

        def add(values: torch.Tensor, total: torch.Tensor = total) -> list[torch.Tensor]:
            total += values.sum(0)
            return [total * 2]

        step = variant.compile_step(add)
        outputs = [step(torch.full((rows, 3), 0.5))[0] for rows in (1, 2, 1, 2)]
        totals.append([total, *outputs])
    for tensor, plain in zip(*totals, strict=True):
        assert torch.equal(tensor, plain)


def compare_make_adam(backend: Backend, *_) -> None:
    """Compare ten steps with weight decay, bit for bit."""
    parameters = []
    for variant in (backend, PLAIN):
        parameter = nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = variant.make_adam([parameter], 0.1, 0.01)
        for step in range(10):
            optimizer.zero_grad()
            (parameter * torch.arange(50) * (step - 4)).sin().sum().backward()
            optimizer.step()
        parameters.append(parameter.detach())
    assert torch.equal(*parameters)


def compare_prepare(backend: Backend, *_) -> None:
    """Compare each network of a VAE-GAN, forward and backward, and the names of its state."""
    results, names = [], []
    for variant in (backend, PLAIN):
        model = vaegan("one", RECIPE)
        names.append(list(model.state_dict()))
        assert variant.prepare(model) is model
        assert list(model.state_dict()) == names[-1]
        model = model.double()
        images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
        images.requires_grad_()
        mean, log_variance = model.encoder(images)
        decoded = model.decoder(mean)
        logits = model.discriminator(decoded)
        loss = logits.sum() + decoded.square().sum() + log_variance.sum()
        gradients = torch.autograd.grad(loss, [images, *model.parameters()])
        results.append([mean, log_variance, decoded, logits, *gradients])
    for tensor, plain in zip(*results, strict=True):
        torch.testing.assert_close(tensor, plain)


def compare_prepare_decoder(backend: Backend, *_) -> None:
    """Compare decoded images and their gradients, of one class and of two."""
    results = []
    for variant in (backend, PLAIN):
        models = [vaegan(name, RECIPE).eval().requires_grad_(False).double() for name in "AB"]
        decoders = [variant.prepare_decoder(model.decoder) for model in models]
        assert not any(decoder.training for decoder in decoders)
        codes = torch.linspace(-2, 2, 6 * RECIPE.latent_dim).view(6, -1).double().requires_grad_()
        for class_decoders in (decoders[:1], decoders):
            images = ClassDecoders(class_decoders)(codes, torch.tensor([0, 1, 1, 0, 1, 0]))
            (gradient,) = torch.autograd.grad(images.square().sum(), codes)
            results.append([images, gradient])
    for accelerated, plain in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(accelerated, plain)


COMPARISONS = {
    "forward": compare_forward,
    "ascend": compare_ascend,
    "sample_starts": compare_sample_starts,
    "compile_step": compare_compile_step,
    "make_adam": compare_make_adam,
    "prepare": compare_prepare,
    "prepare_decoder": compare_prepare_decoder,
}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("operation", COMPARISONS)
def test_every_operation_equals_the_plain_one(trained, test_images, operation, backend):
    COMPARISONS[operation](backend, trained, test_images)


def test_every_operation_is_compared():
    assert set(COMPARISONS) == {field.name for field in fields(Backend)} - {"name"}


def test_the_environment_chooses_the_plain_backend(monkeypatch):
    assert backends.for_cohorts(CPU) == backends.make_cpu_backend()
    assert backends.for_vaegans(CPU).prepare is backends.make_cpu_backend().prepare
    monkeypatch.setenv("ROBUSTGEN_BACKEND", "plain")
    assert backends.for_cohorts(CPU) is PLAIN
    assert backends.for_vaegans(CPU) is PLAIN
    monkeypatch.setenv("ROBUSTGEN_BACKEND", "fast")
    with pytest.raises(UserError, match="ROBUSTGEN_BACKEND is 'fast', but must be accelerated or"):
        backends.for_cohorts(CPU)


@pytest.mark.parametrize("function", ["attack_cohort", "run_search", "predict"])
def test_the_first_call_of_a_model_has_enough_images_to_verify_kernels(
    trained, test_images, function, monkeypatch
):
    """A check of the arguments with fewer images would leave most of the verification out."""
    counts: list[int] = []

    def count_images(_forward, images):
        counts.append(images.shape[1])
        return 1.0

    monkeypatch.setattr(verification.VerifiedForward, "_compare", count_images)
    cohort = make_cohort([0, 1, 2], backend=backends.make_cuda_backend())
    cohort.load_state_dict(trained.state_dict())
    cohort.eval()
    images, generators = test_images.select(slice(20)), make_generators([0, 1, 2]).attacks
    threat, search = Threat("image", "linf", 0.1), SearchConfig("signed", 0.1, 1)
    if function == "predict":
        predict(cohort, images)
    elif function == "attack_cohort":
        attack_cohort(cohort, images, threat, search, generators)
    else:
        batch = images.expand(3)
        space = SPACES["image"](batch)
        run_search(cohort, space, batch.labels, threat, search, generators, stop_at_success=True)
    assert counts[0] >= verification.CHECKED_IMAGES


def wrong_forward(model, state):
    """A forward pass with wrong logits."""
    plain = vmapped_forward(model, state)
    return lambda images: 1.1 * plain(images)


def wrong_backward(model, state):
    """A forward pass with correct logits and wrong gradients."""
    plain = vmapped_forward(model, state)
    return lambda images: plain(images + 0.5 * (images.detach() - images))


@pytest.mark.parametrize("forward", [wrong_forward, wrong_backward])
@pytest.mark.parametrize("training", [True, False])
def test_a_wrong_forward_pass_is_not_used(test_images, caplog, forward, training):
    images = test_images.select(slice(20)).expand(2).images()
    logits = []
    for variant in (verify_forward(Verifier(), forward), vmapped_forward):
        cohort = make_cohort([0, 1], backend=Backend(forward=variant)).train(training)
        logits.append([cohort(images) for _ in range(2)])
    for verified, plain in zip(*logits, strict=True):
        assert torch.equal(verified, plain)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1  # although it was called twice
    mode = "training" if training else "attacks"
    assert f"the accelerated forward pass of {mode} differs from its plain" in caplog.text


def test_a_correct_forward_pass_is_used(test_images, caplog):
    calls = []

    def count_calls(model, state):
        plain = vmapped_forward(model, state)

        def forward(images):
            calls.append(len(images[0]))
            return plain(images)

        return forward

    cohort = make_cohort([0, 1], backend=Backend(forward=verify_forward(Verifier(), count_calls)))
    images = test_images.select(slice(20)).expand(2).images()
    for _ in range(3):
        cohort.eval()(images)
    assert calls == [verification.CHECKED_IMAGES, 20, 20, 20]
    assert not caplog.records


def test_verification_of_a_forward_pass_changes_no_buffers(test_images):
    images = test_images.select(slice(20)).expand(2).images()
    buffers = []
    for forward in (verify_forward(Verifier(), vmapped_forward), vmapped_forward):
        cohort = make_cohort([0, 1], backend=Backend(forward=forward)).train()
        cohort(images)
        buffers.append(list(cohort.buffers()))
    for verified, plain in zip(*buffers, strict=True):
        assert torch.equal(verified, plain)


@pytest.mark.parametrize("stop_at_success", [True, False])
def test_a_wrong_search_is_not_used(trained, test_images, caplog, stop_at_success):
    def search_with_large_steps(model, active, threat, search, *arguments):
        ascend(model, active, threat, replace(search, step_size=2 * search.step_size), *arguments)

    batch = test_images.select(slice(20)).expand(3)
    space = SPACES["image"](batch)
    noise = [torch.zeros_like(space.clean_codes)]
    arguments = (trained, space, batch.labels, Threat("image", "linf", 0.3))
    search = SearchConfig("signed", 0.02, 8)
    results = [
        run_search_from_starts(
            *arguments,
            search,
            noise,
            stop_at_success=stop_at_success,
            backend=Backend(ascend=variant),
        )
        for variant in (verify_ascend(Verifier(), search_with_large_steps), None)
    ]
    assert torch.equal(results[0].codes, results[1].codes)
    assert "the accelerated search" in caplog.text
    assert "in image, linf, signed differs from its plain definition" in caplog.text


def test_a_correct_search_is_used(trained, test_images, caplog):
    steps = []

    def count_steps(model, active, threat, search, *arguments):
        steps.append(search.steps)
        ascend(model, active, threat, search, *arguments)

    batch = test_images.select(slice(20)).expand(3)
    space = SPACES["image"](batch)
    noise = [torch.zeros_like(space.clean_codes)] * 2
    run_search_from_starts(
        trained,
        space,
        batch.labels,
        Threat("image", "linf", 0.3),
        SearchConfig("adam", 0.02, 8, restarts=2),
        noise,
        stop_at_success=True,
        backend=Backend(ascend=verify_ascend(Verifier(), count_steps)),
    )
    assert steps == [CHECKED_STEPS, 8, 8]
    assert not caplog.records


def test_values_are_compared_relative_to_the_largest_value():
    plain = torch.tensor([0.0, 1.0, 100.0, torch.nan])
    assert verification.share_of_equal_values([plain + 0.01], [plain]) == 1
    assert verification.share_of_equal_values([plain + 1], [plain]) == 0.25  # NaN stays NaN
    assert verification.share_of_equal_values([plain, plain + 1], [plain, plain]) == 0.25
    assert verification.share_of_equal_values([], []) == 1
