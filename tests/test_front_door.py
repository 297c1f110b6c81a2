"""The public names of the package, used from Python outside of the workflow."""

import doctest
import subprocess
import sys
import warnings

import foolbox
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robustgen
from robustgen.attacks.spaces import perturbation_norms
from robustgen.attacks.step_rules import STEP_RULES
from robustgen.evaluation.single_model import _default_step_size
from robustgen.io.parquet import read_table
from robustgen.io.schemas import ATTACKS
from robustgen.io.tensors import load_tensors
from robustgen.models.vaegan import load_manifold
from robustgen.results import StudyResults


def make_model(classes: int = 3) -> nn.Module:
    """Return a network in eval mode on images of 12 pixels, always with the same weights."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, classes))
    generator = torch.Generator().manual_seed(0)
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layers.eval()


pytestmark = pytest.mark.filterwarnings("ignore:the success rate may be too low")
MODEL = make_model()
IMAGES = torch.rand(40, 3, 2, 2, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    LABELS = MODEL(IMAGES).argmax(1)
LABELS[:4] = (LABELS[:4] + 1) % 3  # the model misclassifies the first four images


def test_every_public_name_can_be_imported():
    for name in robustgen.__all__:
        assert getattr(robustgen, name) is not None
    assert set(robustgen.__all__) <= set(dir(robustgen))
    with pytest.raises(AttributeError, match="module 'robustgen' has no attribute 'atack'"):
        robustgen.atack  # noqa: B018 - the attribute access is the test


def test_importing_the_package_does_not_import_torch():
    code = "import sys, robustgen; robustgen.Threat; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


PUBLIC_OBJECTS = {
    name: getattr(robustgen, name) for name in robustgen.__all__ if name != "__version__"
} | {
    f"StudyResults.{name}": method
    for name, method in vars(StudyResults).items()
    if callable(method) and not name.startswith("_")
}


@pytest.mark.parametrize("name", PUBLIC_OBJECTS)
def test_the_example_in_the_docstring_runs(name, study, monkeypatch):
    monkeypatch.chdir(study)
    tests = doctest.DocTestFinder(recurse=False).find(PUBLIC_OBJECTS[name], name, globs={})
    outcomes = [doctest.DocTestRunner().run(test) for test in tests if test.examples]
    assert outcomes, f"{name} has no example"
    assert not any(outcome.failed for outcome in outcomes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_on_any_model_returns_verified_successes(norm):
    radius = 0.2 if norm == "linf" else 0.5
    result = robustgen.attack(MODEL, IMAGES, LABELS, radius=radius, norm=norm, restarts=2)
    table, delta = result.table, (result.images - IMAGES).flatten(1)
    with torch.no_grad():
        predictions, clean_predictions = (
            MODEL(images).argmax(1) for images in (result.images, IMAGES)
        )
    success = torch.from_numpy(table["success"].to_numpy())
    assert torch.equal(success, (predictions != LABELS) & (clean_predictions == LABELS))
    assert success.any()
    assert not success.all()
    assert (delta[:4] == 0).all()  # the model misclassifies the clean images
    norms = {"l1": delta.norm(1, dim=1), "l2": delta.norm(dim=1), "linf": delta.abs().amax(1)}
    for name, values in norms.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-5, atol=1e-6)
    assert (table[norm] <= radius * (1 + 1e-5)).all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert table["example"].tolist() == list(range(40))
    assert table["label"].tolist() == LABELS.tolist()
    assert table["prediction"].tolist() == clean_predictions.tolist()
    assert (table["iterations"].isna() == ~table["success"]).all()


def test_an_attack_succeeds_on_almost_the_same_images_as_foolbox():
    """Steps are equal; foolbox has other random starts and does not stop at the first success."""
    success = robustgen.attack(MODEL, IMAGES, LABELS, radius=0.15, steps=20).table["success"]
    model = foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    foolbox_attack = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * 0.15 / 20, steps=20)
    _, _, foolbox_success = foolbox_attack(model, IMAGES[4:], LABELS[4:], epsilons=0.15)
    assert abs(success[4:].to_numpy() ^ foolbox_success.numpy()).mean() < 0.06
    assert 0.1 < foolbox_success.float().mean() < 0.9


def test_equal_seeds_give_equal_attacks():
    first, repeated, different = (
        robustgen.attack(MODEL, IMAGES, LABELS, radius=0.1, steps=3, seed=seed)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.images, repeated.images)
    pd.testing.assert_frame_equal(first.table, repeated.table)
    assert not torch.equal(first.images, different.images)


class ImageToImage(nn.Module):
    """A model that returns images instead of logits."""

    def forward(self, images):
        return images


def with_training_layer() -> nn.Module:
    """A model in eval mode whose batch normalization is in train mode."""
    model = nn.Sequential(*make_model(), nn.BatchNorm1d(3)).eval()
    model[-1].train()
    return model


class DetachedModel(nn.Module):
    """A model whose logits have no gradient."""

    def forward(self, images):
        return MODEL(images.detach())


class NanModel(nn.Module):
    """A model whose logits are finite for one image only, which is the first check."""

    def forward(self, images):
        return MODEL(images) * (1 if len(images) == 1 else torch.nan)


MISTAKES = {
    "an unknown norm": ({"norm": "Linf"}, "norm is 'Linf', but must be one of 'linf', 'l2'"),
    "another unknown norm": ({"norm": "inf"}, "norm is 'inf'"),
    "an unknown step rule": ({"step_rule": "sign"}, "step_rule is 'sign', but must be one of"),
    "no radius": ({"radius": 0}, "radius is 0, but must be a finite number above 0"),
    "a radius of another type": ({"radius": "8/255"}, "radius is '8/255', but must be a finite"),
    "a radius in grey values": ({"radius": 8}, "radius is 8, but must be at most 1, .* 0.03137"),
    "an L2 radius beyond all images": ({"radius": 4, "norm": "l2"}, "must be at most 3.4641"),
    "steps below zero": ({"steps": -1}, "steps is -1, but must be an integer of at least 0"),
    "steps as text": ({"steps": "3"}, "steps is '3', but must be an integer"),
    "half a step": ({"steps": 2.5}, "steps is 2.5, but must be an integer"),
    "half a seed": ({"seed": 1.5}, "seed is 1.5, but must be an integer of at least 0 and at mo"),
    "a large seed": ({"seed": 2**70}, "seed is 11805.*, but must be an integer"),
    "a list of step rules": ({"step_rule": ["adam"]}, r"step_rule is \['adam'\], but must be"),
    "a model without gradient": ({"model": DetachedModel().eval()}, "remove detach"),
    "a model of NaN": ({"model": NanModel().eval()}, "model has logits that are not finite"),
    "no restarts": ({"restarts": 0}, "restarts is 0, but must be an integer of at least 1"),
    "a negative step size": ({"step_size": -0.1}, "step_size is -0.1, but must be"),
    "one image": ({"images": IMAGES[0]}, r"images must be a tensor \(N, C, H, W\), but"),
    "no image": ({"images": IMAGES[:0]}, "with at least one image"),
    "doubles": (
        {"images": IMAGES.double()},
        r"images must be of type torch.float32, not torch.float64; call .to\(torch.float32\)",
    ),
    "bytes": ({"images": (IMAGES * 255).byte()}, "images must be of type torch.float32, not t"),
    "pixels to 255": (
        {"images": IMAGES * 255},
        r"images must lie in \[0, 1\], but reach from .* divide them by 255",
    ),
    "pixels slightly above 1": (
        {"images": IMAGES * 1.3 + 0.1},
        r"images must lie in \[0, 1\], but reach from .*; clip them, or put a normalization",
    ),
    "a list of labels": ({"labels": LABELS.tolist()}, r"one class for each image, not list"),
    "NaN": ({"images": IMAGES * torch.nan}, "images contain NaN or infinity, but must lie in"),
    "labels of other images": ({"labels": LABELS[:7]}, r"labels must be a tensor \(40,\)"),
    "one-hot labels": ({"labels": torch.eye(40)}, r"labels must be a tensor \(40,\)"),
    "labels that are floats": ({"labels": LABELS.float()}, "labels must be of type torch.int64"),
    "a label too high": ({"labels": LABELS + 1}, "labels reach from 1 to 3, but the model has"),
    "a label below zero": ({"labels": LABELS - 1}, "labels reach from -1 to 1"),
    "labels on another device": (
        {"labels": LABELS.to("meta")},
        "labels are on meta, but the images on cpu",
    ),
    "a model in train mode": ({"model": make_model().train()}, "model is in train mode; call"),
    "a layer in train mode": ({"model": with_training_layer()}, "model is in train mode; call"),
    "an unknown loss": ({"loss": "margn"}, "loss is 'margn', but must be one of 'cross_entropy'"),
    "an unknown member": (
        {"members": ["auto"]},
        "members is 'auto', but must be one of 'auto_cross_entropy', ",
    ),
    "steps of an ensemble": (
        {"members": ["random"], "steps": 9},
        "steps is 9, but must be left out: members have their own settings",
    ),
    "a loss of an ensemble": (
        {"members": ["random"], "loss": "dlr"},
        "loss is 'dlr', but must be left out",
    ),
    "no radius for a search within one": (
        {"radius": None, "step_rule": "signed"},
        "step_rule 'signed' needs a radius, and there is none; only 'fmn' and",
    ),
    "Carlini-Wagner in L-infinity": (
        {"radius": None, "step_rule": "carlini_wagner"},
        "step_rule 'carlini_wagner' needs the norm 'l2', but the norm is 'linf'",
    ),
    "a radius for the smallest perturbation": (
        {"step_rule": "fmn"},
        "radius is 0.1, but must be None for step_rule 'fmn', which finds the smallest radius",
    ),
    "members without a radius": (
        {"radius": None, "members": ["fmn"]},
        "radius is None, but members search within a radius",
    ),
    "a member twice": (
        {"members": ["random", "random"]},
        "members has 'random' twice, but must have different names",
    ),
    "a step size of a rule that has none": (
        {"step_rule": "auto", "step_size": 0.1},
        "step_size is 0.1, but must be left out: step_rule 'auto' chooses its steps itself",
    ),
    "several restarts from the clean image": (
        {"radius": None, "restarts": 5},
        "restarts is 5, but must be 1 for step_rule 'fmn' and loss 'margin'",
    ),
    "the smallest perturbation by the cross-entropy": (
        {"radius": None, "loss": "cross_entropy"},
        "step_rule 'fmn' needs one of the losses .*, but loss is 'cross_entropy'",
    ),
    "channels last": (
        {"images": IMAGES.movedim(1, -1)[..., :1, :]},
        "model cannot classify images of shape",
    ),
    "pixels from -1 to 1": ({"images": 2 * IMAGES - 1}, "put a normalization into the model"),
    "a function": ({"model": lambda images: images}, "model must be a torch.nn.Module, not func"),
    "a model without logits": ({"model": ImageToImage().eval()}, "model must map images"),
    "a model on another device": (
        {"model": make_model().to("meta")},
        "model is on meta, but images on",
    ),
}


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_argument_is_named(mistake, sentence):
    arguments = {"model": MODEL, "images": IMAGES, "labels": LABELS, "radius": 0.1, **mistake}
    with pytest.raises(ValueError, match=sentence):
        robustgen.attack(**arguments)


class BatchStatisticsModel(nn.Module):
    """A model that normalizes with the statistics of the batch, so that logits depend on it."""

    def __init__(self):
        super().__init__()
        norm = nn.BatchNorm2d(3, track_running_stats=False)
        self.layers = nn.Sequential(norm, *make_model()).eval()

    def forward(self, images):
        return self.layers(images)


def test_successes_that_another_batch_refutes_are_warned_of():
    """Searches drop images at their success; then the statistics of the batch are others."""
    model = BatchStatisticsModel().eval()
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    with pytest.warns(UserWarning, match=r"too low: the results of the model depend on how it is"):
        table = robustgen.attack(model, IMAGES, labels, radius=0.1, steps=20).table
    assert table["refuted"].any()
    assert not (table["refuted"] & table["success"]).any()


def test_a_gradient_that_vanishes_is_warned_of():
    class SaturatedModel(nn.Module):
        def forward(self, images):
            return 1e6 * MODEL(images)

    with pytest.warns(UserWarning, match=r"no direction to begin with \(vanishing gradients: "):
        table = robustgen.attack(SaturatedModel().eval(), IMAGES, LABELS, radius=0.1).table
    assert (table["clean_gradient"] == 0).any()


def test_an_attack_on_an_honest_model_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robustgen.attack(MODEL, IMAGES, LABELS, radius=0.1)
        robustgen.attack(MODEL, IMAGES, LABELS, radius=0.1, members=["auto_margin", "random"])
        robustgen.attack(MODEL, IMAGES, LABELS, radius=None)


def test_an_attack_does_not_depend_on_the_gradient_mode():
    expected = robustgen.attack(MODEL, IMAGES, LABELS, radius=0.1, steps=3)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            result = robustgen.attack(MODEL, IMAGES.clone(), LABELS, radius=0.1, steps=3)
        assert torch.equal(result.images, expected.images)
    leaf = IMAGES.clone().requires_grad_()
    result = robustgen.attack(MODEL, leaf, LABELS, radius=0.1, steps=3)
    assert torch.equal(result.images, expected.images)
    assert leaf.grad is None


@pytest.mark.parametrize("step_rule", ["signed", "normalized", "adam"])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.5)])
def test_default_steps_can_cross_the_ball_and_are_not_wider_than_it(norm, radius, step_rule):
    """One step from the centre has 2.5 times the radius over the steps as length, in the norm."""
    for steps in (5, 40):
        threat = robustgen.Threat("image", norm, radius)
        step_size = _default_step_size(threat, step_rule, steps, IMAGES[0].numel())
        rule = STEP_RULES[step_rule](IMAGES[None])
        gradient = torch.randn(IMAGES[None].shape, generator=torch.Generator().manual_seed(0))
        length = perturbation_norms(step_size * rule(gradient))[norm].mean().item()
        expected = 2.5 * radius / steps
        # The largest coordinate of a normalized step is a few times the root mean square of all.
        slack = 4 if (norm, step_rule) == ("linf", "normalized") else 1.01
        assert 0.99 * expected <= length <= slack * expected


@pytest.mark.parametrize(("norm", "step_rule"), [("linf", "signed"), ("l2", "normalized")])
def test_the_default_step_rule_fits_the_norm(norm, step_rule):
    default, explicit = (
        robustgen.attack(MODEL, IMAGES, LABELS, radius=0.1, norm=norm, steps=3, **rule)
        for rule in ({}, {"step_rule": step_rule})
    )
    assert torch.equal(default.images, explicit.images)


@pytest.mark.parametrize("norm", ["Linf", "inf", "l1", "L2", 2, None])
def test_a_threat_of_unknown_norm_is_refused(norm):
    with pytest.raises(ValueError, match=f"norm is {norm!r}, but must be one of 'linf', 'l2'"):
        robustgen.Threat("image", norm, 0.1)


def test_unknown_spaces_and_step_rules_are_named(test_images):
    from robustgen.attacks.spaces import make_space
    from robustgen.attacks.step_rules import make_step_rule

    with pytest.raises(ValueError, match="space is 'pixels', but must be one of 'image', 'true_"):
        make_space("pixels", test_images)
    with pytest.raises(ValueError, match="step_rule is 'sgd', but must be one of 'adam', 'sign"):
        make_step_rule("sgd", torch.zeros(1, 1, 2))


def test_results_are_read_by_name(study):
    results = robustgen.open_study(study / "results/smoke")
    assert results.config["study"] == "smoke"
    assert set(dir(results.tables)) == {
        "claims",
        "distances",
        "errors",
        "manifolds",
        "over_seeds",
        "radius_curves",
        "robustness_checks",
        "smallest_perturbations",
        "success_rates",
        "transfers",
    }
    errors = results.tables.errors
    test_split = results.split("fonts")
    for seed in (0, 1):
        model = results.classifier("fonts", "adversarial", n=60, seed=seed)
        is_wrong = model(test_split.images()).argmax(1) != test_split.labels
        row = errors.query(f"method == 'adversarial' and n == 60 and seed == {seed}")
        assert row["test_error"].item() == pytest.approx(is_wrong.float().mean().item())
        curves = results.curves("fonts", "adversarial", n=60, seed=seed)
        assert curves["epoch"].tolist() == [1, 2, 3]
        assert (curves["seed"] == seed).all()
    assert len(results.split("fonts", "train")) > len(test_split)


def test_examples_are_read_for_one_model(study):
    results = robustgen.open_study(study / "results/smoke")
    folder = study / "results/smoke/fonts/attacks/regular/normal/n60"
    rows = read_table(folder / "seeds0-1.parquet", ATTACKS).to_pandas()
    tensors, _ = load_tensors(folder / "seeds0-1.safetensors")
    for seed in (0, 1):
        examples = results.examples("fonts", "regular", "normal", n=60, seed=seed)
        assert (examples.images == tensors["images"][seed].numpy()).all()
        assert (examples.codes == tensors["codes"][seed].numpy()).all()
        expected = rows[rows["seed"] == seed].reset_index(drop=True)
        pd.testing.assert_frame_equal(examples.table, expected)
        model = results.classifier("fonts", "normal", n=60, seed=seed)
        predictions = model(torch.from_numpy(examples.images)).argmax(1).numpy()
        is_wrong = predictions != examples.table["label"]
        assert is_wrong[examples.table["success"]].all()


UNKNOWN_KEYS = {
    "a data set": (("letters", "normal", 60, 0), "no dataset 'letters'; it has fonts"),
    "a method": (("fonts", "norml", 60, 0), "no method 'norml'; it has normal, adversarial, "),
    "a number of images": (("fonts", "normal", 61, 0), "no n 61; it has 60"),
    "a seed": (("fonts", "normal", 60, 2), "no seed 2; it has 0, 1"),
}


@pytest.mark.parametrize(("key", "sentence"), UNKNOWN_KEYS.values(), ids=UNKNOWN_KEYS)
def test_an_unknown_key_of_a_classifier_is_named(study, key, sentence):
    results = robustgen.open_study(study / "results/smoke")
    dataset, method, n, seed = key
    with pytest.raises(robustgen.UserError, match=sentence):
        results.classifier(dataset, method, n=n, seed=seed)


def test_an_unknown_attack_split_table_or_folder_is_named(study, tmp_path):
    results = robustgen.open_study(study / "results/smoke")
    with pytest.raises(robustgen.UserError, match="no attack 'regula'; it has regular, strong, "):
        results.examples("fonts", "regula", "normal", n=60)
    with pytest.raises(robustgen.UserError, match="no split 'validation'; it has train, test"):
        results.split("fonts", "validation")
    with pytest.raises(AttributeError, match="a study has no table rates; it has claims, "):
        results.tables.rates  # noqa: B018 - the attribute access is the test
    with pytest.raises(robustgen.UserError, match=r"no manifold 'data_mani'; it has learned_mani"):
        results.split("fonts", manifold="data_mani")
    with pytest.raises(robustgen.UserError, match="is not the folder of a study: it has no study"):
        robustgen.open_study(tmp_path)
    with pytest.raises(robustgen.UserError, match="it contains the results of smoke"):
        robustgen.open_study(study / "results")
    with pytest.raises(robustgen.UserError, match="folder must be a path, not NoneType"):
        robustgen.open_study(None)
    for text in ("{}", "[]", "{"):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(robustgen.UserError, match=r"study\.json (is not|cannot be) "):
            robustgen.open_study(tmp_path)


def test_an_unknown_split_is_refused(study):
    folder = study / "results/smoke/fonts/dataset"
    files = folder / "images.safetensors", folder / "examples.parquet"
    with pytest.raises(ValueError, match="split is 'validation', but must be one of 'train', 't"):
        robustgen.load_split(*files, "validation")


def test_a_file_without_classifiers_is_refused(study):
    path = study / "results/smoke/fonts/dataset/images.safetensors"
    with pytest.raises(robustgen.UserError, match=r"images\.safetensors is no file of classifiers"):
        robustgen.Cohort.load(path)
    with pytest.raises(robustgen.UserError, match=r"no\.safetensors does not exist; run the study"):
        robustgen.Cohort.load(path.with_name("no.safetensors"))


def test_wrong_files_of_a_manifold_are_refused(study):
    test = robustgen.open_study(study / "results/smoke").split("fonts")
    folder = study / "results/smoke/fonts/manifolds"
    codes, *models = (
        str(folder / f"{name}.safetensors")
        for name in ("learned_manifold", "class0", "class1", "class2")
    )
    with pytest.raises(robustgen.UserError, match="there are 2 VAE-GANs, but there must be one, o"):
        load_manifold([codes, *models[:2]], test, "test")
    with pytest.raises(robustgen.UserError, match=r"class0\.safetensors has no codes of the split"):
        load_manifold(models, test, "test")
    with pytest.raises(robustgen.UserError, match="has no codes of the split 'validation'"):
        load_manifold([codes, *models], test, "validation")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("step_rule", "loss"), [("auto", "dlr"), ("auto", "targeted_dlr"), ("random", "margin")]
)
def test_rules_without_a_step_size_attack_any_model(norm, step_rule, loss):
    result = robustgen.attack(
        MODEL, IMAGES, LABELS, radius=0.3, norm=norm, steps=30, step_rule=step_rule, loss=loss
    )
    delta = (result.images - IMAGES).flatten(1)
    sizes = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert sizes.max() <= 0.3001
    assert result.table["success"].any()
    assert (MODEL(result.images).argmax(1) != LABELS)[result.table["success"].to_numpy()].all()


def test_an_ensemble_succeeds_at_least_where_each_member_does_and_names_it():
    radius, names = 0.12, ["auto_margin", "fmn", "random"]
    table = robustgen.attack(MODEL, IMAGES, LABELS, radius=radius, members=names).table
    single = robustgen.attack(MODEL, IMAGES, LABELS, radius=radius, members="auto_margin").table
    assert (single["success"] <= table["success"]).all()
    assert (table["member"].isna() == ~table["success"]).all()
    assert set(table["member"].dropna()) <= set(names)
    assert 0 < table["success"].sum() < len(table)


@pytest.mark.parametrize(
    ("norm", "step_rule"), [("linf", None), ("l2", None), ("l2", "carlini_wagner")]
)
def test_without_a_radius_an_attack_finds_perturbations_of_sizes_of_their_own(norm, step_rule):
    result = robustgen.attack(
        MODEL, IMAGES, LABELS, radius=None, norm=norm, steps=60, step_rule=step_rule
    )
    table = result.table
    with torch.no_grad():
        is_wrong = MODEL(result.images).argmax(1) != LABELS
    attacked = (table["prediction"] == table["label"]).to_numpy()
    assert torch.equal(is_wrong[attacked], torch.from_numpy(table["success"][attacked].to_numpy()))
    assert table["success"][attacked].mean() > 0.9
    sizes = table.loc[table["success"], norm]
    assert sizes.nunique() > 20
    radius = float(sizes.median())
    bounded_table = robustgen.attack(
        MODEL, IMAGES, LABELS, radius=radius, norm=norm, members="fmn"
    ).table
    assert bounded_table["success"][attacked].mean() > 0.45
