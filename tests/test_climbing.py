"""A search in one kernel, by Triton's interpreter, beside the plain one."""

import pytest
import torch
from conftest import CPU_BACKEND
from torch import nn

from robustgen.acceleration import batched_forward as stacking
from robustgen.acceleration.cuda import grouped_conv as grouped
from robustgen.acceleration.cuda import search_step, whole_search
from robustgen.attacks.search import run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.backend import Backend
from robustgen.models import architectures as networks
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import SearchConfig, Threat

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("what the kernels compute on a GPU is in test_gpu.py", allow_module_level=True)


def strided(channels: int) -> nn.Module:
    """Convolutions and linear layers with and without a bias or a ReLU, on images of 6 x 7."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 4, 2, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(6, 20, (3, 2), (3, 1), (1, 0)),
        nn.Flatten(),
        nn.Linear(40, 9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )


def flat(channels: int) -> nn.Module:
    """Without a convolution."""
    return nn.Sequential(nn.Flatten(), nn.Linear(42 * channels, 5))


@pytest.fixture
def by_kernels(monkeypatch):
    """Passes of a cohort are those of a GPU; whether searches are, and what came of them."""
    monkeypatch.setattr(grouped, "applies", lambda *_: True)
    monkeypatch.setattr(stacking, "MODELS_PER_CHUNK", 2)
    for module in (search_step, whole_search):
        monkeypatch.setattr(module, "supports_tensors", lambda _: True)
    known, asked, whole = {"on": True}, [], whole_search.search_in_one_kernel
    find_forward = whole_search.supported_forward
    monkeypatch.setattr(
        whole_search,
        "supported_forward",
        lambda *args: find_forward(*args) if known["on"] else None,
    )

    def climb(*args: object) -> bool:
        asked.append(whole(*args))
        return asked[-1]

    monkeypatch.setattr(whole_search, "search_in_one_kernel", climb)
    return known, asked


def made(build, channels: int, monkeypatch) -> Cohort:
    """Two models of a network with weights at random."""
    monkeypatch.setattr(networks, "build", lambda *_: build(channels))
    cohort = Cohort("own", (channels, 6, 7), 5, [0, 1], CPU_BACKEND).eval()
    rng = torch.Generator().manual_seed(3)
    for weights in cohort.parameters():
        weights.data.copy_(torch.randn(weights.shape, generator=rng) / weights[0, 0].numel() ** 0.5)
    return cohort


def found(cohort: Cohort, channels: int, rule: str, restarts: int, *, norm="linf", stop=True):
    """Seven images of each, of which one model need not attack some."""
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
        [generator(0, i) for i in range(2)],
        stop_at_success=stop,
        skip=skip if stop else None,
        backend=Backend(ascend=whole_search.ascend),
    )


@pytest.mark.parametrize(
    ("build", "channels", "restarts", "rule"),
    [
        (strided, 1, 2, "adam"),
        (strided, 3, 1, "signed"),
        pytest.param(flat, 3, 2, "adam", marks=pytest.mark.long),
    ],
)
def test_it_finds_what_the_steps_one_by_one_find(
    by_kernels, monkeypatch, build, channels, restarts, rule
):
    known, asked = by_kernels
    cohort = made(build, channels, monkeypatch)
    args = cohort, channels, rule, restarts
    of_kernel = found(*args)
    assert asked == [True] * restarts
    known["on"] = False
    plain = found(*args)
    assert len(asked) == restarts
    for name in ("success", "iterations", "restart"):
        assert torch.equal(getattr(of_kernel, name), getattr(plain, name)), name
    torch.testing.assert_close(of_kernel.codes, plain.codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_kernel.loss, plain.loss, atol=1e-5, rtol=1e-5)
    assert 0 < plain.success.float().mean() < 1


def test_other_searches_are_left_to_the_steps(by_kernels, monkeypatch):
    """Of all steps, in an L2 ball, with models that end in a ReLU, or with large ones."""
    _, asked = by_kernels
    ending = made(lambda channels: flat(channels).append(nn.ReLU()), 3, monkeypatch)
    found(ending, 3, "signed", 1)
    cohort = made(flat, 3, monkeypatch)
    args = cohort, 3, "signed", 1
    found(*args, norm="l2")
    found(*args, stop=False)
    monkeypatch.setattr(whole_search, "SMALL", 10)
    found(*args)
    assert not asked


def test_where_the_kernel_cannot_be_made_the_steps_go_on(by_kernels, monkeypatch, caplog):
    """It is said once, and not tried again."""
    known, asked = by_kernels
    cohort = made(flat, 3, monkeypatch)
    monkeypatch.setattr(whole_search, "_compile_errors", [])
    with monkeypatch.context() as patch:
        patch.setattr("robustgen.acceleration.cuda.whole_search_kernel.climb", None)
        one = found(cohort, 3, "adam", 2)
    assert asked == [False]
    assert caplog.text.count("no search in one kernel here") == 1
    known["on"] = False
    other = found(cohort, 3, "adam", 2)
    assert torch.equal(one.success, other.success)
    assert torch.equal(one.codes, other.codes)
