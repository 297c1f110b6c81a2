"""Tables, provenance and atomic writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from robustgen.io.atomic import atomic_write
from robustgen.io.parquet import column_to_numpy, read_table, write_table
from robustgen.io.schemas import EXAMPLES
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import _read_commit

WORDS = pa.dictionary(pa.int8(), pa.string())
COLUMNS = {
    "integers": (np.arange(70), pa.int32()),
    "some missing": (np.ma.masked_less(np.arange(70), 9), pa.int32()),
    "all missing": (np.ma.masked_all(70, dtype=np.int64), pa.int32()),
    "rounded to single precision": (np.linspace(0, 1, 70), pa.float32()),
    "NaN as missing": (np.ma.masked_invalid([np.nan, 1.5] * 35), pa.float64()),
    "strided memory": (np.arange(140.0)[::2], pa.float64()),
    "flags": (np.arange(70) % 3 == 0, pa.bool_()),
    "flags, some missing": (
        np.ma.masked_array([True, False] * 35, [False] * 9 + [True] * 61),
        pa.bool_(),
    ),
    "a list": ([1, None, 3] * 2, pa.int64()),
    "a list of rates": ([0.1, None], pa.float64()),
    "objects": (np.array([1.5, None], dtype=object), pa.float64()),
    "an empty list": ([], pa.float32()),
    "words": (["a", None, "a"], WORDS),
    "an array of words": (np.array(["a", "bc"]), pa.string()),
}


@pytest.mark.parametrize(("values", "dtype"), COLUMNS.values(), ids=COLUMNS)
def test_columns_equal_those_of_pyarrow(tmp_path, values, dtype):
    schema = pa.schema([pa.field("x", dtype, metadata={"unit": "1"})])
    write_table(tmp_path / "t.parquet", {"x": values}, schema)
    table = read_table(tmp_path / "t.parquet", schema)
    assert table.column("x").combine_chunks().equals(pa.array(values, dtype))
    assert table.schema.field("x").metadata == {b"unit": b"1"}


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


def test_columns_of_several_chunks_are_joined(tmp_path):
    table = pa.table({"x": np.arange(10)})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4)
    read = pq.ParquetFile(tmp_path / "t.parquet").read_row_groups([0, 1, 2])["x"]
    column = pa.chunked_array([*read.chunks, pa.array([10])])
    assert column_to_numpy(column).tolist() == list(range(11))


JOB = """
import sys
from pathlib import Path
import numpy as np
from robustgen import device
from robustgen.evaluation import attacks
from robustgen.training import classifiers
from robustgen.data.split import load_split
from robustgen.io.parquet import write_table
from robustgen.models import vaegan
from robustgen.io.schemas import CURVES, PREDICTIONS, empty

assert len(load_split("images.safetensors", "examples.parquet", "test")) == 2
write_table("rows.parquet", dict.fromkeys(PREDICTIONS.names, np.arange(3)), PREDICTIONS)
rows = {name: [1, 2] for name in empty(CURVES)} | {"error_attacked_eval": [None, None]}
write_table("curves.parquet", rows, CURVES)
slow_modules = {"pandas", "pyarrow.compute", "pyarrow.dataset", "torch._dynamo"} & set(sys.modules)
sys.exit(f"imported: {slow_modules}" if slow_modules else 0)
"""


def test_jobs_do_not_import_slow_modules(tmp_path):
    """These imports would take a tenth of the start of most jobs."""
    save_tensors(tmp_path / "images.safetensors", {"images": torch.zeros(1, 1, 8, 8).byte()}, {})
    schema = EXAMPLES.with_metadata({"ranges": "easy", "classes": '["a", "b"]'})
    rows = {"split": ["train", "test"] * 2, "label": [0, 0, 1, 1], "source_index": [0] * 4}
    write_table(tmp_path / "examples.parquet", rows, schema)
    run = subprocess.run([sys.executable, "-c", JOB], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, which tracks `tracked.py`."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tracked.py").write_text("1\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    return folder


def read_head(repository: Path) -> str:
    command = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_repository_that_tracks_the_file(repository: Path) -> None:
    commit = read_head(repository)
    assert _read_commit(repository / "tracked.py") == commit
    (repository / "tracked.py").write_text("2\n")
    assert _read_commit(repository / "tracked.py") == f"{commit}+changed"


def test_a_project_unpacked_in_another_repository_has_no_commit(repository: Path) -> None:
    (repository / "unpacked").mkdir()
    (repository / "unpacked" / "tracked.py").write_text("1\n")
    assert _read_commit(repository / "unpacked" / "tracked.py") == "none"


def test_variables_of_git_do_not_select_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "untracked").mkdir()
    (tmp_path / "untracked" / "tracked.py").write_text("1\n")
    commit = read_head(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "untracked"))
    assert _read_commit(tmp_path / "untracked" / "tracked.py") == "none"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert _read_commit(repository / "tracked.py") == commit


def test_there_is_no_commit_if_git_fails(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a repository of another user, git prints an error and exits with status 128."""
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text("#!/bin/sh\necho fatal: detected dubious ownership\nexit 128\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert _read_commit(repository / "tracked.py") == "none"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert _read_commit(repository / "tracked.py") == "none"


def test_only_abandoned_temporary_files_are_removed(tmp_path: Path) -> None:
    for name in (".x.gz.abcd_123.gz", ".x.gz.bak", ".x.gz.my_notes"):
        (tmp_path / name).write_text("x")
    with atomic_write(tmp_path / "x.gz") as temporary:
        temporary.write_text("y")
    assert {path.name for path in tmp_path.iterdir()} == {"x.gz", ".x.gz.bak", ".x.gz.my_notes"}
