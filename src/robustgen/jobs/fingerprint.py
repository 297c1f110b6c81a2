"""Fingerprints of code: a digest of the code that a job runs, so that a change runs it again.

Snakemake sees a changed script, but no change in a package that the script imports. This module
determines what a script runs without running it: it follows the names in the statements of the
script to their definitions in this package, and the names in these definitions in turn.
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
    """A source file as its top-level statements; an import of several names is split by name.

    Attributes:
        statements: the statements, without comments and docstrings.
        bindings: by name, the indices of the statements that bind it.
        side_effects: indices of the statements that may do more than bind names when they run.
    """

    statements: list[ast.stmt] = field(default_factory=list)
    bindings: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    side_effects: list[int] = field(default_factory=list)


def fingerprint(script: str | Path, excluded_modules: Iterable[str] = ()) -> str:
    """Return a digest of `script` and of the code of this package that it uses.

    The digest is taken from syntax trees, so that comments, docstrings and formatting do not count.
    Of a module, only the definitions count that the script uses, directly or through others. The
    package's own `__init__`, which contains its version, does not count.

    Args:
        script: path of a Python file.
        excluded_modules: modules, e.g. "robustgen.attacks.search", that this run of the script
            does not use although its code names them.

    Raises:
        FileNotFoundError: the script or a module does not exist.
        UserError: an import is relative or imports `*`, which cannot be followed.
    """
    code = {}
    for path, indices in reachable_statements(script, excluded_modules).items():
        is_package = path.is_relative_to(PACKAGE)  # the digest must not contain absolute paths
        name = path.relative_to(PACKAGE).as_posix() if is_package else "script"
        if indices:
            code[name] = [_unparse(path, index) for index in sorted(indices)]
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:16]


def clear_caches() -> None:
    """Forget all source files, so that the next fingerprint reads them again."""
    for function in (parse_module, _find_uses, _unparse, _module_files):
        function.cache_clear()


def reachable_statements(
    script: str | Path, excluded_modules: Iterable[str] = ()
) -> dict[Path, set[int]]:
    """Return the indices of all statements, by file, that `script` uses."""
    search = _Search(_module_file(module) for module in excluded_modules)
    search.visit_import(Path(script))
    for index, statement in enumerate(parse_module(Path(script)).statements):
        if not isinstance(statement, Import):
            search.use_statement(Path(script), index)
    search.run()
    return search.used


class _Search:
    """A search that follows names from statement to statement and visits each statement once.

    Attributes:
        used: by file, the indices of the statements that are used.
    """

    def __init__(self, excluded_files: Iterable[Path]) -> None:
        self._excluded_files = frozenset(excluded_files)
        self.used: dict[Path, set[int]] = {}
        self._queue: list[tuple[Path, int]] = []

    def run(self) -> None:
        """Visit statements until no further one is used."""
        while self._queue:
            self._visit(*self._queue.pop())

    def visit_import(self, path: Path) -> None:
        """Use the statements with side effects of a module and of all modules that it imports."""
        if path in self.used:
            return
        self.used[path] = set()
        module = parse_module(path)
        for index in module.side_effects:
            self.use_statement(path, index)
        for statement in module.statements:
            if isinstance(statement, Import):
                for imported in _source_files(statement) + _imported_files(statement):
                    self.visit_import(imported)

    def use_statement(self, path: Path, index: int) -> None:
        """Use a statement, unless its module is excluded."""
        if index not in self.used[path] and path not in self._excluded_files:
            self.used[path].add(index)
            self._queue.append((path, index))

    def _visit(self, path: Path, index: int) -> None:
        """Use all that the names in a statement are bound to."""
        module = parse_module(path)
        uses, local_imports = _find_uses(path, index)
        for name, attribute in uses:
            if name in local_imports:
                self._follow_import(local_imports[name], attribute)
                continue
            for binding in module.bindings.get(name, ()):
                self._use_binding(path, binding, attribute)

    def _use_binding(self, path: Path, index: int, attribute: str | None) -> None:
        """Use the name that a statement binds, or only an attribute of it."""
        statement = parse_module(path).statements[index]
        if isinstance(statement, Import):
            self.used[path].add(index)
            self._follow_import(statement, attribute)
        else:
            self.use_statement(path, index)

    def _follow_import(self, statement: Import, attribute: str | None) -> None:
        """Use the one name that an import binds, or only an attribute of it."""
        source_files, imported_files = _source_files(statement), _imported_files(statement)
        for imported in source_files + imported_files:
            self.visit_import(imported)
        name = statement.names[0].name
        if not imported_files and source_files:
            self._use_definition(source_files[-1], name)
        elif imported_files and attribute and isinstance(statement, ast.ImportFrom):
            self._use_definition(imported_files[-1], attribute)
        elif imported_files:
            self.use_whole_module(imported_files[-1])

    def _use_definition(self, path: Path, name: str) -> None:
        """Use what a module binds to a name, or the whole module if it does not bind the name."""
        self.visit_import(path)
        indices = parse_module(path).bindings.get(name)
        if not indices:
            self.use_whole_module(path)
        for index in indices or ():
            self._use_binding(path, index, None)

    def use_whole_module(self, path: Path) -> None:
        """Use all statements of a module, because it is not known which names are used."""
        self.visit_import(path)
        for index in range(len(parse_module(path).statements)):
            self.use_statement(path, index)


@cache
def parse_module(path: Path) -> Module:
    """Parse a source file, without its comments, docstrings and formatting."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [child for child in body if not _is_text(child)]  # type: ignore[attr-defined]
    module = Module()
    for statement in tree.body:
        for part in _split_import(statement) if isinstance(statement, Import) else [statement]:
            index = len(module.statements)
            module.statements.append(part)
            names = list(_bound_names(part))
            for name in names:
                module.bindings[name].append(index)
            if not isinstance(part, Definition | Import | ast.Assign | ast.AnnAssign) or not names:
                module.side_effects.append(index)
    return module


def _split_import(statement: Import) -> Iterator[Import]:
    """Split an import of several names into imports of one name each."""
    for name in statement.names:
        if isinstance(statement, ast.Import):
            yield ast.Import([name])
        else:
            yield ast.ImportFrom(statement.module, [name], statement.level)


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds."""
    if isinstance(statement, Definition):
        yield statement.name
        return
    if isinstance(statement, ast.Assign):
        targets: Sequence[ast.AST] = statement.targets
    else:
        targets = [statement.target if isinstance(statement, ast.AnnAssign) else statement]
    for node in (node for target in targets for node in ast.walk(target)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, Definition):
            yield node.name
        elif isinstance(node, Import):
            yield from (_imported_name(part) for part in _split_import(node))


def _imported_name(statement: Import) -> str:
    """Return the name that an import of one name binds."""
    (name,) = statement.names
    return name.asname or name.name.split(".")[0]


@cache
def _find_uses(path: Path, index: int) -> tuple[set[tuple[str, str | None]], dict[str, Import]]:
    """Find the names that a statement reads.

    Returns:
        Pairs of a name and the attribute that is read of it (None: the name itself), and the
        imports within the statement, by the names that they bind.
    """
    nodes = list(ast.walk(parse_module(path).statements[index]))
    local_imports = {
        _imported_name(part): part
        for node in nodes
        if isinstance(node, Import)
        for part in _split_import(node)
    }
    attributes = {
        id(node.value): (node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    uses = {
        attributes.get(id(node), (node.id, None)) for node in nodes if isinstance(node, ast.Name)
    }
    unread_imports = set(local_imports) - {name for name, _ in uses}
    return uses | {(name, None) for name in unread_imports}, local_imports


@cache
def _unparse(path: Path, index: int) -> str:
    """Return the code of a statement, without comments, docstrings and formatting."""
    return ast.unparse(parse_module(path).statements[index])


def _source_module(statement: Import) -> str:
    """Return the module from which `from ... import name` takes the name; empty for `import`."""
    if isinstance(statement, ast.Import):
        return ""
    if statement.level or statement.names[0].name == "*":
        defect = "is relative" if statement.level else "names nothing that can be followed"
        raise UserError(
            f"the import of {statement.names[0].name} {defect}; write module and name in full, "
            "because changes of the imported code would otherwise not be seen"
        )
    return statement.module or ""


def _source_files(statement: Import) -> list[Path]:
    """Return the files of the module from which `from ... import name` takes the name."""
    return _module_files(_source_module(statement))


def _imported_files(statement: Import) -> list[Path]:
    """Return the files of the imported name, if it is a module of this package."""
    return _module_files(f"{_source_module(statement)}.{statement.names[0].name}".lstrip("."))


@cache
def _module_files(module: str) -> list[Path]:
    """Return the files of a module of this package: those of its parent packages, then its own."""
    root, *parts = module.split(".")
    if root != ROOT or not parts:
        return []
    files = [PACKAGE.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts))]
    path = PACKAGE.joinpath(*parts)
    files.append(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    return files if files[-1].is_file() else []


def _module_file(module: str) -> Path:
    files = _module_files(module)
    if not files:
        raise FileNotFoundError(f"there is no module {module}")
    return files[-1]


def _is_text(node: ast.AST) -> bool:
    """Whether a node is a docstring, or another string that is a statement."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
