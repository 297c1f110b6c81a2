"""The quality of learned manifolds, for VAE-GANs and a judge whose outputs are known."""

import io
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from conftest import CLASSES, make_split, vaegan
from torch import nn

from robustgen.analysis.aggregate import format_quality
from robustgen.analysis.claims import _quality_by_manifold
from robustgen.evaluation.manifold_quality import (
    _MEASURES,
    MISSING_IMAGE_GREY,
    make_sheet,
    measure_quality,
    sample_prior,
)
from robustgen.figures.manifold import SheetImages, plot_manifold
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import QUALITY
from robustgen.models.vaegan import encode
from robustgen.specs import LATENT_BOUND, Threat

THREAT = Threat("learned_manifold", "linf", 0.3)


class ConstantVaeGan(nn.Module):
    """A VAE-GAN that encodes every image to `mean` and `variance` and decodes to uniform grey.

    The grey value is the first coordinate of the code, scaled from [-2, 2] to [0, 1].
    """

    def __init__(self, mean, variance=0.25):
        super().__init__()
        self.config = vaegan("constant").config
        self.mean = nn.Parameter(torch.as_tensor(mean, dtype=torch.float32))
        self.variance = variance

    def encoder(self, images):
        mean = self.mean.expand(len(images), -1)
        return mean, torch.full_like(mean, self.variance).log()

    def encode(self, images):
        return self.encoder(images)[0]

    @property
    def decoder(self):
        grey = nn.Module()
        grey.forward = lambda codes: ((codes[:, 0] + LATENT_BOUND) / (2 * LATENT_BOUND))[
            :, None, None, None
        ].expand(-1, 1, 28, 28)
        return grey.eval()


class BrightnessJudge(nn.Module):
    """Predicts class 0 for images of mean brightness up to 0.5, and class 1 for brighter ones."""

    def forward(self, images):
        is_bright = (images.mean((1, 2, 3)) > 0.5).long()
        return nn.functional.one_hot(is_bright, CLASSES).float()


def quality_by_label(models, threat=THREAT, test=None):
    """The rows of `QUALITY` by label."""
    rng = torch.Generator().manual_seed(0)
    data = make_split("test") if test is None else test
    columns = measure_quality(models, data, BrightnessJudge(), threat, rng)
    rows = len(columns["label"])
    keys = {"dataset": ["tiny"] * rows, "space": [threat.space] * rows}
    table = pa.table({**columns, **keys}, schema=QUALITY)
    return {row["label"]: row for row in table.to_pylist()}


def test_the_quality_of_constant_vaegans():
    """Class 0 decodes to grey 0.49, class 1 to grey 0.51, and the other classes to white."""
    means = [[-0.04, 0, 0, 0], [0.04, 0, 0, 0], [3, 0, 0, -1], [2, 0, 0, 0]]
    test = make_split("test")
    rows = quality_by_label([ConstantVaeGan(mean) for mean in means], test=test)
    assert list(rows) == [0, 1, 2, 3, None]
    class_images = [test.select(test.labels == k).images() for k in range(CLASSES)]
    for label, grey in enumerate((0.49, 0.51, 1.0, 1.0)):
        row, differences = rows[label], (class_images[label] - grey).flatten(1)
        assert row["class"] == test.classes[label]
        assert row["images"] == len(differences)
        assert row["l1"] == pytest.approx(differences.norm(1, dim=1).mean().item(), rel=1e-5)
        assert row["l2"] == pytest.approx(differences.norm(dim=1).mean().item(), rel=1e-5)
        assert row["code_variance"] == pytest.approx(0, abs=1e-9)
        assert row["posterior_variance"] == pytest.approx(0.25)
    assert rows[2]["code_mean"] == pytest.approx((10 / 4) ** 0.5)
    assert [rows[k]["out_of_bounds"] for k in range(CLASSES)] == [0, 0, 0.25, 0]
    # The test images are dark, so that the judge predicts class 0 for all of them.
    assert [rows[k]["accuracy"] for k in range(CLASSES)] == [1, 0, 0, 0]
    assert [rows[k]["reconstruction_accuracy"] for k in range(CLASSES)] == [1, 1, 0, 0]
    assert [rows[k]["reconstruction_agreement"] for k in range(CLASSES)] == [1, None, None, None]
    # A step is uniform within ±0.3 around ∓0.04 and keeps its sign with probability 0.34 / 0.6.
    assert [rows[k]["step_agreement"] for k in range(2)] == pytest.approx([0.567] * 2, abs=0.12)
    assert rows[2]["step_agreement"] is None
    assert [rows[k]["sample_accuracy"] for k in range(2)] == pytest.approx([0.5] * 2, abs=0.15)
    assert rows[3]["sample_accuracy"] == 0


def test_the_last_row_is_over_all_images():
    models = [ConstantVaeGan([0.1 * k, 0, 1, 0], variance=0.1 * (k + 1)) for k in range(CLASSES)]
    rows = quality_by_label(models)
    over_all = rows.pop(None)
    assert over_all["images"] == sum(row["images"] for row in rows.values())
    for name in ("l1", "l2", "posterior_variance", "accuracy", "sample_accuracy"):
        mean = sum(row[name] * row["images"] for row in rows.values()) / over_all["images"]
        assert over_all[name] == pytest.approx(mean)
    variance = 0.0125  # of the values 0, 0.1, 0.2 and 0.3, in one of four coordinates
    assert over_all["code_variance"] == pytest.approx(variance / 4)


@pytest.mark.parametrize(("radius", "agreement"), [(0.01, 1.0), (2.0, 0.51)])
def test_larger_steps_have_a_lower_agreement(radius, agreement):
    threat = replace(THREAT, radius=radius)
    row = quality_by_label([ConstantVaeGan([-0.04, 0, 0, 0])] * CLASSES, threat)[0]
    assert row["radius"] == radius
    assert row["step_agreement"] == pytest.approx(agreement, abs=0.15)


def test_samples_of_a_model_of_all_classes_have_no_accuracy():
    rows = quality_by_label([ConstantVaeGan([-1, 0, 0, 0])], replace(THREAT, space="data_manifold"))
    assert len(rows) == CLASSES + 1
    assert {row["sample_accuracy"] for row in rows.values()} == {None}
    assert rows[0]["reconstruction_agreement"] == 1


def test_samples_from_the_prior_lie_within_the_bounds():
    codes = sample_prior(20_000, vaegan("prior"), torch.Generator().manual_seed(0))
    assert codes.abs().max() <= LATENT_BOUND
    assert codes.mean().item() == pytest.approx(0, abs=0.02)
    assert codes.var().item() == pytest.approx(
        0.774, abs=0.02
    )  # of a normal distribution truncated to ±2


def test_a_sheet_has_images_reconstructions_samples_and_interpolations():
    models = [vaegan(str(label)).eval().requires_grad_(False) for label in range(CLASSES)]
    test = make_split("test")
    arrays = make_sheet(models, test, 5, torch.Generator().manual_seed(0))
    assert {value.shape for value in arrays.values()} == {(CLASSES, 5, 1, 28, 28)}
    for label, model in enumerate(models):
        images = test.select(torch.nonzero(test.labels == label)[:5, 0]).images()
        assert torch.equal(torch.from_numpy(arrays["images"][label]), images)
        expected = model.decoder(model.encode(images).clamp(-LATENT_BOUND, LATENT_BOUND))
        torch.testing.assert_close(torch.from_numpy(arrays["reconstructions"][label]), expected)
        ends = torch.from_numpy(arrays["interpolations"][label])[[0, -1]]
        torch.testing.assert_close(ends, expected[:2])
    assert len({value.tobytes() for value in arrays["samples"].reshape(CLASSES * 5, -1)}) > CLASSES
    other_samples = make_sheet(models, test, 5, torch.Generator().manual_seed(1))["samples"]
    assert (other_samples != arrays["samples"]).any()


def test_images_of_a_small_class_are_repeated():
    models = [vaegan("one").eval().requires_grad_(False)]
    test = make_split("test").select(slice(3 * CLASSES))
    arrays = make_sheet(models, test, 8, torch.Generator())
    assert (arrays["images"][:, :3] == arrays["images"][:, 3:6]).all()


@pytest.mark.parametrize("space", ["learned_manifold", "data_manifold"])
def test_a_class_without_test_images_has_no_measures(space):
    test = make_split("test")
    test = test.select(test.labels != 2)
    models = [ConstantVaeGan([-0.04, 0, 0, 0])] * (CLASSES if space == "learned_manifold" else 1)
    rows = quality_by_label(models, replace(THREAT, space=space), test=test)
    row = rows[2]
    assert (row["class"], row["images"], row["radius"]) == (test.classes[2], 0, 0.3)
    assert {row[name] for name in _MEASURES} == {None}
    assert len(_MEASURES) == 11
    assert rows[None]["images"] == len(test)
    assert rows[None]["accuracy"] == pytest.approx(1 / 3)


def test_table_and_text_of_a_class_without_test_images(tmp_path):
    test = make_split("test")
    rows = quality_by_label(
        [ConstantVaeGan([-0.04, 0, 0, 0])] * CLASSES, test=test.select(test.labels != 0)
    )
    write_table(
        tmp_path / "quality.parquet", pa.Table.from_pylist([*rows.values()], QUALITY), QUALITY
    )
    table = read_table(tmp_path / "quality.parquet", QUALITY)
    lines = {line.split()[0]: line.split()[1:] for line in format_quality(table).splitlines()[1:]}
    assert lines["images"] == ["0", "60", "60", "60", "180"]
    assert lines["l1"][0] == "-"
    (quality_over_all,) = _quality_by_manifold(table).values()
    assert 0 <= quality_over_all.accuracy <= 1


@pytest.mark.parametrize("models", [CLASSES, 1])
def test_a_class_without_test_images_has_only_samples_on_a_sheet(models):
    test = make_split("test")
    networks = [vaegan(str(k)).eval().requires_grad_(False) for k in range(models)]
    incomplete, complete = (
        make_sheet(networks, split, 5, torch.Generator().manual_seed(0))
        for split in (test.select(test.labels != 1), test)
    )
    for name, images in incomplete.items():
        assert images.shape == (CLASSES, 5, 1, 28, 28)
        assert (images[1] == (complete[name][1] if name == "samples" else MISSING_IMAGE_GREY)).all()
        for label in (0, 2, 3):
            assert (images[label] == complete[name][label]).all()
    figure = plot_manifold(test.classes, SheetImages(**incomplete))
    figure.savefig(io.BytesIO(), dpi=50)


def test_codes_do_not_depend_on_whether_a_class_is_missing():
    test = make_split("test")
    networks = [vaegan(str(k)).eval().requires_grad_(False) for k in range(CLASSES)]
    rows = test.labels != 1
    assert torch.equal(encode(networks, test.select(rows)), encode(networks, test)[rows])
