"""The kernels of a search, by Triton's interpreter, beside the plain operations."""

import pytest
import torch
from torch import nn

from robustgen.acceleration.cuda import search_step as fused
from robustgen.attacks.search import ActiveExamples, ascend, run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.backend import PLAIN, Backend
from robustgen.seeding import generator
from robustgen.specs import SearchConfig, Threat

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("what the kernels compute on a GPU is in test_gpu.py", allow_module_level=True)

MODEL = nn.Sequential(nn.Flatten(1), nn.Linear(36, 5))
with torch.no_grad():
    for parameter in MODEL.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def passed(images):
    return MODEL(images.flatten(0, 1)).view(*images.shape[:2], -1)


def ascend_by_kernels(model, active, *arguments):
    ascend(model, fused.FusedActiveExamples.share(active), *arguments)


def found(rule: str, restarts: int, stop: bool, backend: Backend = PLAIN):
    rng = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 30, 1, 6, 6, generator=rng), torch.arange(60).view(2, 30) % 5
    skip = torch.zeros(2, 30, dtype=torch.bool)
    skip[0, :4] = True
    return run_search(
        passed,
        ImageSpace(images, 0.0, 1.0),
        labels,
        Threat("image", "linf", 0.1),
        SearchConfig(rule, 0.02, 6, restarts),
        [generator(0, i) for i in range(2)],
        stop_at_success=stop,
        skip=skip if stop else None,
        backend=backend,
    )


@pytest.mark.parametrize(
    ("rule", "stop", "restarts"),
    [("adam", True, 2), ("adam", False, 1), ("signed", True, 1), ("signed", False, 2)],
)
def test_a_search_by_kernels_finds_what_the_plain_one_finds(monkeypatch, rule, stop, restarts):
    plain = found(rule, restarts, stop)
    monkeypatch.setattr(fused, "supports_tensors", lambda _: True)
    for name in ("update_best", "step"):  # the plain operations must not be used
        monkeypatch.setattr(ActiveExamples, name, None)
    other = found(rule, restarts, stop, Backend(ascend=ascend_by_kernels))
    assert torch.equal(other.success, plain.success)
    assert torch.equal(other.iterations, plain.iterations)
    assert torch.equal(other.restart, plain.restart)
    torch.testing.assert_close(other.codes, plain.codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.loss, plain.loss, atol=1e-5, rtol=1e-5)
    assert 0 < plain.success.float().mean() < 1


@pytest.mark.parametrize(
    ("threat", "low", "rule"),
    [("l2", 0.0, "adam"), ("linf", torch.zeros(36), "adam"), ("linf", 0.0, "normalized")],
    ids=["another ball", "bounds of each number", "another rule"],
)
def test_other_steps_are_left_to_the_plain_operations(threat, low, rule):
    origin = torch.rand(1, 2, 36)
    space, known = ImageSpace(origin, low, 1.0), STEP_RULES[rule](origin)
    assert not fused.supports_step(space, known, Threat("image", threat, 0.1))
    box, adam = ImageSpace(origin, 0.0, 1.0), STEP_RULES["adam"](origin)
    assert fused.supports_step(box, adam, Threat("image", "linf", 0.1))
