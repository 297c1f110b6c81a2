from pathlib import Path

import pytest

from robustgen import fingerprint as subject

FILES = {
    "pkg/__init__.py": '__version__ = "1"\n',
    "pkg/low.py": "def f():\n    return 1\n",
    "pkg/high.py": "from pkg import low\n\n\ndef g():\n    return low.f()\n",
    "pkg/other.py": "X = 1\n",
    "pkg/sub/__init__.py": "from pkg.sub import leaf\n",
    "pkg/sub/leaf.py": "Y = 1\n",
    "direct.py": "import pkg.high\n",
    "name.py": "from pkg.high import g\n",
    "nested.py": "def f():\n    from pkg.sub.leaf import Y\n    return Y\n",
}

CHANGES = {
    # name: (file, new text, scripts whose fingerprint must change)
    "code below": ("pkg/low.py", "def f():\n    return 2\n", {"direct", "name"}),
    "code of a sub-package": ("pkg/sub/leaf.py", "Y = 2\n", {"nested"}),
    "a package's own imports": ("pkg/sub/__init__.py", "from pkg import other\n", {"nested"}),
    "the script": ("name.py", "from pkg.high import g\ng()\n", {"name"}),
    "unused code": ("pkg/other.py", "X = 2\n", set()),
    "the version": ("pkg/__init__.py", '__version__ = "2"\n', set()),
    "a comment": ("pkg/low.py", "def f():  # one\n    return 1\n", set()),
    "a docstring": ("pkg/low.py", '"""Low."""\ndef f():\n    """One."""\n    return 1\n', set()),
    "formatting": ("pkg/low.py", "def f( ):\n\n\n    return (1)\n", set()),
}


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(subject, "PACKAGE", tmp_path / "pkg")
    monkeypatch.setattr(subject, "ROOT", "pkg")
    return tmp_path


def all_of(tree: Path) -> dict[str, str]:
    subject.code.cache_clear()
    subject._imports.cache_clear()
    return {name: subject.fingerprint(tree / f"{name}.py") for name in ("direct", "name", "nested")}


@pytest.mark.parametrize(("file", "text", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_exactly_the_scripts_that_run_it_change(tree, file, text, changed):
    before = all_of(tree)
    (tree / file).write_text(text)
    after = all_of(tree)
    assert {name for name in before if before[name] != after[name]} == changed


def test_scripts_depend_on_the_modules_that_they_import():
    scripts = Path(__file__).parents[1] / "workflow" / "scripts"
    train = subject._closure(scripts / "train.py")
    assert {"robustgen.attack", "robustgen.networks.convnet", "robustgen.affine"} <= train
    assert not {"robustgen.study", "robustgen.distance", "robustgen.figures"} & train
    assert "robustgen.attack" not in subject._closure(scripts / "distances.py")
