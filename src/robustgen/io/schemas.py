"""The schema of every Parquet table: names, types, units and meaning of the columns.

The field metadata travels in the files, so that a table can be read without this package.
"""

from typing import Any

import pyarrow as pa

CLEAN = "clean"
"""The name, among attacks, of the unchanged test images."""
PARAMETERS = ("t_x", "t_y", "shear_x", "shear_y", "scale", "rotation")


def _field(name: str, kind: pa.DataType, unit: str, about: str, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"unit": unit, "description": about})


_SEED = _field("seed", pa.int32(), "1", "seed of the model, which names it within its cohort")
_EXAMPLE = _field("example", pa.int32(), "1", "row of the image in its split")
_LABEL = _field("label", pa.int32(), "class", "true class")
_TIE = "-1 if its highest logits are equal, which is wrong for every label"
_PREDICTION = _field(
    "prediction", pa.int32(), "class", f"class that the model predicts for the clean image; {_TIE}"
)
_EPOCH = _field("epoch", pa.int32(), "1", "epoch, from 1")
_RATE = _field("rate", pa.float64(), "1", "learning rate in the epoch")
_STUDY_KEYS = [
    _field("dataset", pa.string(), "", "data set"),
    _field("method", pa.string(), "", "training method"),
    _field("n", pa.int32(), "images", "number of training images, N"),
]
_ATTACK = _field("attack", pa.string(), "", "attack")
_ATTACK_OR_CLEAN = _field("attack", pa.string(), "", f"attack; `{CLEAN}` for clean test images")
_INTERVAL = [
    _field("low", pa.float64(), "as estimate", "lower end of the 95 % interval", null=True),
    _field("high", pa.float64(), "as estimate", "upper end of the 95 % interval", null=True),
]

FONTS = pa.schema(
    [
        _field("font", pa.int32(), "1", "row of the font in the prototypes"),
        _field("family", pa.string(), "", "font family"),
        _field("style", pa.string(), "", "named style"),
        _field("file", pa.string(), "", "name of the font file"),
        _field("sha256", pa.string(), "", "digest of the font file"),
        _field("license", pa.string(), "", "licence as the package states it"),
    ]
)

EXAMPLES = pa.schema(
    [
        _field("split", pa.dictionary(pa.int8(), pa.string()), "", "train or test"),
        _LABEL,
        _field("source", pa.int32(), "1", "row of the source image in the bank of images"),
    ]
)
"""An image of a data set: a row of the bank, warped by the parameters where there are any."""

CODES = pa.schema(
    [
        *EXAMPLES,
        _field("font", pa.int32(), "1", "row of the font in the table of fonts"),
        _field("letter", pa.string(), "", "the letter, whose place among the classes is the label"),
        _field("t_x", pa.float32(), "half widths", "translation along x"),
        _field("t_y", pa.float32(), "half heights", "translation along y"),
        _field("shear_x", pa.float32(), "1", "shear along x"),
        _field("shear_y", pa.float32(), "1", "shear along y"),
        _field("scale", pa.float32(), "1", "scale of the sampling grid"),
        _field("rotation", pa.float32(), "rad", "rotation of the sampling grid"),
    ]
)

CURVES = pa.schema(
    [
        _SEED,
        _EPOCH,
        _RATE,
        _field("loss_clean", pa.float32(), "nat", "mean cross-entropy on clean images"),
        _field("error_clean", pa.float32(), "share", "misclassified clean images"),
        _field("loss_attacked", pa.float32(), "nat", "the same, perturbed half", null=True),
        _field("error_attacked", pa.float32(), "share", "the same, perturbed half", null=True),
        _field(
            "success_rate",
            pa.float32(),
            "share",
            "perturbed training images that the model in eval mode misclassifies at the end of the "
            "search",
            null=True,
        ),
    ]
)

VAEGAN_CURVES = pa.schema(
    [
        _EPOCH,
        _RATE,
        _field("divergence", pa.float64(), "nat", "mean divergence of posterior from prior"),
        _field("l1", pa.float64(), "pixel values", "mean L1 distance of reconstructions"),
        _field(
            "fooled",
            pa.float64(),
            "nat",
            "mean cross-entropy of the discriminator on decoded images labelled as real",
            null=True,
        ),
        _field("told", pa.float64(), "nat", "mean loss of the discriminator", null=True),
    ]
)
"""The last two losses are cross-entropies: of the decoder to have its images taken for real, and of
the discriminator over both halves. Null for a VAE, which has no discriminator."""

_SHARE = [
    ("right", "test images"),
    ("reconstructions_right", "reconstructions of test images"),
    ("reconstructions_kept", "reconstructions of the test images counted in `right`"),
    ("steps_kept", "reconstructions counted in `reconstructions_right`, after a random step"),
    ("samples_right", "samples of the prior within the bounds; null where they have no class"),
]
_MEASURES = (
    ("l1", "pixel values", "mean L1 distance of reconstructions"),
    ("l2", "pixel values", "mean L2 distance of reconstructions"),
    ("code_mean", "1", "mean of the codes, RMS over coordinates; prior: 0"),
    ("code_variance", "1", "variance of the codes, mean over coordinates"),
    (
        "posterior_variance",
        "1",
        "mean variance of the posterior; prior: 1 minus code_variance",
    ),
    ("beyond_bound", "share", "coordinates beyond the bound; prior: 0.046"),
)
QUALITY = pa.schema(
    [
        _STUDY_KEYS[0],
        _field("space", pa.string(), "", "the learned manifold"),
        _LABEL.with_nullable(True),
        _field("class", pa.string(), "", "the name of the class", null=True),
        _field("images", pa.int32(), "images", "test images of the class"),
        *(
            _field(name, pa.float64(), unit, description, null=True)
            for name, unit, description in _MEASURES
        ),
        *(
            _field(name, pa.float64(), "share", f"{about}: correctly classified", null=True)
            for name, about in _SHARE
        ),
        _field("radius", pa.float64(), "code", "size of the random steps"),
    ]
)
"""A row per data set, learned manifold and class, and one, of no class, over all classes."""

PREDICTIONS = pa.schema([_SEED, _EXAMPLE, _LABEL, _PREDICTION])

_SIZES = [
    _field(
        f"{where}_{norm}", pa.float32(), norm, f"size of the perturbation in {where} coordinates"
    )
    for where in ("image", "code")
    for norm in ("l1", "l2", "linf")
]
_SUCCESS = (
    "the model classifies the clean image correctly and the example, as saved, incorrectly, and "
    "the example is within the threat and the bounds of its space, but for rounding"
)
ATTACKS = pa.schema(
    [
        _SEED,
        _EXAMPLE,
        _LABEL,
        _PREDICTION,
        _field(
            "start_correct",
            pa.bool_(),
            "",
            "the unperturbed code decodes to a correctly classified image",
        ),
        _field("answer", pa.int32(), "class", f"class predicted for the example as saved; {_TIE}"),
        _field("success", pa.bool_(), "", _SUCCESS),
        _field("iterations", pa.int32(), "1", "iterations to success", null=True),
        _field("restart", pa.int32(), "1", "restart of the success, from 0", null=True),
        _field("loss", pa.float32(), "nat", "cross-entropy of the example as saved"),
        *_SIZES,
    ]
)

DISTANCES = pa.schema(
    [
        _SEED.with_nullable(True),
        _EXAMPLE,
        _ATTACK_OR_CLEAN,
        _field("success", pa.bool_(), "", "the example is a success of its attack"),
        *(
            _field(f"{manifold}_{measure}", pa.float32(), unit, about + what, null=True)
            for manifold, what in (
                ("true_manifold", "the known manifold"),
                ("learned_manifold", "the manifold learned of the class, or else of all classes"),
            )
            for measure, unit, about in (
                ("distance", "L2", "to "),
                ("angle", "degree", "from the image of the unperturbed code, to "),
            )
        ),
        _field("neighbour_distance", pa.float32(), "L2", "to the span of nearest images"),
        _field("neighbour_angle", pa.float32(), "degree", "perturbation to that span", null=True),
    ]
)

ERRORS = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _field("examples", pa.int32(), "images", "test images"),
        _field("errors", pa.int32(), "images", "misclassified test images"),
        _field("test_error", pa.float64(), "share", "misclassified test images"),
        *_INTERVAL,
    ]
)
"""One row per model; Wilson interval."""

SUCCESS_RATES = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _ATTACK,
        _field(
            "attacked",
            pa.int32(),
            "images",
            "attacked test images that the model classifies correctly",
        ),
        _field("successes", pa.int32(), "images", "successes among them"),
        _field("success_rate", pa.float64(), "share", "successes / attacked", null=True),
        *_INTERVAL,
        _field("attacked_from_right", pa.int32(), "images", "attacked with start_correct"),
        _field("successes_from_right", pa.int32(), "images", "successes with start_correct"),
        _field(
            "success_rate_from_right",
            pa.float64(),
            "share",
            "successes_from_right / attacked_from_right",
            null=True,
        ),
    ]
)
"""One row per model and attack; Wilson interval of `success_rate`."""

OVER_SEEDS = pa.schema(
    [
        *_STUDY_KEYS,
        _field("measure", pa.string(), "", "test_error, success_rate or success_rate_from_right"),
        _ATTACK.with_nullable(True),
        _field("seeds", pa.int32(), "models", "models averaged"),
        _field("mean", pa.float64(), "share", "mean over seeds"),
        *_INTERVAL,
    ]
)
"""One row per (data set, method, N, measure); t interval over seeds."""

ALL_DISTANCES = pa.schema(
    [f.with_nullable(f.name != "dataset") for f in _STUDY_KEYS] + [*DISTANCES]
)
"""`DISTANCES` of the whole study; method, n and seed are null for clean images."""

CLAIMS = pa.schema(
    [
        _field("claim", pa.int32(), "1", "number of the claim, 1 to 4"),
        _field("dataset", pa.string(), "", "data set"),
        _field("manifold", pa.string(), "", "the manifold it is tested on, if on one", null=True),
        _field("statistic", pa.string(), "", "what tests the claim"),
        _field("n", pa.int32(), "images", "N, where the statistic is for one N", null=True),
        _field("estimate", pa.float64(), "see rule", "the statistic", null=True),
        *_INTERVAL,
        _field("rule", pa.string(), "", "the rule from interval to verdict"),
        _field("verdict", pa.string(), "", "supported, not supported or undecided"),
    ]
)


def empty(schema: pa.Schema) -> dict[str, list[Any]]:
    """Columns to append to, one empty list per field of `schema`."""
    return {name: [] for name in schema.names}
