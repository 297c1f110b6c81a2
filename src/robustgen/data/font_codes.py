"""FONTS: random codes of letters, on a manifold that is known exactly."""

import json

import numpy as np
import pyarrow as pa
import torch

from robustgen.data.decoders import parameter_bounds
from robustgen.data.split import balanced_order
from robustgen.io.schemas import CODES, PARAMETERS
from robustgen.sampling import make_generator


def draw_codes(
    *,
    study_seed: int,
    dataset: str,
    fonts: int,
    letters: str,
    transformations: str,
    train_images_per_glyph: int,
    test_images_per_glyph: int,
) -> pa.Table:
    """Draw the codes of FONTS (Stutz et al., CVPR 2019, section 3.1 and its supplement).

    For each glyph, that is, each letter in each font, `train_images_per_glyph` codes are drawn for
    training and `test_images_per_glyph` for testing. Their six parameters are uniform in the ranges
    called `transformations`. The codes of a letter do not depend on the other letters.

    Returns:
        A table of `schemas.CODES`, train before test, each split in the balanced order that
        `data.split` describes. The `source_index` of a row is `font * len(letters) + label`.
    """
    lower, upper = parameter_bounds(transformations)
    classes = len(letters)
    tables = []
    splits = (("train", train_images_per_glyph), ("test", test_images_per_glyph))
    for split, images_per_glyph in splits:
        rngs = [make_generator(study_seed, "codes", dataset, split, letter) for letter in letters]
        source_index = np.repeat(np.arange(fonts * classes), images_per_glyph)
        source_index = source_index[balanced_order(source_index % classes, rngs)]
        shape = fonts * images_per_glyph, 6
        uniform = torch.stack([torch.rand(shape, generator=rng) for rng in rngs], 1)
        codes = lower + (upper - lower) * uniform.flatten(0, 1)
        codes = codes.clamp(lower, upper)  # rounding may exceed the bounds
        split_names = pa.array(np.full(len(source_index), split)).cast(CODES.field("split").type)
        columns = {
            "split": split_names,
            "label": source_index % classes,
            "source_index": source_index,
            "font": source_index // classes,
            "letter": np.array(list(letters))[source_index % classes],
            **dict(zip(PARAMETERS, codes.numpy().T, strict=True)),
        }
        tables.append(pa.table(columns))
    metadata = {"ranges": transformations, "classes": json.dumps(list(letters))}
    return pa.concat_tables(tables).cast(CODES).replace_schema_metadata(metadata)
