"""Mistakes in config files that YAML and JSON readers accept silently are refused."""

import pytest
from conftest import SMOKE, snakemake, write_config

from robustgen.config.yaml_files import read, refuse_misread_values, refuse_repeated_keys
from robustgen.errors import UserError

REPEATED = {
    "a block": ("a: 1\nb: {c: 1}\na: 2\n", "line 3: a is there twice"),
    "a key in a block": ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4: b is there twice"),
    "a key in a list": ("- {a: 1, a: 1}\n", "line 1: a is there twice"),
    "JSON with tabs": ('{\n\t"a": 1,\n\t"a": 2}', "line 3: a is there twice"),
    "JSON": ('{"a": 1,\n "a": 2}', "line 2: a is there twice"),
}


@pytest.mark.parametrize(("text", "sentence"), REPEATED.values(), ids=REPEATED)
def test_a_repeated_key_is_refused(tmp_path, text, sentence):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"study\.yaml, {sentence}, but must be there once"):
        refuse_repeated_keys(path)


MISREAD = {
    "octal": ("060", 'the octal number 48; write 60, or "060" if it is text'),
    "zero": ("00", 'the octal number 0; write 0, or "00" if it is text'),
    "signed": ("-0_10", 'the octal number -8; write -10, or "-0_10" if it is text'),
    "hexadecimal": ("0x1F", 'the hexadecimal number 31; write 31, or "0x1F" if it is text'),
    "binary": ("0b1_1", 'the binary number 3; write 3, or "0b1_1" if it is text'),
    "a time": ("1:30", 'the sexagesimal number 90; write 90, or "1:30" if it is text'),
    "a time of the day": ("1:30:05", "the sexagesimal number 5405; write 5405, or"),
    "a fraction": ("1:30.5", "the sexagesimal number 90.5; write 90.5, or"),
    "a tag": ("!!int '060'", "the octal number 48; write 60, or"),
    "Norway": ("NO", 'a truth value; write "NO" in quotes if it is text, or else true or false'),
    "on": ("on", 'a truth value; write "on" in quotes if it is text, or else true or false'),
    "a date": ("2026-01-31", 'a date; write "2026-01-31" in quotes'),
}
PLACES = {
    "value": "a: 1\nb: {}\n",
    "item": "- 1\n- [2, {}]\n",
    "key": "a: 1\n{}: 3\n",
    "key in a flow": "a: [&b [*b],\n  {{{}: 3}}]\n",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("text", "meaning"), MISREAD.values(), ids=MISREAD)
def test_a_value_that_yaml_misreads_is_refused(tmp_path, text, meaning, place):
    path = tmp_path / "study.yaml"
    path.write_text(place.format(text))
    with pytest.raises(UserError) as raised:
        read(path)
    value = text.removeprefix("!!int ").strip("'")
    assert str(raised.value).startswith(f"{path}, line 2: YAML reads {value} as {meaning}")


UNAMBIGUOUS = [
    "0",
    "-7",
    "1_000",
    "0.5",
    "00.5",
    "1.0e-4",
    "1e3",
    "08",
    "0o17",
    "true",
    "False",
    "null",
]
QUOTED = ['"060"', "'1:30'", '"NO"', "'2026-01-31'", "!!str 060"]
WORDS = ["none", "Norway", "1:99", "12:30pm", "0x", "2026-1", "C:/0/1", ".inf"]


@pytest.mark.parametrize("text", [*UNAMBIGUOUS, *QUOTED, *WORDS])
def test_unambiguous_values_are_accepted(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(f"{{a: {text}, {text}: [{text}]}}\n")
    refuse_misread_values(path)


@pytest.mark.parametrize("text", ["", "a: 1\nb: {a: 1}\nc: [{a: 1}, {a: 1}]\n", "a: [", "\x00"])
def test_files_without_repeated_keys_or_misread_values_are_accepted(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    for file in (path, tmp_path / "none.yaml"):
        refuse_repeated_keys(file)
        refuse_misread_values(file)


UNREADABLE = {
    "missing": (None, "cannot be read: No such file or directory"),
    "not YAML": (b"a: 1\n  b: [1,\n", ", line 2, is not YAML: mapping values are not allowed here"),
    "not closed": (b"a: [1,\n", ", line 2, is not YAML: expected the node content, but found"),
    "not text": (b"\xff\x00", " is not YAML: invalid start byte"),
    "with a control character": (b'a: "\x07"', "YAML: special characters are not allowed"),
    "with a day that does not exist": (b"a: 2020-13-01\n", " is not YAML: month must be in 1..12"),
    "nested without end": (b"[" * 100_000, " is nested too deeply"),
    "with a key twice": (b"a: 1\na: 2\n", ", line 2: a is there twice, but must be there once"),
}


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read(path)
    assert sentence in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["a: é\n", '{\n\t"a": "é"}'], ids=["YAML", "JSON"])
def test_yaml_and_json_files_are_read(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    assert read(path) == {"a": "é"}


def test_a_block_that_was_appended_twice_is_one_sentence(tmp_path):
    """Users append blocks of the documentation to their config, which may have them already."""
    config = write_config(tmp_path)
    with config.open("a") as file:
        file.write("attacks: {}\n")
    assert SMOKE["attacks"]
    run = snakemake(tmp_path, "-n", config=config)
    assert run.returncode != 0
    assert f"robustgen: {config}, line " in run.stderr
    assert "attacks is there twice" in run.stderr
    assert "Traceback" not in run.stderr
