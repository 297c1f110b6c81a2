"""Messages of a run: warnings before it starts, and a summary at its end.

Snakemake prints its own lines after the hooks below. The summary is therefore printed at exit.
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

START_TIME = time.time()
IS_MAIN_PROCESS = workflow.exec_mode == ExecMode.DEFAULT

if IS_MAIN_PROCESS:
    for warning in search_warnings(STUDY):
        logger.warning(f"robustgen: {warning}")


def report_command():
    """Return the command that makes the report, for the folder in which Snakemake was called.

    Snakemake has changed the working directory before it reads this file; PWD has the shell's.
    """
    shell_folder = Path(os.environ.get("PWD", os.getcwd()))
    options = ["--report", f"{RESULTS}/report.html"]
    if Path(workflow.main_snakefile).parent != shell_folder:
        options += ["--snakefile", workflow.main_snakefile]
    if Path.cwd() != shell_folder:
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
    """Yield the failed jobs of this run, also the single jobs of failed groups."""
    for job_or_group in workflow.scheduler.failed:
        for job in getattr(job_or_group, "jobs", [job_or_group]):
            yield FailedJob(job.rule.name, dict(job.wildcards_dict), next(iter(job.log), None))


def is_whole_study():
    """Whether the targets of this run include the verdicts, and so the whole study."""
    verdicts = f"{RESULTS}/tables/verdicts.txt"
    return any(verdicts in job.input for job in workflow.dag.jobs)


onsuccess:
    if is_whole_study() and os.environ.get("ROBUSTGEN_SUMMARY") != "no":
        atexit.register(print, "\n" + format_success(RESULTS, report_command()))


onerror:
    atexit.register(print, "\n" + format_failure(failed_jobs(), START_TIME), file=sys.stderr)
