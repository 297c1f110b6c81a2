import numpy as np
import pytest
import torch
from conftest import make_split

from robustgen.data.decoders import parameter_bounds, warp
from robustgen.data.font_codes import draw_codes
from robustgen.data.split import Split, balanced_order, load_split
from robustgen.errors import UserError
from robustgen.io.parquet import write_table
from robustgen.io.schemas import EXAMPLES, PARAMETERS
from robustgen.io.tensors import save_tensors
from robustgen.specs import PARAMETER_RANGES

SETTINGS = dict(
    study_seed=0,
    dataset="fonts",
    fonts=5,
    letters="XYZ",
    train_images_per_glyph=7,
    test_images_per_glyph=2,
)


@pytest.fixture(scope="module")
def codes():
    return draw_codes(**SETTINGS, transformations="hard")


def test_every_letter_of_every_font_is_drawn_equally_often(codes):
    counts = codes.to_pandas().groupby(["split", "source_index"], observed=True).size()
    assert (counts["train"] == 7).all()
    assert (counts["test"] == 2).all()
    assert len(counts["train"]) == len(counts["test"]) == 15


def test_the_first_n_are_balanced_for_every_n(codes):
    rows = codes.to_pandas()
    assert (rows["label"] == rows["source_index"] % 3).all()
    assert (rows["font"] * 3 + rows["label"] == rows["source_index"]).all()
    assert (rows["letter"] == np.array(list("XYZ"))[rows["label"]]).all()
    for split in ("train", "test"):
        labels = rows[rows["split"] == split]["label"].to_numpy()
        for n in range(3, len(labels) + 1, 3):
            assert (np.bincount(labels[:n]) == n // 3).all()


@pytest.mark.parametrize("name", ["easy", "moderate", "hard"])
def test_parameters_fill_their_ranges_uniformly(name):
    rows = draw_codes(
        **{**SETTINGS, "train_images_per_glyph": 400}, transformations=name
    ).to_pandas()
    for parameter, lower, upper in zip(PARAMETERS, *PARAMETER_RANGES[name], strict=True):
        uniform = (rows[parameter].to_numpy().astype(float) - lower) / (upper - lower)
        assert uniform.min() >= -1e-6
        assert uniform.max() <= 1 + 1e-6
        empirical = np.arange(len(uniform)) / len(uniform)
        # Kolmogorov-Smirnov test at the level 1e-6, for these 6030 draws
        assert np.abs(np.sort(uniform) - empirical).max() < 2.7 / np.sqrt(len(uniform))


def test_codes_depend_on_seed_and_data_set(codes):
    assert draw_codes(**SETTINGS, transformations="hard").equals(codes)
    assert not draw_codes(**{**SETTINGS, "study_seed": 1}, transformations="hard").equals(codes)
    assert not draw_codes(**{**SETTINGS, "dataset": "other"}, transformations="hard").equals(codes)


def test_a_new_letter_does_not_change_the_codes_of_the_others(codes):
    rows = draw_codes(**{**SETTINGS, "letters": "XYZA"}, transformations="hard").to_pandas()
    old_letters = rows[rows["letter"] != "A"].reset_index(drop=True)
    for name in ("split", "letter", "font", *PARAMETERS):
        assert (old_letters[name] == codes.to_pandas()[name]).all(), name


def test_images_are_decoded_from_their_codes(tmp_path, codes):
    source_images = (torch.rand(15, 1, 28, 28) * 255).byte()
    save_tensors(tmp_path / "images.safetensors", {"images": source_images}, {})
    write_table(tmp_path / "codes.parquet", codes, codes.schema)
    split = load_split(tmp_path / "images.safetensors", tmp_path / "codes.parquet", "test")
    rows = codes.to_pandas().query("split == 'test'")
    assert split.classes == ("X", "Y", "Z")
    assert split.labels.tolist() == rows["label"].tolist()
    expected = warp(
        source_images[torch.tensor(rows["source_index"].to_list())].float() / 255,
        torch.tensor(rows[list(PARAMETERS)].to_numpy()),
    )
    assert torch.equal(split.images(), expected)
    index = torch.tensor([[3, 1], [0, 8]])
    assert torch.equal(split.select(index).images(), expected[index])


def test_examples_without_codes_are_their_source_images(tmp_path):
    source_images = (torch.rand(4, 3, 8, 8) * 255).byte()
    save_tensors(tmp_path / "images.safetensors", {"images": source_images}, {})
    schema = EXAMPLES.with_metadata({"ranges": "easy", "classes": '["a", "b"]'})
    rows = {"split": ["train", "train", "test", "test"], "label": [0, 1, 0, 1]}
    write_table(tmp_path / "e.parquet", {**rows, "source_index": [2, 3, 0, 1]}, schema)
    split = load_split(tmp_path / "images.safetensors", tmp_path / "e.parquet", "train")
    assert split.codes is None
    assert torch.equal(split.images(), source_images[[2, 3]].float() / 255)


def test_materialized_images_equal_decoded_ones():
    split, index = make_split("test"), torch.tensor([[5, 0], [7, 7]])
    materialized = split.materialize()
    assert torch.equal(materialized.images(), split.images())
    assert torch.equal(materialized.select(index).images(), split.images()[index])


def test_only_source_images_in_use_are_materialized_and_as_bytes():
    """Floats of a large data set would need four times the memory."""
    source_images = (torch.rand(30, 3, 8, 8) * 255).byte()
    source_index = torch.tensor([7, 2, 29, 2])
    ranges = parameter_bounds("slight")
    split = Split(source_images, source_index, source_index % 2, None, ranges, ("even", "odd"))
    materialized = split.materialize()
    assert materialized.source_images.dtype == torch.uint8
    assert materialized.source_images.shape == (4, 3, 8, 8)
    assert torch.equal(materialized.images(), split.images())
    selected = materialized.select(torch.tensor([[3], [0]]))
    assert torch.equal(selected.images(), split.images()[[3, 0]][:, None])


def test_large_splits_are_decoded_in_chunks(monkeypatch):
    split = make_split("test")
    images = split.images()
    monkeypatch.setattr("robustgen.data.split.EXAMPLES_PER_CHUNK", 7)
    torch.testing.assert_close(split.images(), images)


def test_a_damaged_file_is_one_sentence(tmp_path, codes):
    write_table(tmp_path / "codes.parquet", codes, codes.schema)
    (tmp_path / "images.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"images\.safetensors is not a readable safetensors file"):
        load_split(tmp_path / "images.safetensors", tmp_path / "codes.parquet", "test")


def test_the_balanced_order_of_equal_classes_has_every_row():
    labels = np.repeat([2, 0, 1], 5)
    order = balanced_order(labels, [torch.Generator().manual_seed(k) for k in range(3)])
    assert sorted(order) == list(range(15))
    assert labels[order].tolist() == [0, 1, 2] * 5
