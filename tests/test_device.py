import pytest
import torch

from robustgen import device
from robustgen.errors import UserError


def test_torch_is_made_deterministic():
    assert device.setup() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, name):
    monkeypatch.setenv("ROBUSTGEN_DEVICE", name)
    with pytest.raises(UserError, match=f"ROBUSTGEN_DEVICE is '{name}', which cannot be used"):
        device.setup()
