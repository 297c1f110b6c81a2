"""The schema of every Parquet table: names, types, units and meaning of the columns.

Units and meanings are stored in the metadata of the fields of each file, so that a table can be
read without this package.
"""

from typing import Any

import pyarrow as pa

CLEAN = "clean"
"""The value of the column `attack` in rows of unperturbed test images."""
PARAMETERS = ("t_x", "t_y", "shear_x", "shear_y", "scale", "rotation")
"""Columns of the six affine parameters of an image of FONTS."""


def _field(
    name: str, dtype: pa.DataType, unit: str, description: str, *, nullable: bool = False
) -> pa.Field:
    metadata = {"unit": unit, "description": description}
    return pa.field(name, dtype, nullable=nullable, metadata=metadata)


_SEED = _field("seed", pa.int32(), "1", "seed of the model, which identifies it in its cohort")
_EXAMPLE = _field("example", pa.int32(), "1", "row of the image in its split")
_LABEL = _field("label", pa.int32(), "class", "true class")
_TIE = "-1 if its highest logits are equal, which counts as an error for every label"
_PREDICTION = _field(
    "prediction", pa.int32(), "class", f"class that the model predicts for the clean image; {_TIE}"
)
_EPOCH = _field("epoch", pa.int32(), "1", "epoch, from 1")
_LEARNING_RATE = _field("learning_rate", pa.float64(), "1", "learning rate in the epoch")
_STUDY_KEYS = [
    _field("dataset", pa.string(), "", "data set"),
    _field("method", pa.string(), "", "training method"),
    _field("n", pa.int32(), "images", "number of training images, N"),
]
_ATTACK = _field("attack", pa.string(), "", "attack")
_ATTACK_OR_CLEAN = _field("attack", pa.string(), "", f"attack; `{CLEAN}` for clean test images")
_ATTACKED = _field(
    "attacked", pa.int32(), "images", "attacked test images that the model classifies correctly"
)
_INTERVAL = [
    _field("low", pa.float64(), "as estimate", "lower end of the 95 % interval", nullable=True),
    _field("high", pa.float64(), "as estimate", "upper end of the 95 % interval", nullable=True),
]

FONTS = pa.schema(
    [
        _field("font", pa.int32(), "1", "row of the font in the prototypes"),
        _field("family", pa.string(), "", "font family"),
        _field("style", pa.string(), "", "named style"),
        _field("file", pa.string(), "", "name of the font file"),
        _field("sha256", pa.string(), "", "SHA-256 digest of the font file"),
        _field("license", pa.string(), "", "licence that the font package states"),
    ]
)

EXAMPLES = pa.schema(
    [
        _field("split", pa.dictionary(pa.int8(), pa.string()), "", "train or test"),
        _LABEL,
        _field("source_index", pa.int32(), "1", "row of the source image in `images.safetensors`"),
    ]
)
"""Images of a data set: a row per image, which is its source image, warped by the parameters if
the data set has parameters."""

CODES = pa.schema(
    [
        *EXAMPLES,
        _field("font", pa.int32(), "1", "row of the font in the table of fonts"),
        _field("letter", pa.string(), "", "letter, whose position among the classes is the label"),
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
        _LEARNING_RATE,
        _field("loss_clean", pa.float32(), "nat", "mean cross-entropy on clean training images"),
        _field("error_clean", pa.float32(), "share", "misclassified clean training images"),
        _field(
            "loss_attacked",
            pa.float32(),
            "nat",
            "mean cross-entropy on perturbed training images",
            nullable=True,
        ),
        _field(
            "error_attacked",
            pa.float32(),
            "share",
            "misclassified perturbed training images",
            nullable=True,
        ),
        _field(
            "error_attacked_eval",
            pa.float32(),
            "share",
            "perturbed training images that the model in eval mode misclassifies at the end of the "
            "search, before the update",
            nullable=True,
        ),
    ]
)

VAEGAN_CURVES = pa.schema(
    [
        _EPOCH,
        _LEARNING_RATE,
        _field(
            "kl_divergence",
            pa.float64(),
            "nat",
            "mean Kullback-Leibler divergence of the posterior from the prior",
        ),
        _field("l1", pa.float64(), "pixel values", "mean L1 distance of reconstructions"),
        _field(
            "generator_loss",
            pa.float64(),
            "nat",
            "mean cross-entropy of the discriminator on decoded images labelled as real",
            nullable=True,
        ),
        _field(
            "discriminator_loss",
            pa.float64(),
            "nat",
            "mean cross-entropy of the discriminator, summed over real and decoded images",
            nullable=True,
        ),
    ]
)
"""Learning curve of a VAE-GAN. The last two losses are null for a VAE, which has no
discriminator."""

_IMAGE_MEASURES = (
    ("l1", "pixel values", "mean L1 distance of reconstructions"),
    ("l2", "pixel values", "mean L2 distance of reconstructions"),
    ("code_mean", "1", "mean of the codes, RMS over coordinates; prior: 0"),
    ("code_variance", "1", "variance of the codes, mean over coordinates"),
    ("posterior_variance", "1", "mean variance of the posterior; prior: 1 minus code_variance"),
    ("out_of_bounds", "share", "coordinates of codes beyond the bounds; prior: 0.046"),
)
_JUDGE_MEASURES = (
    ("accuracy", "test images"),
    ("reconstruction_accuracy", "reconstructions of all test images"),
    ("reconstruction_agreement", "reconstructions of the test images counted in `accuracy`"),
    ("step_agreement", "reconstructions counted in `reconstruction_accuracy`, after a random step"),
    (
        "sample_accuracy",
        "samples from the prior within the bounds; null for a model of all classes, whose samples "
        "have no class",
    ),
)
QUALITY = pa.schema(
    [
        _STUDY_KEYS[0],
        _field("space", pa.string(), "", "the learned manifold"),
        _LABEL.with_nullable(True),
        _field("class", pa.string(), "", "name of the class", nullable=True),
        _field("images", pa.int32(), "images", "test images of the class"),
        *(
            _field(name, pa.float64(), unit, description, nullable=True)
            for name, unit, description in _IMAGE_MEASURES
        ),
        *(
            _field(
                name,
                pa.float64(),
                "share",
                f"share that the judge classifies correctly, of {images}",
                nullable=True,
            )
            for name, images in _JUDGE_MEASURES
        ),
        _field("radius", pa.float64(), "code", "radius of the ball from which steps are drawn"),
    ]
)
"""Quality of learned manifolds: a row per data set, learned manifold and class, and a row without
a class over all classes."""

PREDICTIONS = pa.schema([_SEED, _EXAMPLE, _LABEL, _PREDICTION])

_PERTURBATION_NORMS = [
    _field(
        f"{coordinates}_{norm}",
        pa.float32(),
        norm,
        f"norm of the perturbation in {coordinates} coordinates",
    )
    for coordinates in ("image", "code")
    for norm in ("l1", "l2", "linf")
]
_SUCCESS = (
    "the model classifies the clean image correctly and the saved example incorrectly, and the "
    "example is within the threat and the bounds of its space, up to rounding"
)
ATTACKS = pa.schema(
    [
        _SEED,
        _EXAMPLE,
        _LABEL,
        _PREDICTION,
        _field(
            "code_correct",
            pa.bool_(),
            "",
            "the unperturbed code decodes to a correctly classified image",
        ),
        _field(
            "adversarial_prediction",
            pa.int32(),
            "class",
            f"class that the model predicts for the saved example; {_TIE}",
        ),
        _field("success", pa.bool_(), "", _SUCCESS),
        _field("iterations", pa.int32(), "1", "iterations until the success", nullable=True),
        _field(
            "restart",
            pa.int32(),
            "1",
            "restart that succeeded, from 0; of an ensemble, a restart of the member",
            nullable=True,
        ),
        _field(
            "member",
            pa.string(),
            "",
            "member of the ensemble that succeeded; null for an attack without members",
            nullable=True,
        ),
        _field(
            "refuted",
            pa.bool_(),
            "",
            "a search reported a success that the model, computed by plain layers, does not "
            "confirm, and there is no other success",
        ),
        _field(
            "clean_gradient",
            pa.float32(),
            "nat / code",
            "largest absolute component of the gradient of the cross-entropy at the clean code",
        ),
        _field("loss", pa.float32(), "nat", "cross-entropy of the saved example"),
        *_PERTURBATION_NORMS,
    ]
)

_MANIFOLD_WORDS = {
    "true_manifold": "the true manifold",
    "learned_manifold": "the learned manifold of the class, or that of all classes",
}
DISTANCES = pa.schema(
    [
        _SEED.with_nullable(True),
        _EXAMPLE,
        _ATTACK_OR_CLEAN,
        _field("success", pa.bool_(), "", "the example is a success of its attack"),
        *(
            _field(f"{manifold}_{measure}", pa.float32(), unit, f"{text} {words}", nullable=True)
            for manifold, words in _MANIFOLD_WORDS.items()
            for measure, unit, text in (
                ("distance", "L2", "distance to"),
                (
                    "angle",
                    "degree",
                    "angle between the line from the decoded clean code to the example and",
                ),
            )
        ),
        _field(
            "neighbour_distance",
            pa.float32(),
            "L2",
            "distance to the affine span of the nearest training images",
        ),
        _field(
            "neighbour_angle",
            pa.float32(),
            "degree",
            "angle between the perturbation and that span",
            nullable=True,
        ),
    ]
)

ERRORS = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _field("examples", pa.int32(), "images", "test images"),
        _field("errors", pa.int32(), "images", "misclassified test images"),
        _field("test_error", pa.float64(), "share", "errors / examples"),
        *_INTERVAL,
    ]
)
"""Test errors: a row per model, with its Wilson interval."""

SUCCESS_RATES = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _ATTACK,
        _ATTACKED,
        _field("successes", pa.int32(), "images", "successes among `attacked`"),
        _field("success_rate", pa.float64(), "share", "successes / attacked", nullable=True),
        *_INTERVAL,
        _field(
            "attacked_correct_codes",
            pa.int32(),
            "images",
            "images counted in `attacked` whose unperturbed code decodes to a correctly classified "
            "image",
        ),
        _field(
            "successes_correct_codes",
            pa.int32(),
            "images",
            "successes among `attacked_correct_codes`",
        ),
        _field(
            "success_rate_correct_codes",
            pa.float64(),
            "share",
            "successes_correct_codes / attacked_correct_codes",
            nullable=True,
        ),
        _field(
            "successes_single",
            pa.int32(),
            "images",
            "images counted in `attacked` on which the first random start succeeds; null for an "
            "ensemble",
            nullable=True,
        ),
        _field(
            "success_rate_single",
            pa.float64(),
            "share",
            "successes_single / attacked: the rate of a single attempt, as in the paper, whatever "
            "the number of restarts",
            nullable=True,
        ),
    ]
)
"""Success rates: a row per model and attack, with the Wilson interval of `success_rate`."""

SMALLEST_PERTURBATIONS = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _ATTACK,
        _ATTACKED,
        _field("successes", pa.int32(), "images", "images of `attacked` with a perturbation"),
        _field(
            "half_radius",
            pa.float64(),
            "norm of the attack",
            "radius within which half of the images of `attacked` have a perturbation; null if "
            "fewer have one",
            nullable=True,
        ),
        _field(
            "mean_size",
            pa.float64(),
            "norm of the attack",
            "mean size of the perturbations; null if there are none",
            nullable=True,
        ),
    ]
)
"""Sizes of the smallest perturbations: a row per model and attack that looks for them."""

RADIUS_CURVES = pa.schema(
    [
        *_STUDY_KEYS,
        _ATTACK,
        _field("radius", pa.float64(), "norm of the attack", "radius of the ball"),
        _field("seeds", pa.int32(), "models", "models averaged"),
        _field(
            "mean",
            pa.float64(),
            "share",
            "mean over seeds of the share of correctly classified images that have a perturbation "
            "within the radius",
        ),
        *_INTERVAL,
    ]
)
"""Success against the radius: rows per data set, method, N and attack for the smallest
perturbation, with t intervals over seeds."""

TRANSFERS = pa.schema(
    [
        _ATTACK,
        _field("method", pa.string(), "", "training method of the source model"),
        _field("seed", pa.int32(), "1", "seed of the source model"),
        _field("target_method", pa.string(), "", "training method of the target model"),
        _field("target_seed", pa.int32(), "1", "seed of the target model"),
        _field(
            "tried",
            pa.int32(),
            "images",
            "successes on the source model whose clean image the target model classifies correctly",
        ),
        _field(
            "transferred", pa.int32(), "images", "images of `tried` that the target misclassifies"
        ),
    ]
)
"""Transfer on one data set and N: a row per attack, source model and target model."""

ALL_TRANSFERS = pa.schema(
    [
        *(field for field in _STUDY_KEYS if field.name != "method"),
        *TRANSFERS,
        _field("transfer_rate", pa.float64(), "share", "transferred / tried", nullable=True),
        *_INTERVAL,
    ]
)
"""`TRANSFERS` of the whole study, with the Wilson interval of `transfer_rate`."""

ROBUSTNESS_CHECKS = pa.schema(
    [
        *_STUDY_KEYS,
        _SEED,
        _ATTACK,
        _field("check", pa.string(), "", "name of the check"),
        _field("value", pa.float64(), "share", "value of the check"),
        _field("bound", pa.float64(), "share", "largest value that is no warning"),
        _field(
            "exceeded",
            pa.bool_(),
            "",
            "value > bound on more than one image: the success rate may be too low",
        ),
    ]
)
"""Signs that success rates are too low: a row per model, attack and check."""

OVER_SEEDS = pa.schema(
    [
        *_STUDY_KEYS,
        _field(
            "measure",
            pa.string(),
            "",
            "test_error, success_rate, success_rate_correct_codes, success_rate_single, or "
            "half_radius of an attack for the smallest perturbation",
        ),
        _ATTACK.with_nullable(True),
        _field("seeds", pa.int32(), "models", "models averaged"),
        _field(
            "mean",
            pa.float64(),
            "share",
            "mean over seeds; a half_radius is in the norm of its attack",
        ),
        *_INTERVAL,
    ]
)
"""Means over seeds: a row per data set, method, N, measure and attack, with its t interval."""

ALL_DISTANCES = pa.schema(
    [f.with_nullable(f.name != "dataset") for f in _STUDY_KEYS] + [*DISTANCES]
)
"""`DISTANCES` of the whole study. Method, N and seed are null for clean images."""

CLAIMS = pa.schema(
    [
        _field("claim", pa.int32(), "1", "number of the claim, 1 to 4"),
        _field("dataset", pa.string(), "", "data set"),
        _field(
            "manifold",
            pa.string(),
            "",
            "manifold on which claims 1 to 3 are tested; null for claim 4",
            nullable=True,
        ),
        _field("statistic", pa.string(), "", "name of the statistic that tests the claim"),
        _field("n", pa.int32(), "images", "N; null for a statistic over all N", nullable=True),
        _field("estimate", pa.float64(), "see rule", "the statistic", nullable=True),
        *_INTERVAL,
        _field(
            "rule",
            pa.string(),
            "",
            "meaning of the statistic, threshold, and why it is undecided if it is",
        ),
        _field(
            "verdict",
            pa.string(),
            "",
            "supported, not supported, undecided, or not tested at this N",
        ),
    ]
)


def empty(schema: pa.Schema) -> dict[str, list[Any]]:
    """Return an empty list per field of `schema`, as columns to append to."""
    return {name: [] for name in schema.names}
