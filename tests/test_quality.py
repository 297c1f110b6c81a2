"""Measures of learned manifolds, against VAE-GANs and judges whose answers are known."""

import io
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from conftest import CLASSES, make_split, vaegan
from torch import nn

from robustgen.analysis.aggregate import quality_text
from robustgen.analysis.claims import _by_manifold
from robustgen.evaluation.manifold_quality import _MEASURES, NO_IMAGE, prior, quality, sheet
from robustgen.figures.manifold import Shown, manifold
from robustgen.io.files import read_table, write_table
from robustgen.io.schemas import QUALITY
from robustgen.models.vaegan import encode
from robustgen.specs import BOUND, Threat

THREAT = Threat("learned_manifold", "linf", 0.3)


class Known(nn.Module):
    """A VAE-GAN that says `mean` and `variance` of every code and decodes to flat grey.

    The brightness is the first coordinate's share of the way from -2 to 2.
    """

    def __init__(self, mean, variance=0.25):
        super().__init__()
        self.config = vaegan("known").config
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
        grey.forward = lambda codes: ((codes[:, 0] + BOUND) / (2 * BOUND))[
            :, None, None, None
        ].expand(-1, 1, 28, 28)
        return grey.eval()


class Judge(nn.Module):
    """Says class 0 of images of brightness up to 0.5, and class 1 of others."""

    def forward(self, images):
        bright = (images.mean((1, 2, 3)) > 0.5).long()
        return nn.functional.one_hot(bright, CLASSES).float()


def measured(models, threat=THREAT, judge=None, test=None):
    rng = torch.Generator().manual_seed(0)
    data = make_split("test") if test is None else test
    columns = quality(models, data, judge or Judge(), threat, rng)
    rows = len(columns["label"])
    named = {"dataset": ["tiny"] * rows, "space": [threat.space] * rows}
    table = pa.table({**columns, **named}, schema=QUALITY)
    return {row["label"]: row for row in table.to_pylist()}


def test_measures_of_a_manifold_that_is_known():
    """Class 0 decodes to grey 0.5 - 0.01, class 1 to 0.5 + 0.01, the others to white."""
    means = [[-0.04, 0, 0, 0], [0.04, 0, 0, 0], [3, 0, 0, -1], [2, 0, 0, 0]]
    test = make_split("test")
    rows = measured([Known(mean) for mean in means], test=test)
    assert list(rows) == [0, 1, 2, 3, None]
    own = [test.take(test.labels == k).images() for k in range(CLASSES)]
    for label, grey in enumerate((0.49, 0.51, 1.0, 1.0)):
        row, left = rows[label], (own[label] - grey).flatten(1)
        assert row["class"] == test.classes[label]
        assert row["images"] == len(left)
        assert row["l1"] == pytest.approx(left.norm(1, dim=1).mean().item(), rel=1e-5)
        assert row["l2"] == pytest.approx(left.norm(dim=1).mean().item(), rel=1e-5)
        assert row["code_variance"] == pytest.approx(0, abs=1e-9)
        assert row["posterior_variance"] == pytest.approx(0.25)
    assert rows[2]["code_mean"] == pytest.approx((10 / 4) ** 0.5)
    assert [rows[k]["out_of_bounds"] for k in range(CLASSES)] == [0, 0, 0.25, 0]
    # Letters are dark: the judge is right of class 0 alone.
    assert [rows[k]["accuracy"] for k in range(CLASSES)] == [1, 0, 0, 0]
    assert [rows[k]["reconstruction_accuracy"] for k in range(CLASSES)] == [1, 1, 0, 0]
    assert [rows[k]["reconstruction_agreement"] for k in range(CLASSES)] == [1, None, None, None]
    # A step is uniform in ±0.3 around ∓0.04: it keeps its class with 0.34 / 0.6.
    assert [rows[k]["step_agreement"] for k in range(2)] == pytest.approx([0.567] * 2, abs=0.12)
    assert rows[2]["step_agreement"] is None
    assert [rows[k]["sample_accuracy"] for k in range(2)] == pytest.approx([0.5] * 2, abs=0.15)
    assert rows[3]["sample_accuracy"] == 0


def test_the_last_row_is_over_all_images():
    models = [Known([0.1 * k, 0, 1, 0], variance=0.1 * (k + 1)) for k in range(CLASSES)]
    rows = measured(models)
    whole = rows.pop(None)
    assert whole["images"] == sum(row["images"] for row in rows.values())
    for name in ("l1", "l2", "posterior_variance", "accuracy", "sample_accuracy"):
        mean = sum(row[name] * row["images"] for row in rows.values()) / whole["images"]
        assert whole[name] == pytest.approx(mean)
    assert whole["code_variance"] == pytest.approx(0.0125 / 4)  # of 0, 0.1, 0.2 and 0.3


@pytest.mark.parametrize(("radius", "kept"), [(0.01, 1.0), (2.0, 0.51)])
def test_larger_steps_keep_less(radius, kept):
    threat = replace(THREAT, radius=radius)
    row = measured([Known([-0.04, 0, 0, 0])] * CLASSES, threat)[0]
    assert row["radius"] == radius
    assert row["step_agreement"] == pytest.approx(kept, abs=0.15)


def test_one_model_of_all_classes_has_samples_of_no_class():
    rows = measured([Known([-1, 0, 0, 0])], replace(THREAT, space="data_manifold"))
    assert len(rows) == CLASSES + 1
    assert {row["sample_accuracy"] for row in rows.values()} == {None}
    assert rows[0]["reconstruction_agreement"] == 1


def test_the_prior_stays_within_the_bounds():
    codes = prior(20_000, vaegan("prior"), torch.Generator().manual_seed(0))
    assert codes.abs().max() <= BOUND
    assert codes.mean().item() == pytest.approx(0, abs=0.02)
    assert codes.var().item() == pytest.approx(0.774, abs=0.02)  # of a normal cut off at ±2


def test_a_sheet_shows_what_it_says():
    models = [vaegan(str(label)).eval().requires_grad_(False) for label in range(CLASSES)]
    test = make_split("test")
    made = sheet(models, test, 5, torch.Generator().manual_seed(0))
    assert {value.shape for value in made.values()} == {(CLASSES, 5, 1, 28, 28)}
    for label, model in enumerate(models):
        images = test.take(torch.nonzero(test.labels == label)[:5, 0]).images()
        assert torch.equal(torch.from_numpy(made["images"][label]), images)
        again = model.decoder(model.encode(images).clamp(-BOUND, BOUND))
        torch.testing.assert_close(torch.from_numpy(made["reconstructions"][label]), again)
        ends = torch.from_numpy(made["interpolations"][label])[[0, -1]]
        torch.testing.assert_close(ends, again[:2])
    assert len({value.tobytes() for value in made["samples"].reshape(CLASSES * 5, -1)}) > CLASSES
    other = sheet(models, test, 5, torch.Generator().manual_seed(1))["samples"]
    assert (other != made["samples"]).any()


def test_a_class_of_fewer_images_than_columns_repeats_them():
    models = [vaegan("one").eval().requires_grad_(False)]
    made = sheet(models, make_split("test").take(slice(3 * CLASSES)), 8, torch.Generator())
    assert (made["images"][:, :3] == made["images"][:, 3:6]).all()


@pytest.mark.parametrize("space", ["learned_manifold", "data_manifold"])
def test_a_class_without_test_images_has_no_measures(space):
    test = make_split("test")
    test = test.take(test.labels != 2)
    models = [Known([-0.04, 0, 0, 0])] * (CLASSES if space == "learned_manifold" else 1)
    rows = measured(models, replace(THREAT, space=space), test=test)
    row = rows[2]
    assert (row["class"], row["images"], row["radius"]) == (test.classes[2], 0, 0.3)
    assert {row[name] for name in _MEASURES} == {None}
    assert len(_MEASURES) == 11
    assert rows[None]["images"] == len(test)
    assert rows[None]["accuracy"] == pytest.approx(1 / 3)


def test_tables_and_words_of_a_class_without_test_images(tmp_path):
    test = make_split("test")
    rows = measured([Known([-0.04, 0, 0, 0])] * CLASSES, test=test.take(test.labels != 0))
    write_table(
        tmp_path / "quality.parquet", pa.Table.from_pylist([*rows.values()], QUALITY), QUALITY
    )
    table = read_table(tmp_path / "quality.parquet", QUALITY)
    lines = {line.split()[0]: line.split()[1:] for line in quality_text(table).splitlines()[1:]}
    assert lines["images"] == ["0", "60", "60", "60", "180"]
    assert lines["l1"][0] == "-"
    (quality_over_all,) = _by_manifold(table).values()
    assert 0 <= quality_over_all.accuracy <= 1


@pytest.mark.parametrize("models", [CLASSES, 1])
def test_a_class_without_test_images_has_samples_alone(models):
    test = make_split("test")
    networks = [vaegan(str(k)).eval().requires_grad_(False) for k in range(models)]
    without, whole = (
        sheet(networks, split, 5, torch.Generator().manual_seed(0))
        for split in (test.take(test.labels != 1), test)
    )
    for name, pictures in without.items():
        assert pictures.shape == (CLASSES, 5, 1, 28, 28)
        assert (pictures[1] == (whole[name][1] if name == "samples" else NO_IMAGE)).all()
        for label in (0, 2, 3):
            assert (pictures[label] == whole[name][label]).all()
    figure = manifold(test.classes, Shown(**without))
    figure.savefig(io.BytesIO(), dpi=50)


def test_codes_of_a_split_without_a_class():
    test = make_split("test")
    networks = [vaegan(str(k)).eval().requires_grad_(False) for k in range(CLASSES)]
    rows = test.labels != 1
    assert torch.equal(encode(networks, test.take(rows)), encode(networks, test)[rows])
