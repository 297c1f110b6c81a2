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
    "module.py": "from pkg.sub import leaf as module\nprint(module.Z)\n",
    "registry.py": "from pkg.kinds import KINDS\nKINDS['a']().go()\n",
}
SCRIPTS = ("direct", "name", "nested", "module", "registry")

CHANGES = {
    # name: (file, old text, new text, scripts whose fingerprint must change)
    "a called function": ("pkg/low.py", "return 1", "return 2", {"direct", "name"}),
    "a constant that is read": ("pkg/low.py", "X = 1", "X = 2", {"direct", "name"}),
    "a constant that is not read": ("pkg/low.py", "Y = 1", "Y = 2", {"direct"}),
    "another function of the module": ("pkg/high.py", "return Y", "return -Y", {"direct"}),
    "a statement with side effects": ("pkg/low.py", "X = 1", "X = 1\nf()", {"direct", "name"}),
    "a statement in a module without imports of it": (
        "pkg/other.py",
        "X = 1",
        "X = 1\nprint()",
        set(),
    ),
    "a name that a function imports": ("pkg/sub/leaf.py", "Y = 1", "Y = 2", {"nested"}),
    "an attribute of a module": ("pkg/sub/leaf.py", "Z = 1", "Z = 2", {"module"}),
    "a statement with side effects in a package": (
        "pkg/sub/__init__.py",
        "leaf\n",
        "leaf\nprint()\n",
        {"nested", "module"},
    ),
    "a class in a registry": ("pkg/kinds.py", "return 1", "return 2", {"registry"}),
    "a class that no registry contains": ("pkg/kinds.py", "pass", "x = 1", set()),
    "the module of an imported name": (
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
    subject.clear_caches()
    yield tmp_path
    subject.clear_caches()


def all_fingerprints(tree: Path) -> dict[str, str]:
    subject.clear_caches()
    return {name: subject.fingerprint(tree / f"{name}.py") for name in SCRIPTS}


@pytest.mark.parametrize(("file", "old", "new", "changed"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_counts_for_the_scripts_that_run_it(tree, file, old, new, changed):
    old_fingerprints = all_fingerprints(tree)
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    new_fingerprints = all_fingerprints(tree)
    changed_names = {name for name in SCRIPTS if old_fingerprints[name] != new_fingerprints[name]}
    assert changed_names == changed


def test_the_folder_of_a_script_does_not_count(tree, monkeypatch):
    """Neither its position in the order of paths, nor whether its path is absolute."""
    fingerprints = all_fingerprints(tree)
    for folder in ("aaa", "zzz"):
        (tree / folder).mkdir()
        for name, digest in fingerprints.items():
            copy = tree / folder / f"{name}.py"
            copy.write_text((tree / f"{name}.py").read_text())
            assert subject.fingerprint(copy) == digest, (folder, name)
    monkeypatch.chdir(tree / "aaa")
    subject.clear_caches()
    assert subject.fingerprint("../direct.py") == fingerprints["direct"]


def test_a_relative_import_is_refused(tree):
    (tree / "pkg/high.py").write_text("from . import low\n\n\ndef g():\n    return low.f()\n")
    with pytest.raises(UserError, match="the import of low is relative"):
        subject.fingerprint(tree / "name.py")


def test_an_import_of_all_names_is_refused(tree):
    (tree / "pkg/high.py").write_text("from pkg.low import *\n\n\ndef g():\n    return f()\n")
    with pytest.raises(UserError, match=r"the import of \* names nothing that can be followed"):
        all_fingerprints(tree)


def test_excluded_modules_do_not_count(tree):
    old_fingerprint = subject.fingerprint(tree / "name.py", ["pkg.low"])
    assert old_fingerprint != subject.fingerprint(tree / "name.py")
    changed_text = (tree / "pkg/low.py").read_text().replace("return 1", "return 2")
    (tree / "pkg/low.py").write_text(changed_text)
    all_fingerprints(tree)
    assert subject.fingerprint(tree / "name.py", ["pkg.low"]) == old_fingerprint
    with pytest.raises(FileNotFoundError, match=r"there is no module pkg\.lower"):
        subject.fingerprint(tree / "name.py", ["pkg.lower"])


LIBRARY = subject.PACKAGE
WORKFLOW = LIBRARY.parents[1] / "workflow" / "scripts"


def used_definitions(script: str, excluded_modules: tuple[str, ...] = ()) -> set[str]:
    """The definitions of this package that a script uses, as module:name."""
    definitions = set()
    statements = subject.reachable_statements(WORKFLOW / f"{script}.py", excluded_modules)
    for path, used in statements.items():
        if path.is_relative_to(LIBRARY):
            module = path.relative_to(LIBRARY).with_suffix("").as_posix()
            bindings = subject.parse_module(path).bindings
            definitions |= {
                f"{module}:{name}" for name, indices in bindings.items() if used & set(indices)
            }
    return definitions


def test_scripts_depend_on_the_definitions_that_they_use():
    train = used_definitions("train")
    assert {
        "attacks/search:run_search_from_starts",
        "models/architectures:build_convnet",
        "data/decoders:warp",
    } <= train
    assert {"io/schemas:CURVES", "attacks/spaces:AffineSpace"} <= train
    assert {"attacks/active_examples:ActiveExamples", "specs:TrainConfig"} <= train
    unused_modules = ("config/study", "evaluation/distances", "analysis/claims")
    assert not {name for name in train if name.split(":")[0] in unused_modules}
    assert "io/schemas:CLAIMS" not in train
    distances, vaegan, attack = map(used_definitions, ("distances", "vaegan", "attack"))
    assert not {name for name in distances if name.startswith("attacks/search:run")}
    assert not {name for name in vaegan if name.startswith("models/architectures")}
    assert not {name for name in attack if name.startswith("training/vaegan")}


NOT_IN_FINGERPRINTS = {"__init__:__getattr__"}
"""Functions of the package that jobs call and that cannot change a result.

An import of a submodule calls this one first, and gets an `AttributeError`.
"""

TRACING = """
import json, os, sys

CALLS = set()
FUNCTION = 1  # a flag of functions, which the code of modules and classes does not have
IMPORT = ("<module>", True)


def trace(frame, event, arg):
    code = frame.f_code
    if code.co_filename.startswith(LIBRARY) and code.co_flags & FUNCTION:
        caller = frame.f_back
        while caller and (caller.f_code.co_name, LIBRARY in caller.f_code.co_filename) != IMPORT:
            caller = caller.f_back
        if not caller:
            CALLS.add((code.co_filename, code.co_qualname.split(".")[0]))


def write(status, end=os._exit):
    code = sys.modules["__main__"].snakemake.params["code"]
    name = f"{os.path.basename(SCRIPT).split('.')[1]}.{os.getpid()}.json"
    with open(os.path.join(FOLDER, name), "w") as file:
        json.dump({"code": code, "calls": sorted(CALLS)}, file)
    end(status)


SCRIPT = sys.orig_argv[1] if len(sys.orig_argv) > 1 else ""
if ".snakemake/scripts" in SCRIPT:
    os._exit = write  # jobs end with this function
    sys.settrace(trace)
"""


@pytest.mark.long
def test_the_fingerprint_contains_all_functions_that_jobs_call(tmp_path, monkeypatch):
    """In a smoke study, every call of a function of this package is traced."""
    folder = tmp_path / "calls"
    folder.mkdir()
    tracing = f"LIBRARY, FOLDER = {str(LIBRARY)!r}, {str(folder)!r}\n{TRACING}"
    (tmp_path / "sitecustomize.py").write_text(tracing)
    python_path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{python_path}")
    run = snakemake(tmp_path, "--cores", "2")
    assert run.returncode == 0, run.stderr[-3000:]
    scripts, missing_functions = set(), {}
    for path in folder.iterdir():
        script, job = path.name.split(".")[0], json.loads(path.read_text())
        scripts.add(script)
        digest, _, names = job["code"].partition(" without ")
        excluded_modules = tuple(names.split())
        assert subject.fingerprint(WORKFLOW / f"{script}.py", excluded_modules) == digest
        called_functions = {
            f"{Path(file).relative_to(LIBRARY).with_suffix('')}:{function}"
            for file, function in job["calls"]
        }
        used_functions = used_definitions(script, excluded_modules) | NOT_IN_FINGERPRINTS
        missing = called_functions - used_functions
        if missing:
            missing_functions[path.name] = missing
    scripts_of_public_data = {"images"}
    assert scripts == {path.stem for path in WORKFLOW.glob("*.py")} - scripts_of_public_data
    assert not missing_functions
