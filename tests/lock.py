"""Write constraints from the installation report of pip: `make lock`."""

import json
import re
import sys
from pathlib import Path

installed = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["install"]
pins = {
    re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower(): package["metadata"]["version"]
    for package in installed
}
pins.pop("robustgen")
print("# Made by `make lock` from the ranges in pyproject.toml; `make` and CI install from it.")
for name, version in sorted(pins.items()):
    print(f"{name}=={version}")
