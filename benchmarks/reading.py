"""Count the modules and lines of this package that one reads to understand a script.

    python benchmarks/reading.py [SCRIPT]

SCRIPT is workflow/scripts/attack.py by default. Lines are those of the definitions that the script
uses, directly or through others, with docstrings and without blank lines. Of `acceleration`, only
the choice of a backend counts, because the plain definitions say what is computed.
"""

import ast
import sys
from pathlib import Path

from robustgen.jobs.fingerprint import PACKAGE, parse_module, reachable_statements

SOURCE = PACKAGE.parent


def count_lines(statement: ast.stmt, source: list[str]) -> int:
    """Count the lines, except blank ones, of a statement and of its decorators."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return 1  # one of the names of an import, which has no position of its own
    decorators = getattr(statement, "decorator_list", [])
    first_line = min(node.lineno for node in [statement, *decorators])
    return sum(bool(line.strip()) for line in source[first_line - 1 : statement.end_lineno])


def list_acceleration() -> list[str]:
    """List the modules of `acceleration` except the one that chooses a backend."""
    paths = [path.relative_to(SOURCE) for path in (PACKAGE / "acceleration").rglob("*.py")]
    names = [".".join(path.with_suffix("").parts) for path in paths if path.stem != "__init__"]
    return [name for name in names if not name.endswith(".backends")]


def main(script: Path) -> None:
    """Print the number of lines for each module, and the sums."""
    lines = {}
    for path, indices in reachable_statements(script, list_acceleration()).items():
        statements, source = parse_module(path).statements, path.read_text("utf-8").splitlines()
        if indices and path.is_relative_to(PACKAGE):
            name = path.relative_to(PACKAGE).as_posix()
            lines[name] = sum(count_lines(statements[index], source) for index in indices)
    for name, count in sorted(lines.items(), key=lambda item: -item[1]):
        print(f"{count:6d}  {name}")
    print(f"{sum(lines.values()):6d}  lines in {len(lines)} modules")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "workflow/scripts/attack.py"))
