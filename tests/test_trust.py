"""What is read is what was written, or is refused in one sentence; nothing read can run code."""

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


def tensors(path: Path) -> object:
    held, header = load_tensors(path)
    return {name: tensor.tolist() for name, tensor in held.items()}, header


def table(path: Path) -> object:
    return read_table(path, CURVES).to_pydict()


FILES = {
    "safetensors": (lambda path: save_tensors(path, TENSORS, HEADER), tensors),
    "Parquet": (lambda path: write_table(path, ROWS, CURVES), table),
}


@pytest.mark.parametrize(("write", "read"), FILES.values(), ids=FILES)
def test_a_file_cut_off_anywhere_is_refused(write, read, tmp_path):
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    assert read(path)
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)


def assert_one_sentence(error: UserError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("write", "read"), FILES.values(), ids=FILES)
def test_a_file_with_a_flipped_bit_is_refused_or_says_the_same(write, read, tmp_path):
    """In each of its bytes; some of a safetensors file's, such as its padding, are not read."""
    path = tmp_path / "file"
    write(path)
    whole, said = path.read_bytes(), read(path)
    refused = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            got = read(path)
        except UserError as error:
            assert_one_sentence(error, path)
            refused += 1
        else:
            assert got == said, place
    assert refused > len(whole) / 4
    assert refused == len(whole) or read is not table


def test_a_file_without_a_digest_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for header in (None, {"robustgen": "{}"}, {"robustgen": "[]"}, {"robustgen": "{"}):
        save_file(TENSORS, path, metadata=header)
        with pytest.raises(UserError, match=r"a\.safetensors is"):
            load_tensors(path)


def test_a_damaged_file_that_is_a_link_is_named_by_where_it_lies(tmp_path):
    """Removing the link would bring the same file back from where studies share it."""
    link, shared = tmp_path / "link.safetensors", tmp_path / "shared.safetensors"
    shared.write_bytes(b"damaged")
    link.symlink_to(shared)
    with pytest.raises(UserError, match=f"remove {shared}, then name {link} as a target"):
        load_tensors(link)


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=f"remove {tmp_path}/a.parquet, then name"):
        read_table(path, CURVES)


WRITING = """
import sys, time
from pathlib import Path
from robustgen.io.atomic import atomic_write

with atomic_write("table.txt") as partial:
    partial.write_text("half")
    Path("begun").touch()
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", WRITING], cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        assert child.poll() is None
        time.sleep(0.01)
    (half,) = tmp_path.glob(".table.txt.*")
    with atomic_write(tmp_path / "table.txt") as partial:
        partial.write_text("whole")
    assert half.read_text() == "half"
    child.kill()
    child.wait()
    with atomic_write(tmp_path / "table.txt") as partial:
        partial.write_text("whole again")
    assert {path.name for path in tmp_path.iterdir()} == {"begun", "table.txt"}
    assert (tmp_path / "table.txt").read_text() == "whole again"


UNSAFE = {"eval", "exec", "torch.load", "torch.save", "extractall", "unpack_archive"}


def test_nothing_is_read_that_can_run_code():
    """Nor do archives say where their files go."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("workflow/**/*.py")]
    assert len(sources) > 70
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "shelve", "marshal", "joblib", "dill"}, path
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in UNSAFE, (path, called)
                method = called.rpartition(".")[2]
                assert method not in UNSAFE - {"eval"}, (path, called)
                allowed = {word.arg: word.value for word in node.keywords}.get("allow_pickle")
                assert allowed is None or allowed.value is False, path
