import platform
import subprocess
import sys

import pytest
import torch

from robustgen import device
from robustgen.errors import UserError


def test_torch_is_made_deterministic():
    assert device.setup() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_reused():
    """Memory that was returned to the system would have to be cleared at each use.

    A pass uses 3,000 pages, of which 50 on average may be new.
    """
    count = """
import resource, sys, torch
from robustgen import device
from robustgen.models.cohort import Cohort
device.setup()
models = Cohort("convnet", (1, 28, 28), 10, [0]).eval()
images = torch.rand(1, 100, 1, 28, 28, requires_grad=True)
for iteration in range(40):
    if iteration == 20:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.autograd.grad(models(images).sum(), images)
sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults > 20 * 50)
"""
    subprocess.run([sys.executable, "-c", count], check=True)


@pytest.mark.parametrize("name", ["cuda:99"])
def test_a_missing_device_is_one_sentence(monkeypatch, name):
    monkeypatch.setenv("ROBUSTGEN_DEVICE", name)
    with pytest.raises(
        UserError, match=f"the device '{name}' cannot be used: .*; set ROBUSTGEN_DEVICE to another"
    ):
        device.setup()


@pytest.mark.parametrize(("name", "expected"), [("cuda:1", [1]), ("cuda", [])])
def test_a_numbered_gpu_becomes_the_current_one(monkeypatch, name, expected):
    selected, torch_empty = [], torch.empty
    monkeypatch.setenv("ROBUSTGEN_DEVICE", name)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", selected.append, raising=False)

    def empty_on_cpu(*size, dtype=None, device=None):  # noqa: ARG001, there is no GPU
        return torch_empty(*size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty_on_cpu)
    assert device.setup() == torch.device(name)
    assert selected == expected
    monkeypatch.undo()
    device.setup()
