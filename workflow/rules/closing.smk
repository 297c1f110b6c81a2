"""What a run says before it begins and after it ends.

Snakemake prints lines of its own after these hooks, so that the last lines are printed at exit.
"""

import atexit
import shlex
import time

from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import ExecMode

from robustgen.jobs.closing import FailedJob
from robustgen.jobs.closing import format_failure
from robustgen.jobs.closing import format_success
from robustgen.config.search_checks import search_warnings

STARTED = time.time()
IS_MAIN_PROCESS = workflow.exec_mode == ExecMode.DEFAULT

if IS_MAIN_PROCESS:
    for warning in search_warnings(STUDY):
        logger.warning(f"robustgen: {warning}")


def report_command():
    """The command that makes the report of this run, from the folder in which snakemake is called.

    Snakemake has changed to the folder of the results when this is read; the shell's is in PWD.
    """
    called_from = Path(os.environ.get("PWD", os.getcwd()))
    options = ["--report", f"{RESULTS}/report.html"]
    if Path(workflow.main_snakefile).parent != called_from:
        options += ["--snakefile", workflow.main_snakefile]
    if Path.cwd() != called_from:
        options += ["--directory", os.getcwd()]
    if workflow.overwrite_configfiles:
        options += ["--configfile", *map(str, workflow.overwrite_configfiles)]
    if workflow.config_settings.config:
        options += [
            "--config",
            *(f"{key}={value}" for key, value in workflow.config_settings.config.items()),
        ]
    return shlex.join(["snakemake", *options])


def failed_jobs():
    """The jobs that failed in this run, those of a group one by one."""
    for failed in workflow.scheduler.failed:
        for job in getattr(failed, "jobs", [failed]):
            yield FailedJob(job.rule.name, dict(job.wildcards_dict), next(iter(job.log), None))


def is_whole_study():
    """Whether this run was asked for the verdicts, and with them for the whole study."""
    verdicts = f"{RESULTS}/tables/verdicts.txt"
    return any(verdicts in job.input for job in workflow.dag.jobs)


onsuccess:
    if is_whole_study() and os.environ.get("ROBUSTGEN_SUMMARY") != "no":
        atexit.register(print, "\n" + format_success(RESULTS, report_command()))


onerror:
    atexit.register(print, "\n" + format_failure(failed_jobs(), STARTED), file=sys.stderr)
