import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen.data import affine


def warped_by_hand(image: np.ndarray, parameters: list[float]) -> np.ndarray:
    """The decoder of the paper, pixel by pixel: sample the input at M (x, y, 1)."""
    t_x, t_y, h_x, h_y, s, r = parameters
    c, d = math.cos(r), math.sin(r)
    matrix = s * np.array([[c - h_x * d, h_x * c - d], [h_y * c + d, c - h_y * d]])
    height, width = image.shape
    out = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            at = np.array([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1])
            x, y = matrix @ at + np.array([t_x, t_y])
            x, y = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        out[row, column] += image[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return out


@pytest.mark.parametrize("name", ["easy", "moderate", "hard"])
@pytest.mark.parametrize("shape", [(28, 28), (9, 14)], ids=["square", "oblong"])
def test_decoder_equals_a_hand_computed_warp(name, shape):
    low, high = affine.bounds(name)
    rng = torch.Generator().manual_seed(3)
    images = torch.rand(5, 1, *shape, generator=rng)
    parameters = low + (high - low) * torch.rand(5, 6, generator=rng)
    warped = affine.transform(images, parameters)
    for image, code, got in zip(images, parameters, warped, strict=True):
        expected = warped_by_hand(image[0].double().numpy(), code.tolist())
        np.testing.assert_allclose(got[0].numpy(), expected, atol=2e-4)


CASES = {
    "identity": ([0, 0, 0, 0, 1, 0], lambda x: x),
    "a pixel to the left": ([2 / 27, 0, 0, 0, 1, 0], lambda x: shifted(x, -1, 2)),
    "a pixel up": ([0, 2 / 27, 0, 0, 1, 0], lambda x: shifted(x, -1, 1)),
    "a quarter turn": ([0, 0, 0, 0, 1, math.pi / 2], lambda x: x.rot90(1, (1, 2))),
}


def shifted(image: torch.Tensor, by: int, axis: int) -> torch.Tensor:
    moved = image.roll(by, axis)
    moved.select(axis, -1).zero_()
    return moved


@pytest.mark.parametrize(("parameters", "expected"), CASES.values(), ids=CASES.keys())
def test_known_warps(parameters, expected):
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    got = affine.transform(image[None], torch.tensor([parameters], dtype=torch.float32))[0]
    torch.testing.assert_close(got, expected(image.clone()), atol=1e-4, rtol=0)


def test_ranges_are_the_papers():
    assert affine.RANGES["hard"] == (
        (-0.2, -0.2, -0.5, -0.5, 0.75, -math.pi / 2),
        (0.2, 0.2, 0.5, 0.5, 1.15, math.pi / 2),
    )
    assert affine.RANGES["moderate"][1] == (0.2, 0.2, 0.4, 0.4, 1.15, math.pi / 3)
    assert affine.RANGES["slight"] == (
        (-0.15, -0.15, -0.2, -0.2, 0.85, -math.pi / 10),
        (0.15, 0.15, 0.2, 0.2, 1.15, math.pi / 10),
    )
    assert affine.RANGES["easy"][0] == (-0.1, -0.1, -0.2, -0.2, 0.9, -math.pi / 6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(affine.RANGES)))
def test_images_stay_in_range_and_leading_shapes_are_kept(seed, name):
    rng = torch.Generator().manual_seed(seed)
    low, high = affine.bounds(name)
    codes = low + (high - low) * torch.rand(2, 3, 6, generator=rng)
    warped = affine.transform(torch.rand(2, 3, 1, 12, 12, generator=rng), codes)
    assert warped.shape == (2, 3, 1, 12, 12)
    assert warped.min() >= 0
    assert warped.max() <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(28, 28), (9, 14)], ids=["square", "oblong"])
def test_the_grid_and_its_gradient_are_torchs(shape):
    rng = torch.Generator().manual_seed(4)
    given = torch.rand(5, 2, 3, generator=rng, dtype=torch.float64).requires_grad_()
    made = affine._sampling_grid(given, *shape)
    expected = F.affine_grid(given, [5, 1, *shape], align_corners=True)
    towards = torch.rand(made.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(made, expected)
    (found,) = torch.autograd.grad(made, given, towards)
    torch.testing.assert_close(found, torch.autograd.grad(expected, given, towards)[0])
