"""The kernels of a search step, run by Triton's interpreter, against the plain operations."""

import pytest
import torch
from torch import nn

from robustgen.acceleration.cuda import search_step
from robustgen.attacks.active_examples import ActiveExamples
from robustgen.attacks.search import SearchResult, ascend, run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.backend import PLAIN, Backend
from robustgen.sampling import make_generator
from robustgen.specs import SearchConfig, Threat

pytestmark = pytest.mark.slow

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py tests the kernels on a GPU", allow_module_level=True)

MODEL = nn.Sequential(nn.Flatten(1), nn.Linear(36, 5))
with torch.no_grad():
    for parameter in MODEL.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def classify(images):
    """Logits of two models with the same weights."""
    return MODEL(images.flatten(0, 1)).view(*images.shape[:2], -1)


def ascend_in_fused_steps(model, active, *arguments):
    ascend(model, search_step.FusedActiveExamples.share(active), *arguments)


def search_images(
    rule: str, restarts: int, stop_at_success: bool, backend: Backend = PLAIN
) -> SearchResult:
    """Search with 30 images per model, of which the first model skips four."""
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 30, 1, 6, 6, generator=rng), torch.arange(60).view(2, 30) % 5
    skip = torch.zeros(2, 30, dtype=torch.bool)
    skip[0, :4] = True
    return run_search(
        classify,
        ImageSpace(images, 0.0, 1.0),
        labels,
        Threat("image", "linf", 0.1),
        SearchConfig(rule, 0.02, 6, restarts),
        [make_generator(0, i) for i in range(2)],
        stop_at_success=stop_at_success,
        skip=skip if stop_at_success else None,
        backend=backend,
    )


@pytest.mark.parametrize(
    ("rule", "stop_at_success", "restarts"),
    [("adam", True, 2), ("adam", False, 1), ("signed", True, 1), ("signed", False, 2)],
)
def test_a_search_in_fused_steps_equals_the_plain_one(monkeypatch, rule, stop_at_success, restarts):
    expected = search_images(rule, restarts, stop_at_success)
    monkeypatch.setattr(search_step, "supports_tensors", lambda _: True)
    for name in ("update_best", "step"):  # the plain operations must not be used
        monkeypatch.setattr(ActiveExamples, name, None)
    backend = Backend(ascend=ascend_in_fused_steps)
    result = search_images(rule, restarts, stop_at_success, backend)
    assert torch.equal(result.success, expected.success)
    assert torch.equal(result.iterations, expected.iterations)
    assert torch.equal(result.restart, expected.restart)
    torch.testing.assert_close(result.codes, expected.codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert 0 < expected.success.float().mean() < 1


@pytest.mark.parametrize(
    ("norm", "lower", "rule"),
    [("l2", 0.0, "adam"), ("linf", torch.zeros(36), "adam"), ("linf", 0.0, "normalized")],
    ids=["another norm", "a lower bound per number", "another step rule"],
)
def test_steps_that_the_kernels_do_not_support_are_recognized(norm, lower, rule):
    codes = torch.rand(1, 2, 36)
    space, step_rule = ImageSpace(codes, lower, 1.0), STEP_RULES[rule](codes)
    assert not search_step.supports_step(space, step_rule, Threat("image", norm, 0.1))
    box, adam = ImageSpace(codes, 0.0, 1.0), STEP_RULES["adam"](codes)
    assert search_step.supports_step(box, adam, Threat("image", "linf", 0.1))
