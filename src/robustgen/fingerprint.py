"""Fingerprints of code: what a job runs, so that it runs again exactly if that changes.

Snakemake sees a changed script but no change in a package that the script imports.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.name


def fingerprint(script: str | Path) -> str:
    """A digest of `script` and of all modules of this package that it imports, directly or not.

    It is taken from the syntax trees: comments, docstrings and formatting do not count. Imports
    inside functions count. The package's own `__init__` (its version) does not.

    Raises:
        FileNotFoundError: no such script.
    """
    digest = hashlib.sha256(code(Path(script)).encode())
    for module in sorted(_closure(Path(script))):
        digest.update(f"\n{module}\n{code(_file(module))}".encode())
    return digest.hexdigest()[:16]


@cache
def code(path: Path) -> str:
    """The source of `path` without comments, docstrings and formatting."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _closure(script: Path) -> set[str]:
    known: set[str] = set()
    ahead = set(_imports(script))
    while ahead:
        module = ahead.pop()
        known.add(module)
        ahead |= set(_imports(_file(module))) - known
    return known


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of this package imported in `path`, and the packages that hold them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in _names(node):
            parts = name.split(".")
            prefixes = (".".join(parts[:i]) for i in range(2, len(parts) + 1))
            found |= {prefix for prefix in prefixes if _exists(prefix)}
    return tuple(sorted(found))


def _names(node: ast.AST) -> Iterator[str]:
    """Dotted names under this package that an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == ROOT)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ROOT:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str) -> bool:
    return _file(module).is_file()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
