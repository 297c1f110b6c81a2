"""Say which clone of the project an environment belongs to. The Makefile asks before it installs.

    python .ci/installed_clone.py [MODULE ...]

This prints "this" if the interpreter that runs it imports the package robustgen of this clone, the
folder of the package if it is another one, and nothing if there is none or a MODULE is missing.
"""

import importlib.util
import sys
from pathlib import Path


def installed_clone(requirements: list[str]) -> str:
    """The package robustgen that is imported, if the required modules are there as well."""
    if not all(importlib.util.find_spec(name) for name in requirements):
        return ""
    spec = importlib.util.find_spec("robustgen")
    if spec is None or spec.origin is None:
        return ""
    package = Path(spec.origin).resolve().parent
    return "this" if package == Path("src", "robustgen").resolve() else str(package)


if __name__ == "__main__":
    print(installed_clone(sys.argv[1:]))
