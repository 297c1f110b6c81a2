"""Turn pip's installation report into constraints: `make lock`."""

import json
import re
import sys
from pathlib import Path

resolved = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["install"]
pins = {
    re.sub(r"[-_.]+", "-", found["metadata"]["name"]).lower(): found["metadata"]["version"]
    for found in resolved
}
pins.pop("robustgen")
print("# Made by `make lock` from the ranges in pyproject.toml; `make` and CI install from it.")
for name, version in sorted(pins.items()):
    print(f"{name}=={version}")
