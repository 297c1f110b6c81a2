"""What the reader of config files would not tell of."""

import pytest
from conftest import SMOKE, changed, snakemake

from robustgen.config_files import read, refuse_repeated_keys
from robustgen.errors import UserError

REPEATED = {
    "a block": ("a: 1\nb: {c: 1}\na: 2\n", "line 3: a is there twice"),
    "a key in a block": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4: b is there twice"),
    "a key in a list": ("- {a: 1, a: 1}\n", "line 1: a is there twice"),
    "JSON": ('{"a": 1,\n "a": 2}', "line 2: a is there twice"),
}


@pytest.mark.parametrize(("text", "sentence"), REPEATED.values(), ids=REPEATED)
def test_a_key_that_is_there_twice_is_refused(tmp_path, text, sentence):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"study\.yaml, {sentence}, but must be there once"):
        refuse_repeated_keys(path)


@pytest.mark.parametrize("text", ["", "a: 1\nb: {a: 1}\nc: [{a: 1}, {a: 1}]\n", "a: [", "\x00"])
def test_other_files_are_not(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    refuse_repeated_keys(path)
    refuse_repeated_keys(tmp_path / "none.yaml")


UNREADABLE = {
    "not there": (None, "cannot be read: No such file or directory"),
    "not YAML": (b"a: 1\n  b: [1,\n", ", line 2, is not YAML: mapping values are not allowed here"),
    "not closed": (b"a: [1,\n", ", line 2, is not YAML: expected the node content, but found"),
    "not text": (b"\xff\x00", " is not YAML: invalid start byte"),
    "with a character that is none": (b'a: "\x07"', "YAML: special characters are not allowed"),
    "with a day that is none": (b"a: 2020-13-01\n", " is not YAML: month must be in 1..12"),
    "with a key twice": (b"a: 1\na: 2\n", ", line 2: a is there twice, but must be there once"),
}


@pytest.mark.parametrize(("held", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_one_sentence(tmp_path, held, sentence):
    path = tmp_path / "study.yaml"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(UserError) as raised:
        read(path)
    assert sentence in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["a: é\n", '{\n\t"a": "é"}'], ids=["YAML", "JSON"])
def test_a_file_is_read(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    assert read(path) == {"a": "é"}


def test_blocks_that_were_appended_are_one_sentence(tmp_path):
    """As a reader may do who is told that some lines join the blocks of a config."""
    config = changed(tmp_path)
    with config.open("a") as file:
        file.write("attacks: {}\n")
    assert SMOKE["attacks"]
    run = snakemake(tmp_path, "-n", config=config)
    assert run.returncode != 0
    assert f"robustgen: {config}, line " in run.stderr
    assert "attacks is there twice" in run.stderr
    assert "Traceback" not in run.stderr
