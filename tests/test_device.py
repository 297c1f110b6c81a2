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
def test_freed_memory_is_kept():
    """Or it would be cleared by the system at each use.

    Some pages of the 3,000 of a pass are new now and then, but not in each.
    """
    count = """
import resource, sys, torch
from robustgen import device
from robustgen.models.cohort import Cohort
device.setup()
models = Cohort("convnet", (1, 28, 28), 10, [0]).eval()
images = torch.rand(1, 100, 1, 28, 28, requires_grad=True)
for turn in range(40):
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.autograd.grad(models(images).sum(), images)
sys.exit(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 20 * 50)
"""
    subprocess.run([sys.executable, "-c", count], check=True)


@pytest.mark.parametrize("name", ["cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, name):
    monkeypatch.setenv("ROBUSTGEN_DEVICE", name)
    with pytest.raises(UserError, match=f"ROBUSTGEN_DEVICE is '{name}', which cannot be used"):
        device.setup()


@pytest.mark.parametrize(("name", "chosen"), [("cuda:1", [1]), ("cuda", [])])
def test_all_work_goes_to_the_gpu_that_is_named(monkeypatch, name, chosen):
    asked, made = [], torch.empty
    monkeypatch.setenv("ROBUSTGEN_DEVICE", name)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", asked.append, raising=False)
    monkeypatch.setattr(torch, "empty", lambda *size, **how: made(*size, dtype=how.get("dtype")))
    assert device.setup() == torch.device(name)
    assert asked == chosen
    monkeypatch.undo()
    device.setup()
