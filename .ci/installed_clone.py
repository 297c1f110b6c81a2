"""Print which clone of the project an environment belongs to; called by the Makefile.

    python .ci/installed_clone.py [MODULE ...]

The output is "this" if the interpreter imports the package robustgen of this clone. If it imports
another clone's, the output is the folder of that package. If there is no package or a MODULE is
missing, the output is empty.
"""

import importlib.util
import sys
from pathlib import Path


def installed_clone(requirements: list[str]) -> str:
    """Return the clone whose package is imported; empty if a required module is missing."""
    if not all(importlib.util.find_spec(name) for name in requirements):
        return ""
    spec = importlib.util.find_spec("robustgen")
    if spec is None or spec.origin is None:
        return ""
    package = Path(spec.origin).resolve().parent
    return "this" if package == Path("src", "robustgen").resolve() else str(package)


if __name__ == "__main__":
    print(installed_clone(sys.argv[1:]))
