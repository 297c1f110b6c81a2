"""Fingerprints of code: what a job runs, so that it runs again exactly if that changes.

Snakemake sees a changed script but no change in a package that the script imports. What a script
runs is found without running it: from its statements, by the names that they use, to the
definitions of those names in this package, and on from there.
"""

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from robustgen.errors import UserError

PACKAGE = Path(__file__).parents[1]
ROOT = PACKAGE.name

Import = ast.Import | ast.ImportFrom
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A source file as its top-level statements, imports split into one for each name."""

    statements: list[ast.stmt] = field(default_factory=list)
    bound: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """The statements that bind a name."""
    loose: list[int] = field(default_factory=list)
    """The statements that an import runs for more than the names that they bind."""


def fingerprint(script: str | Path, without: Iterable[str] = ()) -> str:
    """A digest of `script` and of what it uses of this package, directly or not.

    It is taken from the syntax trees: comments, docstrings and formatting do not count, and of a
    module only the definitions that are reached by name. The package's own `__init__` (its version)
    does not count.

    Args:
        script: a Python file.
        without: modules, as "robustgen.attacks.search", that this run of the script is known not
            to use.

    Raises:
        FileNotFoundError: no such script, or module.
        UserError: an import is relative, or of all names of a module, which is not followed.
    """
    found = {}
    for path, numbers in reached(script, without).items():
        inside = path.is_relative_to(PACKAGE)  # wherever the package lies
        name = path.relative_to(PACKAGE).as_posix() if inside else "script"
        if numbers:
            found[name] = [_code(path, number) for number in sorted(numbers)]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def forget() -> None:
    """Read files anew that were read before."""
    for kept in (parsed, _uses, _code, _files):
        kept.cache_clear()


def reached(script: str | Path, without: Iterable[str] = ()) -> dict[Path, set[int]]:
    """The statements, by file, that `script` uses of itself and of this package."""
    search = _Search(_file(module) for module in without)
    search.touch(Path(script))
    for number, statement in enumerate(parsed(Path(script)).statements):
        if not isinstance(statement, Import):
            search.reach(Path(script), number)
    search.run()
    return search.found


class _Search:
    """Follows names from statement to statement; each is visited once."""

    def __init__(self, unused: Iterable[Path]) -> None:
        self._unused = frozenset(unused)
        self.found: dict[Path, set[int]] = {}
        self._ahead: list[tuple[Path, int]] = []

    def run(self) -> None:
        """Until nothing is left to visit."""
        while self._ahead:
            self._visit(*self._ahead.pop())

    def touch(self, path: Path) -> None:
        """A module that is imported runs its loose statements, and imports others."""
        if path in self.found:
            return
        self.found[path] = set()
        module = parsed(path)
        for number in module.loose:
            self.reach(path, number)
        for statement in module.statements:
            if isinstance(statement, Import):
                for imported in _files(_module(statement)) + _files(_dotted(statement)):
                    self.touch(imported)

    def reach(self, path: Path, number: int) -> None:
        """A statement is used."""
        if number not in self.found[path] and path not in self._unused:
            self.found[path].add(number)
            self._ahead.append((path, number))

    def _visit(self, path: Path, number: int) -> None:
        """With a statement, all that its names are bound to is used."""
        module = parsed(path)
        uses, inner = _uses(path, number)
        for root, attribute in uses:
            if root in inner:
                self.follow(inner[root], attribute)
                continue
            for at in module.bound.get(root, ()):
                self.named(path, at, attribute)

    def named(self, path: Path, number: int, attribute: str | None) -> None:
        """A name that a statement binds is used, or only an attribute of it."""
        statement = parsed(path).statements[number]
        if isinstance(statement, Import):
            self.found[path].add(number)
            self.follow(statement, attribute)
        else:
            self.reach(path, number)

    def follow(self, statement: Import, attribute: str | None) -> None:
        """The one name that an import binds is used, or only an attribute of it."""
        holding, own = _files(_module(statement)), _files(_dotted(statement))
        for imported in holding + own:
            self.touch(imported)
        name = statement.names[0].name
        if not own and holding:
            self.definition(holding[-1], name)
        elif own and attribute and isinstance(statement, ast.ImportFrom):
            self.definition(own[-1], attribute)
        elif own:
            self.whole(own[-1])

    def definition(self, path: Path, name: str) -> None:
        """What a module binds a name to; all of it if it is not known to bind that one."""
        self.touch(path)
        numbers = parsed(path).bound.get(name)
        if not numbers:
            self.whole(path)
        for number in numbers or ():
            self.named(path, number, None)

    def whole(self, path: Path) -> None:
        """A module is used in a way that does not tell which of its names."""
        self.touch(path)
        for number in range(len(parsed(path).statements)):
            self.reach(path, number)


@cache
def parsed(path: Path) -> Module:
    """The source of `path` without comments, docstrings and formatting."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    module = Module()
    for statement in tree.body:
        for part in _split(statement) if isinstance(statement, Import) else [statement]:
            number = len(module.statements)
            module.statements.append(part)
            names = list(_binds(part))
            for name in names:
                module.bound[name].append(number)
            if not isinstance(part, Definition | Import | ast.Assign | ast.AnnAssign) or not names:
                module.loose.append(number)
    return module


def _split(statement: Import) -> Iterator[Import]:
    """An import of several names as one for each."""
    for name in statement.names:
        if isinstance(statement, ast.Import):
            yield ast.Import([name])
        else:
            yield ast.ImportFrom(statement.module, [name], statement.level)


def _binds(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, Definition):
        yield statement.name
        return
    if isinstance(statement, ast.Assign):
        places: Sequence[ast.AST] = statement.targets
    else:
        places = [statement.target if isinstance(statement, ast.AnnAssign) else statement]
    for node in (node for place in places for node in ast.walk(place)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, Definition):
            yield node.name
        elif isinstance(node, Import):
            yield from (_bound_by(part) for part in _split(node))


def _bound_by(statement: Import) -> str:
    """The name that an import of one name binds."""
    (name,) = statement.names
    return name.asname or name.name.split(".")[0]


@cache
def _uses(path: Path, number: int) -> tuple[set[tuple[str, str | None]], dict[str, Import]]:
    """The names that a statement reads, each with the attribute that is taken of it, if one is.

    And the imports within it, by the names that they bind.
    """
    nodes = list(ast.walk(parsed(path).statements[number]))
    inner = {
        _bound_by(part): part for node in nodes if isinstance(node, Import) for part in _split(node)
    }
    taken = {
        id(node.value): (node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    uses = {taken.get(id(node), (node.id, None)) for node in nodes if isinstance(node, ast.Name)}
    unread = set(inner) - {name for name, _ in uses}
    return uses | {(name, None) for name in unread}, inner


@cache
def _code(path: Path, number: int) -> str:
    """A statement without comments, docstrings and formatting."""
    return ast.unparse(parsed(path).statements[number])


def _module(statement: Import) -> str:
    """The module that an import of one name takes it from; empty where it is itself one."""
    if isinstance(statement, ast.Import):
        return ""
    if statement.level or statement.names[0].name == "*":
        is_so = "is relative" if statement.level else "names no name"
        raise UserError(
            f"the import of {statement.names[0].name} {is_so}; name module and name in full, or "
            "changes of it would not be seen"
        )
    return statement.module or ""


def _dotted(statement: Import) -> str:
    """What an import of one name imports, with the module that it is taken from."""
    return f"{_module(statement)}.{statement.names[0].name}".lstrip(".")


@cache
def _files(module: str) -> list[Path]:
    """The files of a module of this package: those of the packages that hold it, then its own."""
    root, *parts = module.split(".")
    if root != ROOT or not parts:
        return []
    found = [PACKAGE.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts))]
    own = PACKAGE.joinpath(*parts)
    found.append(own / "__init__.py" if own.is_dir() else own.with_suffix(".py"))
    return found if found[-1].is_file() else []


def _file(module: str) -> Path:
    files = _files(module)
    if not files:
        raise FileNotFoundError(f"there is no module {module}")
    return files[-1]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
