"""Tables hold what they were given, as pyarrow itself would hold it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from robustgen.files import numbers, read_table, write_table
from robustgen.tables import EXAMPLES
from robustgen.tensors import save_tensors

WORDS = pa.dictionary(pa.int8(), pa.string())
COLUMNS = {
    "integers": (np.arange(70), pa.int32()),
    "some missing": (np.ma.masked_less(np.arange(70), 9), pa.int32()),
    "all missing": (np.ma.masked_all(70, dtype=np.int64), pa.int32()),
    "to single precision": (np.linspace(0, 1, 70), pa.float32()),
    "not numbers": (np.ma.masked_invalid([np.nan, 1.5] * 35), pa.float64()),
    "a step in memory": (np.arange(140.0)[::2], pa.float64()),
    "flags": (np.arange(70) % 3 == 0, pa.bool_()),
    "flags, some missing": (
        np.ma.masked_array([True, False] * 35, [False] * 9 + [True] * 61),
        pa.bool_(),
    ),
    "a list": ([1, None, 3] * 2, pa.int64()),
    "a list of rates": ([0.1, None], pa.float64()),
    "objects": (np.array([1.5, None], dtype=object), pa.float64()),
    "nothing": ([], pa.float32()),
    "words": (["a", None, "a"], WORDS),
    "an array of words": (np.array(["a", "bc"]), pa.string()),
}


@pytest.mark.parametrize(("values", "kind"), COLUMNS.values(), ids=COLUMNS)
def test_columns_are_those_that_pyarrow_makes(tmp_path, values, kind):
    schema = pa.schema([pa.field("x", kind, metadata={"unit": "1"})])
    write_table(tmp_path / "t.parquet", {"x": values}, schema)
    found = read_table(tmp_path / "t.parquet", schema)
    assert found.column("x").combine_chunks().equals(pa.array(values, kind))
    assert found.schema.field("x").metadata == {b"unit": b"1"}


def test_a_number_that_does_not_fit_is_refused(tmp_path):
    schema = pa.schema([("x", pa.int32())])
    with pytest.raises(ValueError, match="do not fit int32"):
        write_table(tmp_path / "t.parquet", {"x": np.array([1, 2**40])}, schema)
    with pytest.raises(ValueError, match="do not fit int32"):
        write_table(tmp_path / "t.parquet", {"x": np.array([1, 2.5])}, schema)
    with pytest.raises(ValueError, match="do not fit double"):
        write_table(tmp_path / "t.parquet", {"x": [2**53 + 1]}, pa.schema([("x", pa.float64())]))
    with pytest.raises(pa.ArrowInvalid):
        write_table(tmp_path / "t.parquet", {"x": np.zeros((2, 3))}, schema)
    assert not list(tmp_path.iterdir())


def test_columns_of_several_parts_are_read_whole(tmp_path):
    table = pa.table({"x": np.arange(10)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    read = pq.ParquetFile(tmp_path / "t.parquet").read_row_groups([0, 1, 2])["x"]
    parts = pa.chunked_array([*read.chunks, pa.array([10])])
    assert numbers(parts).tolist() == list(range(11))


JOB = """
import sys
import numpy as np
from robustgen import device, evaluation, training
from robustgen.datasets import load
from robustgen.files import write_table
from robustgen.manifolds import vaegan
from robustgen.tables import CURVES, PREDICTIONS, empty

assert len(load("images.safetensors", "examples.parquet", "test")) == 2
write_table("rows.parquet", dict.fromkeys(PREDICTIONS.names, np.arange(3)), PREDICTIONS)
rows = {name: [1, 2] for name in empty(CURVES)} | {"success_rate": [None, None]}
write_table("curves.parquet", rows, CURVES)
slow = {"pandas", "pyarrow.compute", "pyarrow.dataset", "torch._dynamo"} & set(sys.modules)
sys.exit(f"imported: {slow}" if slow else 0)
"""


def test_jobs_do_not_import_what_takes_long(tmp_path):
    """Of the dozens of jobs of a study, most would spend a tenth of their start on it."""
    save_tensors(tmp_path / "images.safetensors", {"images": torch.zeros(1, 1, 8, 8).byte()}, {})
    schema = EXAMPLES.with_metadata({"ranges": "easy", "classes": '["a", "b"]'})
    rows = {"split": ["train", "test"] * 2, "label": [0, 0, 1, 1], "source": [0] * 4}
    write_table(tmp_path / "examples.parquet", rows, schema)
    run = subprocess.run([sys.executable, "-c", JOB], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
