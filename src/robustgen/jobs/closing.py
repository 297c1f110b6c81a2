"""The last lines of a run: verdicts and paths of results, or failed jobs with their errors.

python -m robustgen.jobs.closing results/demo
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

MAX_FAILED_JOBS = 5
"""Number of failed jobs that are described; the others are counted."""
_NO_MESSAGE = (
    "it ended without an error message; it was probably killed, or ran out of memory or time"
)
_NO_LOG = "it ended before it wrote to its log; its error is in the output above"


class FailedJob(NamedTuple):
    """A job that did not succeed.

    Attributes:
        rule: name of its rule.
        wildcards: values of its wildcards by name.
        log: path of its log; None if its rule has no log.
    """

    rule: str
    wildcards: Mapping[str, str]
    log: str | None


def format_success(results: str | Path, report_command: str) -> str:
    """Return the verdicts of a study, and the paths of its report, tables and figures.

    Args:
        results: the folder of the study's results, such as `results/demo`.
        report_command: the command that makes the report.
    """
    folder = Path(results)
    verdicts = (folder / "tables" / "verdicts.txt").read_text(encoding="utf-8").rstrip()
    report = folder / "report.html"
    lines = [
        verdicts,
        "",
        f"Tables:  {folder}/tables",
        f"Figures: {folder}/figures and {folder}/<data set>/figures",
        f"Report:  {report.resolve() if report.exists() else f'make it with {report_command}'}",
    ]
    return "\n".join(lines)


def format_failure(jobs: Iterable[FailedJob], started: float = 0.0) -> str:
    """Return a few lines per failed job: its rule and wildcards, its error, and its log.

    Args:
        jobs: the failed jobs.
        started: start of the run, in seconds since 1970. Older logs belong to another run and are
            ignored.
    """
    failed = sorted(jobs, key=lambda job: (job.rule, str(job.log)))
    count = "1 job" if len(failed) == 1 else f"{len(failed)} jobs"
    advice = "finished results are kept; run the same command again to continue"
    lines = [f"robustgen: {count} failed; {advice}"]
    for job in failed[:MAX_FAILED_JOBS]:
        wildcards = ", ".join(f"{name} {value}" for name, value in job.wildcards.items())
        details = f" ({wildcards})" if wildcards else ""
        lines.append(f"  {job.rule}{details}: {job_error(job.log, started)}")
        if job.log is not None:
            lines.append(f"    log: {job.log}")
    if len(failed) > MAX_FAILED_JOBS:
        lines.append(f"  and {len(failed) - MAX_FAILED_JOBS} more")
    return "\n".join(lines)


def job_error(log: str | None, started: float = 0.0) -> str:
    """Return the error that ended a job, from its log.

    It is the message of the last line of level ERROR, or the last line of the traceback below it.
    """
    try:
        text = Path(log or "").read_text(encoding="utf-8", errors="replace")
        is_current = Path(log or "").stat().st_mtime >= started
    except OSError:
        return _NO_LOG
    if not is_current:
        return _NO_LOG
    lines = [line for line in text.splitlines() if line.strip()]
    error_lines = [number for number, line in enumerate(lines) if " ERROR " in line]
    if not error_lines:
        return _NO_MESSAGE
    if error_lines[-1] == len(lines) - 1:
        return lines[-1].partition(" ERROR ")[2]
    return lines[-1].strip()


def main() -> None:
    """Print the last lines of a successful run, for the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("robustgen: name one folder of results, such as results/demo")
    results = sys.argv[1]
    try:
        print(format_success(results, f"snakemake --report {results}/report.html"))
    except OSError as error:
        cause = f"{error.filename}: {error.strerror}"
        sys.exit(f"robustgen: {results} is not the folder of a finished study: {cause}")


if __name__ == "__main__":
    main()
