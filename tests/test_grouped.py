"""The Triton kernels of convolutions, run by Triton's interpreter, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_cohort
from torch import nn

from robustgen.acceleration import batched_forward
from robustgen.acceleration.cuda import grouped_conv
from robustgen.acceleration.cuda.conv_geometry import ConvGeometry
from robustgen.acceleration.cuda.forward import build_fused_forward
from robustgen.acceleration.fold_batch_norm import fold_batch_norm
from robustgen.acceleration.supported_layers import is_supported
from robustgen.backend import vmapped_forward

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("test_gpu.py tests the kernels on a GPU", allow_module_level=True)

CASES = {
    "first layer": (2, 1, 16, 4, 2, 1, (12, 12)),
    "second layer": (3, 16, 32, 4, 2, 1, (8, 8)),
    "odd sides": (1, 4, 40, 4, 2, 1, (7, 10)),
    "stride of 1": (2, 3, 5, 3, 1, 1, (5, 6)),
    "many channels of pixels": (1, 20, 20, 6, 2, 2, (9, 8)),
    "oblong": (2, 2, 4, (4, 2), 2, (1, 0), (8, 6)),
    "a linear layer": (3, 70, 10, 1, 1, 0, (1, 1)),
}
"""Groups, input and output channels per group, kernel size, stride, padding, size of the images."""
TOLERANCE = dict(atol=1e-5, rtol=1e-5)


@pytest.fixture
def supported_layers(monkeypatch):
    """Make the kernels compute all layers; the list of the types that they were asked for."""
    layer_types = []

    def supports(layer: nn.Module, _: torch.Tensor) -> bool:
        layer_types.append(type(layer).__name__)
        return True

    monkeypatch.setattr(grouped_conv, "supports", supports)
    return layer_types


def make_case(name):
    """A grouped convolution of PyTorch, its geometry, and images."""
    groups, in_channels, out_channels, kernel_size, stride, padding, sides = CASES[name]
    rng = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(
        groups * in_channels, groups * out_channels, kernel_size, stride, padding, groups=groups
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / 4)
    one_group = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
    geometry = ConvGeometry.from_layer(one_group, groups)
    images = torch.randn(3, groups * in_channels, *sides, generator=rng)
    return layer, geometry, images.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("name", CASES)
def test_the_convolution_and_its_gradients_equal_pytorchs(name):
    layer, geometry, images = make_case(name)
    inputs = images, layer.weight, layer.bias
    expected = layer(images)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected_gradients = torch.autograd.grad(expected, inputs, upstream)
    output = grouped_conv.grouped_conv2d(*inputs, geometry)
    gradients = torch.autograd.grad(output, inputs, upstream)
    torch.testing.assert_close(output, expected, **TOLERANCE)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_relus_before_and_after_the_convolution_are_computed_with_it(name):
    layer, geometry, images = make_case(name)
    relu_images = images.relu()
    expected = layer(relu_images).relu()
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected_gradient,) = torch.autograd.grad(expected, images, upstream)
    weight = layer.weight.detach()
    x, unrectified = (
        grouped_conv.to_grouped(tensor.detach(), geometry.groups)
        for tensor in (relu_images, images)
    )
    forward_weight = grouped_conv.pack_forward_weight(weight, geometry)
    output = grouped_conv.conv_forward(
        x, forward_weight, layer.bias.detach(), geometry, relu=True, interleaved=True
    )
    torch.testing.assert_close(grouped_conv.from_grouped(output), expected.detach(), **TOLERANCE)
    masked_upstream = upstream * (expected > 0)
    gradient = grouped_conv.conv_input_grad(
        grouped_conv.to_grouped(masked_upstream, geometry.groups),
        grouped_conv.pack_backward_weight(weight, geometry),
        x.shape[2:4],
        geometry,
        relu_output=unrectified,  # positive at the same numbers as its ReLU
        interleaved=True,
    )
    torch.testing.assert_close(grouped_conv.from_grouped(gradient), expected_gradient, **TOLERANCE)


@pytest.mark.slow
def test_the_forward_pass_of_an_attacked_cohort_equals_the_plain_one(supported_layers, monkeypatch):
    monkeypatch.setattr(batched_forward, "MODELS_PER_CHUNK", 2)
    cohort = make_cohort([0, 1], (1, 16, 16), classes=3).eval()
    images = torch.rand(2, 4, 1, 16, 16).requires_grad_()
    model, state = fold_batch_norm(*cohort._module_and_state())
    expected = vmapped_forward(model, state)(images)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), images)
    logits = batched_forward.batched_forward(model, state)(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)
    assert supported_layers.count("Conv2d") == 3
    assert supported_layers.count("Linear") == 2


@pytest.mark.slow
def test_the_gradients_of_a_training_cohort_equal_those_of_single_models(supported_layers):
    cohort = make_cohort([0, 1], (1, 16, 16), classes=3)
    members = [cohort.member(i).train() for i in range(2)]
    images = torch.rand(2, 6, 1, 16, 16)
    logits = batched_forward.batched_forward(*cohort.train()._module_and_state())(images)
    logits.square().sum().backward()
    for position, (model, member_images) in enumerate(zip(members, images, strict=True)):
        expected = model(member_images)
        expected.square().sum().backward()
        torch.testing.assert_close(logits[position], expected, **TOLERANCE)
        for name, parameter in model.named_parameters():
            stacked = cohort.stacked_params.get_parameter(name.replace(".", "__"))
            torch.testing.assert_close(stacked.grad[position], parameter.grad, atol=1e-4, rtol=1e-4)
    assert {"Conv2d", "Linear"} <= set(supported_layers)


def test_too_many_numbers_are_refused():
    geometry = ConvGeometry(1, 1, 2**20, (1, 1), (1, 1), (0, 0))
    images = torch.empty(1, 2**12, 1, 1, 1, device="meta")
    with pytest.raises(ValueError, match="4096 images in 1 groups are too many for one call"):
        grouped_conv.conv_forward(images, images, None, geometry)


def test_images_with_another_memory_layout_are_refused():
    geometry = ConvGeometry(1, 3, 4, (1, 1), (1, 1), (0, 0))
    images = torch.rand(1, 2, 3, 5, 4).transpose(2, 3)
    with pytest.raises(ValueError, match="the kernels need adjacent channels and one stride"):
        grouped_conv.conv_forward(images, images, None, geometry)


class SquaredLinear(nn.Linear):
    """A subclass that computes something else than its base class."""

    def forward(self, rows):
        return super().forward(rows).square()


MODELS = {
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


@pytest.mark.usefixtures("supported_layers")
@pytest.mark.parametrize("name", MODELS)
def test_a_fused_forward_pass_equals_the_plain_one(name):
    model = nn.Sequential(*MODELS[name]).eval()
    rng = torch.Generator().manual_seed(0)
    state = {
        key: torch.randn(2, *tensor.shape, generator=rng) / 3
        for key, tensor in model.state_dict().items()
    }
    images = torch.rand(2, 5, 3, 8, 8, generator=rng).requires_grad_()
    expected = vmapped_forward(model, state)(images)
    upstream = torch.randn(expected.shape, generator=rng)
    (expected_gradient,) = torch.autograd.grad(expected, images, upstream)
    forward = build_fused_forward(model, state)
    assert forward
    logits = forward(images)
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    (gradient,) = torch.autograd.grad(logits, images, upstream)
    torch.testing.assert_close(gradient, expected_gradient, **TOLERANCE)


@pytest.mark.usefixtures("supported_layers")
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
        [nn.Flatten(), SquaredLinear(192, 3)],
        [nn.Conv2d(3, 4, 8)],
    ],
    ids=[
        "a pooling",
        "a linear layer before the flattening",
        "a flattening at the end",
        "a ReLU at the start",
        "a ReLU after the flattening",
        "groups",
        "padding that is not zeros",
        "a subclass of a linear layer",
        "no flattening",
    ],
)
def test_a_model_that_the_kernels_do_not_support_gets_no_fused_forward_pass(layers):
    model = nn.Sequential(*layers).eval()
    state = {name: tensor.expand(2, *tensor.shape) for name, tensor in model.state_dict().items()}
    assert build_fused_forward(model, state) is None


def test_a_machine_without_triton_is_reported_in_the_log(caplog):
    grouped_conv.is_triton_available.cache_clear()
    assert not grouped_conv.is_triton_available()  # without a GPU nothing can be compiled
    assert "Triton is not available, so PyTorch's slower convolutions are used" in caplog.text
    grouped_conv.is_triton_available.cache_clear()


def test_one_image_of_each_model_is_convolved_with_its_own_weights():
    layer, geometry, images = make_case("second layer")
    expected = F.conv2d(images[:1], layer.weight, layer.bias, 2, 1, groups=3)
    output = grouped_conv.grouped_conv2d(images[:1], layer.weight, layer.bias, geometry)
    torch.testing.assert_close(output, expected, **TOLERANCE)


@pytest.mark.parametrize("layer_type", [nn.Conv2d, nn.Linear, nn.ReLU])
def test_subclasses_of_supported_layers_are_not_supported(layer_type):
    arguments = {nn.Conv2d: (3, 4, 2), nn.Linear: (8, 2), nn.ReLU: ()}[layer_type]
    assert is_supported(layer_type(*arguments))
    assert not is_supported(type("Subclass", (layer_type,), {})(*arguments))
