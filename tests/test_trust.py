"""Files are read back as they were written or refused in one sentence, and cannot run code."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from robustgen.errors import UserError
from robustgen.io.atomic import atomic_write
from robustgen.io.parquet import read_table, write_table
from robustgen.io.schemas import CURVES, empty
from robustgen.io.tensors import load_tensors, save_tensors

TENSORS = {"images": torch.arange(24, dtype=torch.uint8).view(2, 3, 4), "codes": torch.ones(3)}
HEADER = {"settings": {"radius": 0.3}, "seeds": [0, 1]}
ROWS = {name: [k + 1 for k in range(40)] for name in empty(CURVES)}


def read_safetensors(path: Path) -> object:
    tensors, header = load_tensors(path)
    return {name: tensor.tolist() for name, tensor in tensors.items()}, header


def read_parquet(path: Path) -> object:
    return read_table(path, CURVES).to_pydict()


FILES = {
    "safetensors": (lambda path: save_tensors(path, TENSORS, HEADER), read_safetensors),
    "Parquet": (lambda path: write_table(path, ROWS, CURVES), read_parquet),
}


@pytest.mark.parametrize(("write", "read"), FILES.values(), ids=FILES)
def test_a_truncated_file_is_refused(write, read, tmp_path):
    path = tmp_path / "file"
    write(path)
    content = path.read_bytes()
    assert read(path)
    for length in range(0, len(content), 3):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)


def assert_one_sentence(error: UserError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("write", "read"), FILES.values(), ids=FILES)
def test_a_file_with_a_flipped_bit_is_refused_or_read_unchanged(write, read, tmp_path):
    """A bit in each byte is flipped. Some bytes of safetensors, such as padding, are not read."""
    path = tmp_path / "file"
    write(path)
    content, expected = path.read_bytes(), read(path)
    refused_count = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            values = read(path)
        except UserError as error:
            assert_one_sentence(error, path)
            refused_count += 1
        else:
            assert values == expected, position
    assert refused_count > len(content) / 4
    assert refused_count == len(content) or read is not read_parquet


def test_a_file_without_a_digest_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for header in (None, {"robustgen": "{}"}, {"robustgen": "[]"}, {"robustgen": "{"}):
        save_file(TENSORS, path, metadata=header)
        with pytest.raises(UserError, match=r"a\.safetensors is"):
            load_tensors(path)


def test_a_damaged_file_behind_a_link_is_named_by_the_target_of_the_link(tmp_path):
    """If only the link were removed, Snakemake would link the same damaged file again."""
    link, shared = tmp_path / "link.safetensors", tmp_path / "shared.safetensors"
    shared.write_bytes(b"damaged")
    link.symlink_to(shared)
    with pytest.raises(UserError, match=f"remove {shared} and run again with {link} as a target"):
        load_tensors(link)


def test_a_table_with_another_schema_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=f"remove {tmp_path}/a.parquet and run again"):
        read_table(path, CURVES)


WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from robustgen.io.atomic import atomic_write

with atomic_write("table.txt") as partial:
    partial.write_text("half")
    Path("started").touch()
    time.sleep(60)
"""


def test_only_the_temporary_files_of_killed_writers_are_removed(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY], cwd=tmp_path)
    while not (tmp_path / "started").exists():
        assert child.poll() is None
        time.sleep(0.01)
    (temporary,) = tmp_path.glob(".table.txt.*")
    with atomic_write(tmp_path / "table.txt") as partial:
        partial.write_text("whole")
    assert temporary.read_text() == "half"
    child.kill()
    child.wait()
    with atomic_write(tmp_path / "table.txt") as partial:
        partial.write_text("whole again")
    assert {path.name for path in tmp_path.iterdir()} == {"started", "table.txt"}
    assert (tmp_path / "table.txt").read_text() == "whole again"


UNSAFE = {"eval", "exec", "torch.load", "torch.save", "extractall", "unpack_archive"}


def test_no_function_is_called_that_can_run_code_from_a_file():
    """Functions that extract files to paths which an archive names are not called either."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/**/*.py")]
    assert len(sources) > 70
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "shelve", "marshal", "joblib", "dill"}, path
            elif isinstance(node, ast.Call):
                function = ast.unparse(node.func)
                assert function not in UNSAFE, (path, function)
                method = function.rpartition(".")[2]
                assert method not in UNSAFE - {"eval"}, (path, function)
                arguments = {keyword.arg: keyword.value for keyword in node.keywords}
                allow_pickle = arguments.get("allow_pickle")
                assert allow_pickle is None or allow_pickle.value is False, path
