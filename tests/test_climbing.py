"""A search in one kernel, run by Triton's interpreter, against the search step by step."""

import pytest
import torch
from conftest import CPU_BACKEND
from torch import nn

from robustgen.acceleration import batched_forward
from robustgen.acceleration.cuda import grouped_conv, search_step, whole_search
from robustgen.attacks.search import SearchResult, run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.backend import Backend
from robustgen.models import architectures
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import SearchConfig, Threat

pytestmark = pytest.mark.slow

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py tests the kernels on a GPU", allow_module_level=True)


def build_convolutional(channels: int) -> nn.Module:
    """Convolutions and linear layers with and without a bias or a ReLU, for images of 6 x 7."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 4, 2, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 20, (3, 2), (3, 1), (1, 0)),
        nn.Flatten(),
        nn.Linear(40, 9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )


def build_linear(channels: int) -> nn.Module:
    """One linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(42 * channels, 5))


class KernelSwitch:
    """Turns the whole-search kernel on and off, and records its calls.

    Attributes:
        is_on: whether the kernel may be used.
        results: the return values of `search_in_one_kernel`.
    """

    def __init__(self) -> None:
        self.is_on, self.results = True, []


@pytest.fixture
def kernel(monkeypatch) -> KernelSwitch:
    """Compute forward passes and searches with the kernels, as on a GPU."""
    monkeypatch.setattr(grouped_conv, "supports", lambda *_: True)
    monkeypatch.setattr(batched_forward, "MODELS_PER_CHUNK", 2)
    for module in (search_step, whole_search):
        monkeypatch.setattr(module, "supports_tensors", lambda _: True)
    switch = KernelSwitch()
    supported_forward = whole_search.supported_forward
    search_in_one_kernel = whole_search.search_in_one_kernel

    def record_result(*args: object) -> bool:
        switch.results.append(search_in_one_kernel(*args))
        return switch.results[-1]

    monkeypatch.setattr(
        whole_search,
        "supported_forward",
        lambda *args: supported_forward(*args) if switch.is_on else None,
    )
    monkeypatch.setattr(whole_search, "search_in_one_kernel", record_result)
    return switch


def make_random_cohort(build, channels: int, monkeypatch) -> Cohort:
    """Two models of one architecture with random weights."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "other", lambda *_: build(channels))
    cohort = Cohort("other", (channels, 6, 7), 5, [0, 1], CPU_BACKEND).eval()
    rng = torch.Generator().manual_seed(3)
    for weights in cohort.parameters():
        weights.data.copy_(torch.randn(weights.shape, generator=rng) / weights[0, 0].numel() ** 0.5)
    return cohort


def search_images(
    cohort: Cohort, channels: int, rule: str, restarts: int, *, norm="linf", stop_at_success=True
) -> SearchResult:
    """Search with seven images per model, of which the first model skips two."""
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 7, channels, 6, 7, generator=rng), torch.arange(14) % 5
    skip = torch.zeros(2, 7, dtype=torch.bool)
    skip[0, :2] = True
    return run_search(
        cohort,
        ImageSpace(images, 0.0, 1.0),
        labels.view(2, 7),
        Threat("image", norm, 0.1),
        SearchConfig(rule, 0.03, 3, restarts),
        [make_generator(0, i) for i in range(2)],
        stop_at_success=stop_at_success,
        skip=skip if stop_at_success else None,
        backend=Backend(ascend=whole_search.ascend),
    )


@pytest.mark.parametrize(
    ("build", "channels", "restarts", "rule"),
    [
        (build_convolutional, 1, 2, "adam"),
        (build_convolutional, 3, 1, "signed"),
        pytest.param(build_linear, 3, 2, "adam", marks=pytest.mark.long),
    ],
)
def test_the_kernel_equals_the_search_step_by_step(
    kernel, monkeypatch, build, channels, restarts, rule
):
    cohort = make_random_cohort(build, channels, monkeypatch)
    result = search_images(cohort, channels, rule, restarts)
    assert kernel.results == [True] * restarts
    kernel.is_on = False
    expected = search_images(cohort, channels, rule, restarts)
    assert len(kernel.results) == restarts
    for name in ("success", "iterations", "restart"):
        assert torch.equal(getattr(result, name), getattr(expected, name)), name
    torch.testing.assert_close(result.codes, expected.codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert 0 < expected.success.float().mean() < 1


def test_the_kernel_is_not_used_for_searches_that_it_does_not_support(kernel, monkeypatch):
    """Models that end in a ReLU, L2 balls, searches over all steps, and large models."""
    cohort_with_relu = make_random_cohort(
        lambda channels: build_linear(channels).append(nn.ReLU()), 3, monkeypatch
    )
    search_images(cohort_with_relu, 3, "signed", 1)
    cohort = make_random_cohort(build_linear, 3, monkeypatch)
    search_images(cohort, 3, "signed", 1, norm="l2")
    search_images(cohort, 3, "signed", 1, stop_at_success=False)
    monkeypatch.setattr(whole_search, "MAX_WEIGHTS", 10)
    search_images(cohort, 3, "signed", 1)
    assert not kernel.results


def test_a_kernel_that_fails_is_reported_once_and_replaced_by_steps(kernel, monkeypatch, caplog):
    cohort = make_random_cohort(build_linear, 3, monkeypatch)
    monkeypatch.setattr(whole_search, "_compile_errors", [])
    with monkeypatch.context() as patch:
        patch.setattr("robustgen.acceleration.cuda.whole_search_kernel.search_kernel", None)
        result = search_images(cohort, 3, "adam", 2)
    assert kernel.results == [False]
    assert caplog.text.count("the kernel of a whole search cannot be used") == 1
    kernel.is_on = False
    expected = search_images(cohort, 3, "adam", 2)
    assert torch.equal(result.success, expected.success)
    assert torch.equal(result.codes, expected.codes)
