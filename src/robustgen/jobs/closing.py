"""The last lines of a run: the verdicts and where results lie, or which jobs failed and why.

python -m robustgen.jobs.closing results/demo
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

MAX_FAILED_JOBS = 5
"""Failed jobs that are described; of further ones only the number is told."""
_NO_MESSAGE = (
    "it ended without an error message; it was probably killed, or ran out of memory or time"
)
_NO_LOG = "it ended before it wrote to its log; its error is in the output above"


class FailedJob(NamedTuple):
    """A job that did not succeed.

    Attributes:
        rule: name of its rule.
        wildcards: its wildcards by name.
        log: path of its log, or None if its rule has none.
    """

    rule: str
    wildcards: Mapping[str, str]
    log: str | None


def format_success(results: str | Path, report_command: str) -> str:
    """The verdicts of a study, and where its report, tables and figures are.

    Args:
        results: the folder of the study's results, e.g. `results/demo`.
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
    """One block of lines per failed job: what it was, its error, and its log.

    Args:
        jobs: the jobs that failed.
        started: when the run began, in seconds since 1970; an older log is that of another run.
    """
    failed = sorted(jobs, key=lambda job: (job.rule, str(job.log)))
    count = "1 job" if len(failed) == 1 else f"{len(failed)} jobs"
    lines = [f"robustgen: {count} failed; finished results are kept, and the same command goes on"]
    for job in failed[:MAX_FAILED_JOBS]:
        details = ", ".join(f"{name} {value}" for name, value in job.wildcards.items())
        lines.append(
            f"  {job.rule}{f' ({details})' if details else ''}: {job_error(job.log, started)}"
        )
        if job.log is not None:
            lines.append(f"    log: {job.log}")
    if len(failed) > MAX_FAILED_JOBS:
        lines.append(f"  and {len(failed) - MAX_FAILED_JOBS} more")
    return "\n".join(lines)


def job_error(log: str | None, started: float = 0.0) -> str:
    """The error that ended a job, as its log tells it.

    That is the message of the last line of level ERROR, or the last line of the traceback below it.
    """
    try:
        text = Path(log or "").read_text(encoding="utf-8", errors="replace")
        is_of_this_run = Path(log or "").stat().st_mtime >= started
    except OSError:
        return _NO_LOG
    if not is_of_this_run:
        return _NO_LOG
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if " ERROR " in line]
    if not errors:
        return _NO_MESSAGE
    if errors[-1] == len(lines) - 1:
        return lines[-1].partition(" ERROR ")[2]
    return lines[-1].strip()


def main() -> None:
    """Print the last lines of a successful run of the study whose results folder is given."""
    if len(sys.argv) != 2:
        sys.exit("robustgen: name one folder of results, such as results/demo")
    results = sys.argv[1]
    try:
        print(format_success(results, f"snakemake --report {results}/report.html"))
    except OSError as error:
        missing = f"{error.filename}: {error.strerror}"
        sys.exit(f"robustgen: {results} holds no finished study: {missing}")


if __name__ == "__main__":
    main()
