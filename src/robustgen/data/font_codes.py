"""FONTS: random codes of letters, on a manifold that is known exactly."""

import json

import numpy as np
import pyarrow as pa
import torch

from robustgen.data import affine
from robustgen.data.split import balanced_order
from robustgen.io.schemas import CODES, PARAMETERS
from robustgen.seeding import generator


def draw_codes(
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

    For every letter of every font, `train_draws` codes are drawn for training and `test_draws` for
    testing. Their six parameters are uniform in the ranges called `transformations`. The codes of a
    letter do not depend on the other letters.

    Returns:
        A table of `schemas.CODES`, train before test, each split in the balanced order that
        `data.split` describes. The `source` of a row is `font * len(letters) + label`.
    """
    lower, upper = affine.parameter_bounds(transformations)
    classes = len(letters)
    tables = []
    for split, draws in (("train", train_draws), ("test", test_draws)):
        rngs = [generator(study_seed, "codes", dataset, split, letter) for letter in letters]
        source = np.repeat(np.arange(fonts * classes), draws)
        source = source[balanced_order(source % classes, rngs)]
        uniform = torch.stack([torch.rand((fonts * draws, 6), generator=rng) for rng in rngs], 1)
        codes = lower + (upper - lower) * uniform.flatten(0, 1)
        codes = codes.clamp(lower, upper)  # rounding may exceed the bounds
        split_names = pa.array(np.full(len(source), split)).cast(CODES.field("split").type)
        columns = {
            "split": split_names,
            "label": source % classes,
            "source": source,
            "font": source // classes,
            "letter": np.array(list(letters))[source % classes],
            **dict(zip(PARAMETERS, codes.numpy().T, strict=True)),
        }
        tables.append(pa.table(columns))
    metadata = {"ranges": transformations, "classes": json.dumps(list(letters))}
    return pa.concat_tables(tables).cast(CODES).replace_schema_metadata(metadata)
