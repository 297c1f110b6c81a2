"""Dry runs of Snakemake in a server that imports it once, because the import takes seconds."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = ("snakemake.cli", "jinja2", "PIL.Image", "pyarrow", "pydantic", "requests", "yte")
"""Modules that a dry run imports, without the package, whose code tests change."""


def run_snakemake(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m snakemake` with some arguments, in an environment."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        request = {"arguments": arguments, "env": env, "streams": [str(path) for path in streams]}
        server = start_server()
        assert server.stdin
        assert server.stdout
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        returncode = int(server.stdout.readline())
        stdout, stderr = (path.read_text("utf-8") for path in streams)
    return subprocess.CompletedProcess(arguments, returncode, stdout, stderr)


@cache
def start_server() -> subprocess.Popen[str]:
    """Start the server of this process. It ends with this process, at the end of its input."""
    command = [sys.executable, "-P", __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def become_snakemake(request: dict[str, Any]) -> NoReturn:
    """Turn this process, which has not imported robustgen, into Snakemake."""
    from snakemake import cli

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(request["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = [cli.__file__, *request["arguments"]]
    cli.main()
    sys.exit()


def serve() -> None:
    """Run Snakemake for each line of the input, and print its exit status."""
    for module in PRELOADED:
        import_module(module)
    assert not any(name.split(".")[0] == "robustgen" for name in sys.modules)
    for line in sys.stdin:
        if not (child := os.fork()):
            become_snakemake(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
