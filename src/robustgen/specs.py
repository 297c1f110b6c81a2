"""The bounds of the coordinates of spaces. Without PyTorch, so that a config is checked quickly."""

import math

BOUND = 2.0
"""Largest absolute value of a coordinate of a latent code, where the prior is standard normal
(Stutz et al., CVPR 2019, section 3.2)."""

RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    name: ((-t, -t, -h, -h, low, -r), (t, t, h, h, high, r))
    for name, (t, h, low, high, r) in {
        "slight": (0.15, 0.2, 0.85, 1.15, math.pi / 10),
        "easy": (0.1, 0.2, 0.9, 1.1, math.pi / 6),
        "moderate": (0.2, 0.4, 0.85, 1.15, math.pi / 3),
        "hard": (0.2, 0.5, 0.75, 1.15, math.pi / 2),
    }.items()
}
"""Lower and upper bounds of the six affine parameters, by the name of the transformations.

"hard" is the paper's FONTS, "slight" its EMNIST, Fashion-MNIST and CelebA.
"""
