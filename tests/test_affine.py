import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen.data import decoders
from robustgen.specs import PARAMETER_RANGES


def warp_by_definition(image: np.ndarray, parameters: list[float]) -> np.ndarray:
    """Warp by the decoder of the paper, pixel by pixel: sample the input at M (x, y, 1)."""
    t_x, t_y, h_x, h_y, s, r = parameters
    c, d = math.cos(r), math.sin(r)
    matrix = s * np.array([[c - h_x * d, h_x * c - d], [h_y * c + d, c - h_y * d]])
    height, width = image.shape
    warped = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            output = np.array([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1])
            x, y = matrix @ output + np.array([t_x, t_y])
            x, y = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        warped[row, column] += image[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return warped


@pytest.mark.parametrize("name", ["easy", "moderate", "hard"])
@pytest.mark.parametrize("shape", [(28, 28), (9, 14)], ids=["square", "oblong"])
def test_warp_equals_the_definition_of_the_paper(name, shape):
    lower, upper = decoders.parameter_bounds(name)
    rng = torch.Generator().manual_seed(3)
    images = torch.rand(5, 1, *shape, generator=rng)
    parameters = lower + (upper - lower) * torch.rand(5, 6, generator=rng)
    warped = decoders.warp(images, parameters)
    for image, code, warped_image in zip(images, parameters, warped, strict=True):
        expected = warp_by_definition(image[0].double().numpy(), code.tolist())
        np.testing.assert_allclose(warped_image[0].numpy(), expected, atol=2e-4)


CASES = {
    "identity": ([0, 0, 0, 0, 1, 0], lambda x: x),
    "a pixel to the left": ([2 / 27, 0, 0, 0, 1, 0], lambda x: shift(x, -1, 2)),
    "a pixel up": ([0, 2 / 27, 0, 0, 1, 0], lambda x: shift(x, -1, 1)),
    "a quarter turn": ([0, 0, 0, 0, 1, math.pi / 2], lambda x: x.rot90(1, (1, 2))),
}


def shift(image: torch.Tensor, pixels: int, axis: int) -> torch.Tensor:
    shifted = image.roll(pixels, axis)
    shifted.select(axis, -1).zero_()
    return shifted


@pytest.mark.parametrize(("parameters", "expected"), CASES.values(), ids=CASES.keys())
def test_known_warps(parameters, expected):
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    warped = decoders.warp(image[None], torch.tensor([parameters], dtype=torch.float32))[0]
    torch.testing.assert_close(warped, expected(image.clone()), atol=1e-4, rtol=0)


def test_ranges_are_those_of_the_paper():
    assert PARAMETER_RANGES["hard"] == (
        (-0.2, -0.2, -0.5, -0.5, 0.75, -math.pi / 2),
        (0.2, 0.2, 0.5, 0.5, 1.15, math.pi / 2),
    )
    assert PARAMETER_RANGES["moderate"][1] == (0.2, 0.2, 0.4, 0.4, 1.15, math.pi / 3)
    assert PARAMETER_RANGES["slight"] == (
        (-0.15, -0.15, -0.2, -0.2, 0.85, -math.pi / 10),
        (0.15, 0.15, 0.2, 0.2, 1.15, math.pi / 10),
    )
    assert PARAMETER_RANGES["easy"][0] == (-0.1, -0.1, -0.2, -0.2, 0.9, -math.pi / 6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(PARAMETER_RANGES)))
def test_warped_images_stay_in_range_and_keep_their_leading_shape(seed, name):
    rng = torch.Generator().manual_seed(seed)
    lower, upper = decoders.parameter_bounds(name)
    codes = lower + (upper - lower) * torch.rand(2, 3, 6, generator=rng)
    warped = decoders.warp(torch.rand(2, 3, 1, 12, 12, generator=rng), codes)
    assert warped.shape == (2, 3, 1, 12, 12)
    assert warped.min() >= 0
    assert warped.max() <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(28, 28), (9, 14)], ids=["square", "oblong"])
def test_the_grid_and_its_gradient_equal_those_of_torch(shape):
    rng = torch.Generator().manual_seed(4)
    matrices = torch.rand(5, 2, 3, generator=rng, dtype=torch.float64).requires_grad_()
    grid = decoders._sampling_grid(matrices, *shape)
    expected = F.affine_grid(matrices, [5, 1, *shape], align_corners=True)
    grad_grid = torch.rand(grid.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(grid, expected)
    (gradient,) = torch.autograd.grad(grid, matrices, grad_grid)
    (expected_gradient,) = torch.autograd.grad(expected, matrices, grad_grid)
    torch.testing.assert_close(gradient, expected_gradient)


def test_matrices_keep_the_leading_shape_of_their_parameters():
    parameters = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0))
    expected = decoders.affine_matrices(parameters.flatten(0, 1))
    assert torch.equal(decoders.affine_matrices(parameters), expected.view(2, 3, 2, 3))
