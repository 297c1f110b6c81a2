import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import snakemake

from robustgen.errors import UserError
from robustgen.jobs import fingerprint as subject

FILES = {
    "pkg/__init__.py": '__version__ = "1"\n',
    "pkg/low.py": "def f():\n    return _g() + X\n\n\ndef _g():\n    return 1\n\n\nX = 1\nY = 1\n",
    "pkg/high.py": "from pkg import low\nfrom pkg.low import Y\n"
    "def g():\n    return low.f()\ndef h():\n    return Y\n",
    "pkg/other.py": "X = 1\n",
    "pkg/kinds.py": "class A:\n    def go(self):\n        return 1\n"
    "class B(A):\n    pass\nKINDS = {'a': A}\n",
    "pkg/sub/__init__.py": "from pkg.sub import leaf\n",
    "pkg/sub/leaf.py": "Y = 1\nZ = 1\n",
    "direct.py": "import pkg.high\npkg.high.g()\n",
    "name.py": "from pkg.high import g\ng()\n",
    "nested.py": "def f():\n    from pkg.sub.leaf import Y\n    return Y\n",
    "module.py": "from pkg.sub import leaf as held\nprint(held.Z)\n",
    "registry.py": "from pkg.kinds import KINDS\nKINDS['a']().go()\n",
}
SCRIPTS = ("direct", "name", "nested", "module", "registry")

CHANGES = {
    # name: (file, what stands there, what is put there, scripts whose fingerprint must change)
    "code that is called": ("pkg/low.py", "return 1", "return 2", {"direct", "name"}),
    "a constant that is read": ("pkg/low.py", "X = 1", "X = 2", {"direct", "name"}),
    "a constant of it that is not read": ("pkg/low.py", "Y = 1", "Y = 2", {"direct"}),
    "a function beside it": ("pkg/high.py", "return Y", "return -Y", {"direct"}),
    "a statement that an import runs": ("pkg/low.py", "X = 1", "X = 1\nf()", {"direct", "name"}),
    "one in a module that nothing imports": ("pkg/other.py", "X = 1", "X = 1\nprint()", set()),
    "what is imported in a function": ("pkg/sub/leaf.py", "Y = 1", "Y = 2", {"nested"}),
    "an attribute of a module": ("pkg/sub/leaf.py", "Z = 1", "Z = 2", {"module"}),
    "what a package's import runs": (
        "pkg/sub/__init__.py",
        "leaf\n",
        "leaf\nprint()\n",
        {"nested", "module"},
    ),
    "a class in a registry": ("pkg/kinds.py", "return 1", "return 2", {"registry"}),
    "a class that is in none": ("pkg/kinds.py", "pass", "x = 1", set()),
    "where a name is imported from": (
        "pkg/high.py",
        "from pkg import low",
        "from pkg import other as low",
        {"direct", "name"},
    ),
    "the script": ("name.py", "g()", "g(), g()", {"name"}),
    "unused code": ("pkg/other.py", "X = 1", "X = 2", set()),
    "the version": ("pkg/__init__.py", "1", "2", set()),
    "an unused import": ("pkg/low.py", "def f", "import os\ndef f", {"direct"}),
    "a comment": ("pkg/low.py", "def f():", "def f():  # one", set()),
    "a docstring": ("pkg/low.py", "def f():", '"""Low."""\ndef f():\n    """One."""', set()),
    "formatting": ("pkg/low.py", "return 1", "\n\n    return (1)", set()),
}


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Iterator[Path]:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(subject, "PACKAGE", tmp_path / "pkg")
    monkeypatch.setattr(subject, "ROOT", "pkg")
    subject.forget()
    yield tmp_path
    subject.forget()


def all_of(tree: Path) -> dict[str, str]:
    subject.forget()
    return {name: subject.fingerprint(tree / f"{name}.py") for name in SCRIPTS}


@pytest.mark.parametrize(("file", "old", "new", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_exactly_the_scripts_that_run_it_change(tree, file, old, new, changed):
    before = all_of(tree)
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    after = all_of(tree)
    assert {name for name in before if before[name] != after[name]} == changed


def test_where_things_lie_does_not_count(tree, monkeypatch):
    """Neither whether a script comes before or after the package, nor how its path is written."""
    before = all_of(tree)
    for place in ("aaa", "zzz"):
        (tree / place).mkdir()
        for name, digest in before.items():
            copy = tree / place / f"{name}.py"
            copy.write_text((tree / f"{name}.py").read_text())
            assert subject.fingerprint(copy) == digest, (place, name)
    monkeypatch.chdir(tree / "aaa")
    subject.forget()
    assert subject.fingerprint("../direct.py") == before["direct"]


def test_a_relative_import_is_refused(tree):
    (tree / "pkg/high.py").write_text("from . import low\n\n\ndef g():\n    return low.f()\n")
    with pytest.raises(UserError, match="the import of low is relative"):
        subject.fingerprint(tree / "name.py")


def test_an_import_of_all_names_is_refused(tree):
    (tree / "pkg/high.py").write_text("from pkg.low import *\n\n\ndef g():\n    return f()\n")
    with pytest.raises(UserError, match=r"the import of \* names no name"):
        all_of(tree)


def test_modules_that_are_not_used_do_not_count(tree):
    before = subject.fingerprint(tree / "name.py", ["pkg.low"])
    assert before != subject.fingerprint(tree / "name.py")
    rewritten = (tree / "pkg/low.py").read_text().replace("return 1", "return 2")
    (tree / "pkg/low.py").write_text(rewritten)
    all_of(tree)
    assert subject.fingerprint(tree / "name.py", ["pkg.low"]) == before
    with pytest.raises(FileNotFoundError, match=r"there is no module pkg\.lower"):
        subject.fingerprint(tree / "name.py", ["pkg.lower"])


LIBRARY = subject.PACKAGE
WORKFLOW = LIBRARY.parents[1] / "workflow" / "scripts"


def used_by(script: str, without: tuple[str, ...] = ()) -> set[str]:
    """The definitions of this package that a script uses, as module:name."""
    found = set()
    for path, numbers in subject.reached(WORKFLOW / f"{script}.py", without).items():
        module = subject.parsed(path)
        if path.is_relative_to(LIBRARY):
            name = path.relative_to(LIBRARY).with_suffix("").as_posix()
            found |= {f"{name}:{of}" for of, at in module.bound.items() if numbers & set(at)}
    return found


def test_scripts_depend_on_what_they_use():
    train = used_by("train")
    assert {
        "attacks/search:run_search_from_starts",
        "models/convnet:build",
        "data/affine:transform",
    } <= train
    assert {"io/schemas:CURVES", "attacks/spaces:AffineSpace"} <= train
    assert {"attacks/search:ActiveExamples", "specs:TrainConfig"} <= train
    others = ("config/study", "evaluation/distances", "analysis/claims")
    assert not {name for name in train if name.split(":")[0] in others}
    assert "io/schemas:CLAIMS" not in train
    assert not {name for name in used_by("distances") if name.startswith("attacks/search:run")}
    assert not {name for name in used_by("vaegan") if name.startswith("models/convnet")}
    assert not {name for name in used_by("attack") if name.startswith("training/vaegan")}


TRACING = """
import json, os, sys

CALLS = set()
FUNCTION = 1  # a flag that the bodies of modules and classes lack
IMPORT = ("<module>", True)


def trace(frame, event, arg):
    code = frame.f_code
    if code.co_filename.startswith(LIBRARY) and code.co_flags & FUNCTION:
        back = frame.f_back
        while back and (back.f_code.co_name, LIBRARY in back.f_code.co_filename) != IMPORT:
            back = back.f_back
        if not back:
            CALLS.add((code.co_filename, code.co_qualname.split(".")[0]))


def write(status, end=os._exit):
    code = sys.modules["__main__"].snakemake.params["code"]
    name = f"{os.path.basename(SCRIPT).split('.')[1]}.{os.getpid()}.json"
    with open(os.path.join(FOLDER, name), "w") as file:
        json.dump({"code": code, "calls": sorted(CALLS)}, file)
    end(status)


SCRIPT = sys.orig_argv[1] if len(sys.orig_argv) > 1 else ""
if ".snakemake/scripts" in SCRIPT:
    os._exit = write  # by which jobs end
    sys.settrace(trace)
"""


@pytest.mark.long
def test_all_that_jobs_call_counts(tmp_path, monkeypatch):
    """No function of this package that a job of the smoke study calls is missed by name."""
    folder = tmp_path / "calls"
    folder.mkdir()
    tracing = f"LIBRARY, FOLDER = {str(LIBRARY)!r}, {str(folder)!r}\n{TRACING}"
    (tmp_path / "sitecustomize.py").write_text(tracing)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{before}")
    run = snakemake(tmp_path, "--cores", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    scripts, missed = set(), {}
    for path in folder.iterdir():
        script, job = path.name.split(".")[0], json.loads(path.read_text())
        scripts.add(script)
        found, _, without = job["code"].partition(" without ")
        left_out = tuple(without.split())
        assert subject.fingerprint(WORKFLOW / f"{script}.py", left_out) == found
        counted = used_by(script, left_out)
        names = {
            f"{Path(file).relative_to(LIBRARY).with_suffix('')}:{of}" for file, of in job["calls"]
        }
        if names - counted:
            missed[path.name] = names - counted
    collected = {"images"}  # of data sets that are not drawn
    assert scripts == {path.stem for path in WORKFLOW.glob("*.py")} - collected
    assert not missed
