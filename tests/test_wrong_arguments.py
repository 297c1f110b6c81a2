"""Wrong arguments of the public functions for cohorts: one sentence that names the argument."""

from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, make_cohort, make_generators, make_split
from torch import nn

import robustgen
from robustgen.data.split import Split
from robustgen.evaluation.attacks import predict

SEEDS = [0, 1]
IMAGES = make_split("test").select(slice(4))
THREAT = robustgen.Threat("image", "linf", 0.1)
SEARCH = robustgen.SearchConfig("signed", step_size=0.05, steps=1)


def make_search_generators(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def with_labels(labels: torch.Tensor) -> Split:
    return replace(IMAGES, labels=labels)


def with_source_images(source_images: torch.Tensor) -> Split:
    return replace(IMAGES, source_images=source_images)


COHORT = make_cohort(SEEDS).eval()
BATCH = IMAGES.expand(2)
SPACE = robustgen.make_space("image", BATCH)
DATA_MISTAKES = {
    "no images": ({"data": IMAGES.select(slice(0))}, "data has no images"),
    "a label above K": (
        {"data": with_labels(torch.tensor([0, 1, 2, 7]))},
        "the labels of data reach from 0 to 7, but the model has classes 0 to 3",
    ),
    "a negative label": (
        {"data": with_labels(torch.tensor([0, 1, 2, -1]))},
        "the labels of data reach from -1 to 2",
    ),
    "images above 1": (
        {"data": with_source_images(IMAGES.source_images * 5)},
        r"the images of data must lie in \[",
    ),
    "images of 16-bit integers": (
        {"data": with_source_images(IMAGES.source_images.short())},
        r"the images of data must be uint8 or floats in \[0, 1\], not torch\.int16",
    ),
    "32-bit labels": (
        {"data": with_labels(IMAGES.labels.int())},
        r"the labels of data must be of type torch\.int64, not torch\.int32",
    ),
    "codes out of their ranges": (
        {"data": replace(IMAGES, codes=IMAGES.codes * 100)},
        "the codes of data lie outside of the bounds of their space",
    ),
    "images for a split": ({"data": IMAGES.images()}, "data must be of type Split, not Tensor"),
}
ATTACK_MISTAKES = {
    **DATA_MISTAKES,
    "images of another size": (
        {"data": with_source_images(IMAGES.source_images[..., :20, :20])},
        r"images have the shape \(2, 4, 1, 20, 20\), but must have \(2, B, 1, 28, 28\)",
    ),
    "a generator for two models": (
        {"generators": make_search_generators(1)},
        "generators must be 2 random generators on the CPU",
    ),
    "seeds for generators": ({"generators": [0, 1]}, "generators must be 2 random generators"),
    "an unknown space": ({"threat": robustgen.Threat("imge", "linf", 0.1)}, "space is 'imge'"),
    "a name for a threat": ({"threat": "linf"}, "threat must be of type Threat, not str"),
    "no search": ({"search": None}, "search must be of type SearchConfig, not NoneType"),
    "no generators": ({"generators": None}, "generators must be 2 random generators"),
    "a network for a cohort": ({"cohort": nn.Identity()}, "cohort must be a Cohort, not Identity"),
    "models on another device": (
        {"cohort": make_cohort(SEEDS).eval().to("meta")},
        "the models are on meta, but the images on cpu",
    ),
    "an unknown step rule": (
        {"search": replace(SEARCH, step_rule="sign")},
        "step_rule is 'sign', but must be one of",
    ),
    "an unknown loss": ({"search": replace(SEARCH, loss="ce")}, "loss is 'ce', but must be one of"),
}


@pytest.mark.parametrize(("mistake", "sentence"), ATTACK_MISTAKES.values(), ids=ATTACK_MISTAKES)
def test_a_wrong_argument_of_an_attack_is_named(mistake, sentence):
    arguments = {
        "cohort": COHORT,
        "data": IMAGES,
        "threat": THREAT,
        "search": SEARCH,
        "generators": make_search_generators(),
        **mistake,
    }
    with pytest.raises(ValueError, match=sentence):
        robustgen.attack_cohort(**arguments)


@pytest.mark.parametrize(
    "function",
    [
        lambda cohort: predict(cohort, IMAGES),
        lambda cohort: robustgen.attack_cohort(
            cohort, IMAGES, THREAT, SEARCH, make_search_generators()
        ),
    ],
    ids=["predict", "attack_cohort"],
)
def test_a_cohort_in_train_mode_is_refused_and_not_changed(function):
    cohort = make_cohort(SEEDS).train()
    state = {name: tensor.clone() for name, tensor in cohort.state_dict().items()}
    with pytest.raises(ValueError, match=r"cohort is in train mode; call cohort\.eval\(\) first"):
        function(cohort)
    assert all(torch.equal(tensor, state[name]) for name, tensor in cohort.state_dict().items())


SEARCH_MISTAKES = {
    "a name for a space": ({"space": "image"}, "space must be of type Space, not str"),
    "labels of one model": ({"labels": IMAGES.labels}, r"labels must be a tensor \(2, 4\)"),
    "32-bit labels": ({"labels": BATCH.labels.int()}, "labels must be of type torch.int64, not"),
    "a label above K": ({"labels": BATCH.labels + 4}, "labels reach from 4 to 7, but the model"),
    "a label above K in a batch of fewer images than classes": (
        {
            "space": robustgen.make_space("image", IMAGES.select(slice(2)).expand(2)),
            "labels": torch.tensor([[0, 0], [0, 4]]),
        },
        "labels reach from 0 to 4, but the model has classes 0 to 3",
    ),
    "one generator": ({"generators": make_search_generators(1)}, "generators must be 2 random"),
    "a mask of one model": (
        {"skip": torch.zeros(4, dtype=torch.bool)},
        r"skip must be a tensor \(2, 4\) of type torch\.bool",
    ),
    "a mask of integers": (
        {"skip": torch.zeros(2, 4, dtype=torch.int64)},
        r"skip must be a tensor \(2, 4\) of type torch\.bool",
    ),
    "a model of other logits": (
        {"model": lambda images: images},
        r"logits, here of shape \(2, 4, K\), not shape \(2, 4, 1, 28, 28\)",
    ),
    "a threat in a misspelt space": (
        {"threat": replace(THREAT, space="imag")},
        "threat.space is 'imag', but must be one of 'image', ",
    ),
    "a threat in another space": (
        {"threat": replace(THREAT, space="true_manifold")},
        "threat.space is 'true_manifold', but space is of type ImageSpace",
    ),
    "images above 1": (
        {"space": replace(SPACE, clean_codes=SPACE.clean_codes * 5)},
        "the clean codes of space lie outside of the bounds of their space",
    ),
    "images of NaN": (
        {"space": replace(SPACE, clean_codes=SPACE.clean_codes * torch.nan)},
        "the clean codes of space contain NaN or infinity",
    ),
    "a list of masks": ({"skip": [True]}, r"skip must be a tensor \(2, 4\) of type torch\.bool"),
    "a model that cannot be called": ({"model": None}, "model cannot classify images of shape"),
    "a model in train mode": ({"model": make_cohort(SEEDS).train()}, "model is in train mode"),
}


@pytest.mark.parametrize(("mistake", "sentence"), SEARCH_MISTAKES.values(), ids=SEARCH_MISTAKES)
def test_a_wrong_argument_of_a_search_is_named(mistake, sentence):
    arguments = {
        "model": COHORT,
        "space": SPACE,
        "labels": BATCH.labels,
        "threat": THREAT,
        "search": SEARCH,
        "generators": make_search_generators(),
        **mistake,
    }
    with pytest.raises(ValueError, match=sentence):
        robustgen.run_search(**arguments, stop_at_success=True)


def test_a_search_does_not_call_a_model_in_train_mode():
    """A call would change the running statistics of the user's model before it is refused."""
    cohort = make_cohort(SEEDS).train()
    initial_state = {name: tensor.clone() for name, tensor in cohort.state_dict().items()}
    generators = make_search_generators()
    with pytest.raises(ValueError, match="model is in train mode"):
        robustgen.run_search(
            cohort, SPACE, BATCH.labels, THREAT, SEARCH, generators, stop_at_success=True
        )
    assert all(
        torch.equal(tensor, initial_state[name]) for name, tensor in cohort.state_dict().items()
    )


TRAINING_MISTAKES = {
    **DATA_MISTAKES,
    "one model": ({"cohort": COHORT.member(0)}, "cohort must be of type Cohort, not Sequential"),
    "images of another size": (
        {"data": with_source_images(IMAGES.source_images[..., :20, :20])},
        r"data has images of shape \(1, 20, 20\), but cohort was made for \(1, 28, 28\)",
    ),
    "one image": ({"data": IMAGES.select(slice(1))}, "data has one image, but batch norm"),
    "a dictionary of settings": ({"config": {}}, "config must be of type TrainConfig, not dict"),
    "a threat as method": (
        {"method": THREAT},
        "method must be of type AdversarialTraining, not Threat",
    ),
    "a list of generators": (
        {"generators": make_search_generators()},
        "generators must be of type Generators, not list",
    ),
    "models on another device": (
        {"cohort": make_cohort(SEEDS).to("meta")},
        "the models are on meta, but the images on cpu",
    ),
    "generators of one model": (
        {"generators": make_generators([0])},
        "generators.batches must be 2 random generators",
    ),
    "no generators of attacks": (
        {"generators": robustgen.Generators(make_search_generators(), [])},
        "generators.attacks must be 2 random generators",
    ),
}


@pytest.mark.parametrize(("mistake", "sentence"), TRAINING_MISTAKES.values(), ids=TRAINING_MISTAKES)
def test_a_wrong_argument_of_training_is_named(mistake, sentence):
    arguments = {
        "cohort": make_cohort(SEEDS),
        "data": IMAGES,
        "config": robustgen.TrainConfig(epochs=1, batch_size=4),
        "method": robustgen.AdversarialTraining(THREAT, SEARCH),
        "generators": make_generators(SEEDS),
        **mistake,
    }
    with pytest.raises(ValueError, match=sentence):
        robustgen.train(**arguments)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("epochs", 0, "epochs is 0, but must be an integer of at least 1"),
        ("batch_size", -5, "batch_size is -5, but must be an integer of at least 2"),
        ("learning_rate", 0, "learning_rate is 0, but must be a finite number above 0"),
        ("learning_rate_decay", float("nan"), "learning_rate_decay is nan"),
        ("weight_decay", -1, "weight_decay is -1, but must be a finite number of at least 0"),
    ],
)
def test_a_wrong_setting_of_training_is_named(key, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        robustgen.TrainConfig(**{key: value})


COHORT_MISTAKES = {
    "an unknown network": ({"architecture": "resnet"}, "architecture is 'resnet', but must be one"),
    "a list of networks": ({"architecture": ["convnet"]}, r"architecture is \['convnet'\], but"),
    "no classes": ({"classes": 0}, "classes is 0, but must be an integer of at least 2"),
    "no seeds": ({"seeds": []}, r"seeds are \[\], but must be one or more different integers"),
    "equal seeds": ({"seeds": [1, 1]}, r"seeds are \[1, 1\], but must be one or more different"),
    "one seed without a list": ({"seeds": 3}, "seeds are 3, but must be one or more different"),
    "names for seeds": ({"seeds": ["a"]}, r"seeds are \['a'\], but must be one or more different"),
    "a shape of one number": ({"shape": 28}, r"shape is 28, but must be the integers \(C, H, W\)"),
    "a shape without height": ({"shape": (1, 0, 28)}, r"shape is \(1, 0, 28\), but must be the"),
    "a name of a backend": ({"backend": "plain"}, "backend must be of type Backend, not str"),
    "small images": ({"shape": (1, 4, 4)}, "images of 4x4 are too small"),
}


@pytest.mark.parametrize(("mistake", "sentence"), COHORT_MISTAKES.values(), ids=COHORT_MISTAKES)
def test_a_wrong_argument_of_a_cohort_is_named(mistake, sentence):
    arguments = {
        "architecture": "convnet",
        "shape": (1, 28, 28),
        "classes": CLASSES,
        "seeds": SEEDS,
        **mistake,
    }
    with pytest.raises(ValueError, match=sentence):
        robustgen.Cohort(**arguments)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 4, 1, 28, 28), (2, 4, 1, 20, 20)], ids=str)
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images have the shape .* must have \(2, B, 1, 28, 28\)"):
        COHORT(torch.rand(shape))


def test_generators_for_other_members_are_refused():
    with pytest.raises(ValueError, match="generators must be 2 random generators on the CPU"):
        make_cohort(SEEDS).initialize(make_search_generators(3))


def test_an_unknown_device_is_named(tmp_path):
    COHORT.save(tmp_path / "cohort.safetensors", {}, {})
    with pytest.raises(ValueError, match="device is 'gpu', which cannot be used: "):
        robustgen.Cohort.load(tmp_path / "cohort.safetensors", "gpu")


def test_a_file_of_classifiers_is_no_file_of_images(tmp_path):
    COHORT.save(tmp_path / "cohort.safetensors", {}, {})
    with pytest.raises(robustgen.UserError, match="is no file of images"):
        robustgen.load_split(tmp_path / "cohort.safetensors", tmp_path / "any.parquet", "test")


def test_a_split_with_columns_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match=r"source_index has the shape \(4,\), but labels have"):
        with_labels(IMAGES.labels[:3])
    with pytest.raises(ValueError, match=r"codes have the shape \(3, 6\), but must have \(4, 6\)"):
        replace(IMAGES, codes=IMAGES.codes[:3])


def test_a_method_of_other_types_is_refused():
    with pytest.raises(ValueError, match="threat must be of type Threat, not str"):
        robustgen.AdversarialTraining("image", SEARCH)


def test_a_model_that_classifies_no_image_correctly_is_told(caplog):
    labels = (COHORT.member(0)(IMAGES.images()).argmax(1) + 1) % CLASSES
    result = robustgen.attack_cohort(
        COHORT, with_labels(labels), THREAT, SEARCH, make_search_generators()
    )
    assert not result.rows["success"][:4].any()
    assert "the model of seed 0 classifies none of the 4 images correctly" in caplog.text


@pytest.mark.parametrize("position", [-1, 2, "0"])
def test_an_unknown_member_is_refused(position):
    with pytest.raises(ValueError, match=f"position is {position!r}, but must be from 0 to 1"):
        COHORT.member(position)
