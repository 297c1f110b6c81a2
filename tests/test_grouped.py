"""The Triton kernels, by Triton's interpreter, beside PyTorch's convolutions."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_cohort
from torch import nn

from robustgen.acceleration import batched_forward as stacking
from robustgen.acceleration.cuda import forward as chain
from robustgen.acceleration.cuda import grouped_conv as grouped
from robustgen.acceleration.cuda.conv_geometry import How
from robustgen.acceleration.fold_batch_norm import fold_batch_norm
from robustgen.acceleration.supported_layers import is_supported

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("what the kernels compute on a GPU is in test_gpu.py", allow_module_level=True)

CASES = {
    "first layer": (2, 1, 16, 4, 2, 1, (12, 12)),
    "second layer": (3, 16, 32, 4, 2, 1, (8, 8)),
    "odd sides": (1, 4, 40, 4, 2, 1, (7, 10)),
    "stride of 1": (2, 3, 5, 3, 1, 1, (5, 6)),
    "many channels of pixels": (1, 20, 20, 6, 2, 2, (9, 8)),
    "oblong": (2, 2, 4, (4, 2), 2, (1, 0), (8, 6)),
    "a linear layer": (3, 70, 10, 1, 1, 0, (1, 1)),
}
"""Groups, channels in and out of each, kernel, stride, padding, sides of the images."""
TOLERANCE = dict(atol=1e-5, rtol=1e-5)


@pytest.fixture
def everywhere(monkeypatch):
    """All layers of a chain by the kernels; the names of what they were asked for."""
    asked = []

    def applies(layer: nn.Module, _: torch.Tensor) -> bool:
        asked.append(type(layer).__name__)
        return True

    monkeypatch.setattr(grouped, "applies", applies)
    return asked


def case(name):
    """A layer of all groups, how it goes, and images."""
    groups, channels, outputs, kernel, stride, padding, sides = CASES[name]
    rng = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(groups * channels, groups * outputs, kernel, stride, padding, groups=groups)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 4)
    how = How.of(nn.Conv2d(channels, outputs, kernel, stride, padding), groups)
    images = torch.randn(3, groups * channels, *sides, generator=rng)
    return layer, how, images.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("name", CASES)
def test_the_convolution_and_its_gradients_are_pytorchs(name):
    layer, how, images = case(name)
    plain = layer(images)
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    wanted = torch.autograd.grad(plain, (images, layer.weight, layer.bias), upstream)
    made = grouped.convolve(images, layer.weight, layer.bias, how)
    found = torch.autograd.grad(made, (images, layer.weight, layer.bias), upstream)
    torch.testing.assert_close(made, plain, **TOLERANCE)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_relu_before_and_after_are_part_of_the_convolution(name):
    layer, how, images = case(name)
    before = images.relu()
    plain = layer(before).relu()
    upstream = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    (wanted,) = torch.autograd.grad(plain, images, upstream)
    weight = layer.weight.detach()
    forth = grouped.taps_of_outputs(weight, how)
    back = grouped.taps_of_inputs(weight, how)
    x, kept = (grouped.apart(of, how.groups) for of in (before.detach(), images.detach()))
    made = grouped.forward(x, forth, layer.bias.detach(), how, rectified=True, beside=True)
    torch.testing.assert_close(grouped.together(made), plain.detach(), **TOLERANCE)
    masked = upstream * (plain > 0)
    found = grouped.to_input(
        grouped.apart(masked, how.groups), back, x.shape[2:4], how, kept=kept, beside=True
    )
    torch.testing.assert_close(grouped.together(found), wanted, **TOLERANCE)


def test_the_pass_of_a_cohort_is_the_plain_one(everywhere, monkeypatch):
    monkeypatch.setattr(stacking, "MODELS_PER_CHUNK", 2)
    cohort = make_cohort([0, 1], (1, 16, 16), classes=3).eval()
    images = torch.rand(2, 4, 1, 16, 16).requires_grad_()
    model, state = fold_batch_norm(*cohort._module_and_state())
    plain = stacking.vmapped_forward(model, state)(images)
    (wanted,) = torch.autograd.grad(plain.square().sum(), images)
    made = stacking.batched_forward(model, state)(images)
    (found,) = torch.autograd.grad(made.square().sum(), images)
    torch.testing.assert_close(made, plain, **TOLERANCE)
    torch.testing.assert_close(found, wanted, **TOLERANCE)
    assert everywhere.count("Conv2d") == 3
    assert everywhere.count("Linear") == 2


def test_a_cohort_learns_as_single_models_do(everywhere):
    cohort = make_cohort([0, 1], (1, 16, 16), classes=3)
    singles = [cohort.member(i).train() for i in range(2)]
    images = torch.rand(2, 6, 1, 16, 16)
    made = stacking.batched_forward(*cohort.train()._module_and_state())(images)
    made.square().sum().backward()
    for position, (model, own) in enumerate(zip(singles, images, strict=True)):
        plain = model(own)
        plain.square().sum().backward()
        torch.testing.assert_close(made[position], plain, **TOLERANCE)
        for name, parameter in model.named_parameters():
            stack = cohort.stacked_params.get_parameter(name.replace(".", "__"))
            torch.testing.assert_close(stack.grad[position], parameter.grad, atol=1e-4, rtol=1e-4)
    assert {"Conv2d", "Linear"} <= set(everywhere)


def test_too_many_numbers_are_refused():
    how = How(1, 1, 2**20, (1, 1), (1, 1), (0, 0))
    images = torch.empty(1, 2**12, 1, 1, 1, device="meta")
    with pytest.raises(ValueError, match="4096 images of 1 models are too many"):
        grouped.forward(images, images, None, how)


def test_images_that_lie_otherwise_are_refused():
    how = How(1, 3, 4, (1, 1), (1, 1), (0, 0))
    images = torch.rand(1, 2, 3, 5, 4).transpose(2, 3)
    with pytest.raises(ValueError, match="lie in memory with strides"):
        grouped.forward(images, images, None, how)


class Own(nn.Linear):
    """What its name does not say."""

    def forward(self, rows):
        return super().forward(rows).square()


CHAINS = {
    "colour": [nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)],
    "no convolution": [nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 3)],
    "a ReLU at the end": [nn.Conv2d(3, 4, 2, 2), nn.Flatten(), nn.Linear(64, 3), nn.ReLU()],
    "flattened twice": [nn.Flatten(), nn.Flatten(), nn.Linear(192, 3)],
    "without biases": [
        nn.Conv2d(3, 4, 4, 2, 1, bias=False),
        nn.Conv2d(4, 6, 3, 1, 1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 3, bias=False),
    ],
}


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_the_plain_one(name):
    model = nn.Sequential(*CHAINS[name]).eval()
    rng = torch.Generator().manual_seed(0)
    state = {k: torch.randn(2, *v.shape, generator=rng) / 3 for k, v in model.state_dict().items()}
    images = torch.rand(2, 5, 3, 8, 8, generator=rng).requires_grad_()
    plain = stacking.vmapped_forward(model, state)(images)
    upstream = torch.randn(plain.shape, generator=rng)
    (wanted,) = torch.autograd.grad(plain, images, upstream)
    passed = chain.chain(model, state)
    assert passed
    made = passed(images)
    torch.testing.assert_close(made, plain, **TOLERANCE)
    (found,) = torch.autograd.grad(made, images, upstream)
    torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 4, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)],
        [nn.Linear(8, 3), nn.Flatten()],
        [nn.Conv2d(3, 4, 4, 2, 1), nn.Flatten()],
        [nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)],
        [nn.Conv2d(3, 4, 4, 2, 1), nn.Flatten(), nn.ReLU(), nn.Linear(64, 3)],
        [nn.Conv2d(3, 6, 4, 2, 1, groups=3), nn.Flatten(), nn.Linear(96, 3)],
        [nn.Conv2d(3, 4, 4, 2, 1, padding_mode="reflect"), nn.Flatten(), nn.Linear(64, 3)],
        [nn.Flatten(), Own(192, 3)],
        [nn.Conv2d(3, 4, 8)],
    ],
    ids=[
        "a pooling",
        "rows of pixels",
        "no end",
        "a ReLU at the start",
        "a ReLU of rows",
        "groups",
        "padding that is not zeros",
        "a linear layer of one's own",
        "no rows",
    ],
)
def test_other_chains_are_left_to_others(layers):
    model = nn.Sequential(*layers).eval()
    state = {name: of.expand(2, *of.shape) for name, of in model.state_dict().items()}
    assert chain.chain(model, state) is None


def test_without_a_compiler_pytorchs_own_are_taken(caplog):
    grouped.works.cache_clear()
    assert not grouped.works()  # no GPU that could be compiled for
    assert "so convolutions are PyTorch's" in caplog.text
    grouped.works.cache_clear()


def test_the_order_of_images_and_models_is_that_of_functional_convolutions():
    layer, how, images = case("second layer")
    plain = F.conv2d(images[:1], layer.weight, layer.bias, 2, 1, groups=3)
    made = grouped.convolve(images[:1], layer.weight, layer.bias, how)
    torch.testing.assert_close(made, plain, **TOLERANCE)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear, nn.ReLU])
def test_a_layer_with_a_pass_of_its_own_is_not_known(kind):
    arguments = {nn.Conv2d: (3, 4, 2), nn.Linear: (8, 2), nn.ReLU: ()}[kind]
    assert is_supported(kind(*arguments))
    assert not is_supported(type("Own", (kind,), {})(*arguments))
