"""FONTS: letters of many fonts, moved within a manifold that is known exactly."""

import json

import numpy as np
import pyarrow as pa
import torch

from robustgen.data import affine
from robustgen.data.split import interleave
from robustgen.io.schemas import CODES, PARAMETERS
from robustgen.seeding import generator


def draw(
    *,
    study_seed: int,
    dataset: str,
    fonts: int,
    letters: str,
    transformations: str,
    train_draws: int,
    test_draws: int,
) -> pa.Table:
    """Draw the codes of FONTS (Stutz et al., CVPR 2019, section 3.1 and its supplement).

    Every letter of every font is drawn `train_draws` times for training and `test_draws` times
    for testing, its six parameters uniform in the ranges called `transformations`. The images of a
    letter do not depend on which others there are.

    Returns:
        A table of `schemas.CODES`, train before test, each split in the balanced order that
        `datasets` describes; a row's `source` is `font * len(letters) + label`.
    """
    low, high = affine.bounds(transformations)
    classes = len(letters)
    parts = []
    for split, draws in (("train", train_draws), ("test", test_draws)):
        rngs = [generator(study_seed, "codes", dataset, split, letter) for letter in letters]
        source = np.repeat(np.arange(fonts * classes), draws)
        source = source[interleave(source % classes, rngs)]
        uniform = torch.stack([torch.rand((fonts * draws, 6), generator=rng) for rng in rngs], 1)
        codes = low + (high - low) * uniform.flatten(0, 1)
        codes = codes.clamp(low, high)  # rounding may step over the end
        columns = dict(zip(PARAMETERS, codes.numpy().T, strict=True))
        kind = CODES.field("split").type
        names = pa.array(np.full(len(source), split)).cast(kind)
        named = {"font": source // classes, "letter": np.array(list(letters))[source % classes]}
        parts.append(
            pa.table(
                {"split": names, "label": source % classes, "source": source, **named, **columns}
            )
        )
    about = {"ranges": transformations, "classes": json.dumps(list(letters))}
    return pa.concat_tables(parts).cast(CODES).replace_schema_metadata(about)
