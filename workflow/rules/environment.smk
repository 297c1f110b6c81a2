"""Check the environment in which Snakemake was started, and set variables for all jobs.

Jobs on a cluster read this file too, so that they have the same variables.
"""

import importlib.util
import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path


def require_package_of_this_clone():
    """Exit if the package robustgen is not installed or is imported from another clone."""
    rules = workflow.current_basedir.get_path_or_uri(False)
    source = Path(os.path.normpath(os.path.join(rules, "../../src/robustgen")))
    spec = importlib.util.find_spec("robustgen")
    if spec is None or spec.origin is None:
        sys.exit(
            f"robustgen: the package robustgen is not installed for {sys.executable}: activate the "
            "environment that has it, or install it in the project's folder with pip install -e ."
        )
    imported = Path(spec.origin).parent
    if source.is_dir() and not source.samefile(imported):
        sys.exit(
            f"robustgen: the workflow is {source.parents[1]}, but the package robustgen is imported "
            f"from {imported}: activate the environment of this clone and unset PYTHONPATH"
        )


def hide_path_of_interpreter():
    """Put the interpreter's folder into PATH if its path cannot be part of a shell command.

    Snakemake writes `sys.executable` without quotes into the command of each job, where the shell
    would split it at a space. Snakemake calls "python" in containers in the same way.
    """
    if shlex.quote(sys.executable) == sys.executable:
        return
    folder, name = os.path.split(sys.executable)
    if os.pathsep in folder or shlex.quote(name) != name:
        sys.exit(
            f"robustgen: jobs cannot call the interpreter {sys.executable}: install the environment "
            "in a folder whose path has only letters, digits, - and _"
        )
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    sys.executable = name


require_package_of_this_clone()
hide_path_of_interpreter()

# Figures need no display. Notebooks set this variable to a backend that other programs lack.
os.environ["MPLBACKEND"] = "agg"

from robustgen.config.yaml_files import refuse_misread_values
from robustgen.environment import require_valid_variables
from robustgen.errors import UserError


@contextmanager
def exit_on_user_error():
    """Print a `UserError` as one sentence and exit; a WorkflowError would add lines of this code."""
    try:
        yield
    except UserError as error:
        sys.exit(f"robustgen: {error}")


with exit_on_user_error():
    require_valid_variables()
    for file in workflow.configfiles:
        refuse_misread_values(file)
