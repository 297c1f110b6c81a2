"""Names of variables and parameters are noun phrases, not bare function words or participles."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

MAX_SHARE = 0.005
"""Largest allowed share of the words below among the names that are bound in a folder."""

BARE_WORDS = {
    "prepositions": """
        of at by from in into on onto over under with without within towards along beside besides
        between before after above below beyond around against among since near until up down off
        out through across
    """,
    "pronouns": """
        it its they them this that these those ours mine theirs own one another other others
    """,
    "question words": "how what when which who why whether",
    "quantifiers": """
        some any all both each every few many more most much several none same enough less least
        such
    """,
    "adverbs": """
        here there where away apart aside again also always ever never now once only then like
    """,
    "participles": """
        made held found kept known drawn shown told said given taken chosen learnt laid sent left
        met named asked moved wanted noted listed tested measured padded cut hidden done going gone
    """,
}
"""Words by their kind that name nothing on their own: a reader must guess the noun."""

WORDS = frozenset(word for words in BARE_WORDS.values() for word in words.split())
FOLDERS = ("src", "workflow", "benchmarks", "tests")


class Binding(NamedTuple):
    """A variable or parameter that is bound at a line of a file."""

    line: int
    name: str


def iterate_bindings(source: str) -> Iterator[Binding]:
    """Yield every variable that a Python source assigns, and every parameter that it declares."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Binding(node.lineno, node.id)
        elif isinstance(node, ast.arg):
            yield Binding(node.lineno, node.arg)


def find_bare_words(bindings: Iterable[Binding]) -> list[Binding]:
    """Return the bindings whose whole name, in any case, is a bare word; `_held` counts too."""
    return [binding for binding in bindings if binding.name.removeprefix("_").lower() in WORDS]


def find_files(folder: Path) -> list[Path]:
    """Return the Python files below a folder, in a fixed order."""
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_few_names_are_bare_function_words_or_participles(folder: str) -> None:
    total, places = 0, []
    for path in find_files(ROOT / folder):
        bindings = list(iterate_bindings(path.read_text(encoding="utf-8")))
        total += len(bindings)
        places += [
            f"{path.relative_to(ROOT)}:{line} {name}" for line, name in find_bare_words(bindings)
        ]
    assert total, f"{folder} binds no name"
    share = len(places) / total
    assert share < MAX_SHARE, (
        f"{len(places)} of {total} names in {folder} ({share:.2%}) say nothing alone; rename them "
        "to noun phrases:\n" + "\n".join(places)
    )


SNIPPETS = {
    "an assignment": ("codes = 1\nheld = 2\n", [(2, "held")]),
    "a tuple": ("codes, found = 1, 2\n", [(1, "found")]),
    "a parameter": ("def decode(codes, of):\n    return codes\n", [(1, "of")]),
    "a keyword parameter": ("def decode(*, how=None): ...\n", [(1, "how")]),
    "starred parameters": ("def run(*given, **own): ...\n", [(1, "given"), (1, "own")]),
    "a parameter of a lambda": ("key = lambda each: each\n", [(1, "each")]),
    "the variable of a loop": ("for some in range(3):\n    pass\n", [(1, "some")]),
    "a comprehension": ("[x for x in range(3) for of in (x,)]\n", [(1, "of")]),
    "the target of with": ("with open('a') as known: ...\n", [(1, "known")]),
    "an assignment expression": ("if left := 1: ...\n", [(1, "left")]),
    "an annotated variable": ("rest: int\nmore: int = 1\n", [(2, "more")]),
    "a constant": ("MOST = 3\n", [(1, "MOST")]),
    "a private name": ("_here = 3\n", [(1, "_here")]),
    "two on a line": ("at = by = 1\n", [(1, "at"), (1, "by")]),
    "a name of Python itself": ("__all__ = ['a']\n", []),
    "compound names": ("is_active = left_column = images_of_class = 1\n", []),
    "uses without a binding": ("print(made)\nobject.held = 1\n", []),
    "imports, functions and attributes": ("import of\ndef when(): ...\n", []),
}


@pytest.mark.parametrize(("source", "expected"), SNIPPETS.values(), ids=SNIPPETS)
def test_bare_words_are_found_in_a_snippet(source: str, expected: list[tuple[int, str]]) -> None:
    assert sorted(find_bare_words(iterate_bindings(source))) == sorted(expected)


def test_every_binding_of_a_snippet_is_counted() -> None:
    source = "def search(codes, *, steps=3):\n    best = codes\n    for step in steps: ...\n"
    names = [binding.name for binding in iterate_bindings(source)]
    assert sorted(names) == ["best", "codes", "step", "steps"]


def test_the_failure_message_lists_file_line_and_name(tmp_path, monkeypatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/module.py").write_text("codes = 1\nheld = 2\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"1 of 2 names in src \(50\.00%\).*\n") as failure:
        test_few_names_are_bare_function_words_or_participles("src")
    assert "src/module.py:2 held" in str(failure.value)
