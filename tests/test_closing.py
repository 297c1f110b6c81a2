"""The last lines of a run: verdicts and paths, or failed jobs with their errors."""

import pytest

from robustgen.errors import UserError
from robustgen.jobs.closing import FailedJob, format_failure, format_success, job_error, main
from robustgen.jobs.runtime import run_job

KILLED = "2026-01-01 00:00:00 INFO epoch 1/3, 9 s left\n"
LOGS = {
    "a job that was killed": (KILLED, "it ended without an error message; it was probably killed"),
    "an empty log": ("", "it ended without an error message; it was probably killed"),
    "no log": (None, "it ended before it wrote to its log; its error is in the output"),
    "a user error": ("2026-01-01 00:00:00,1 ERROR a.npz is damaged\n", "a.npz is damaged"),
    "an exception": (f"{KILLED}x ERROR failed\nTraceback\n  x\nKeyError: 'a'\n", "KeyError: 'a'"),
}


@pytest.mark.parametrize(("text", "message"), LOGS.values(), ids=LOGS)
def test_the_error_of_a_job_is_the_last_one_in_its_log(tmp_path, text, message):
    path = tmp_path / "job.log"
    if text is not None:
        path.write_text(text)
    assert job_error(str(path)).startswith(message)


def test_the_log_of_an_earlier_run_is_ignored(tmp_path):
    path = tmp_path / "job.log"
    path.write_text("x ERROR of an earlier run\n")
    assert job_error(str(path), started=path.stat().st_mtime - 1) == "of an earlier run"
    assert "before it wrote to its log" in job_error(str(path), path.stat().st_mtime + 1)


@pytest.mark.parametrize("error", [UserError("the sky is green"), MemoryError("too much")])
def test_the_error_is_read_from_the_log_that_a_job_wrote(tmp_path, error):
    with pytest.raises(SystemExit), run_job(tmp_path / "log"):
        raise error
    assert str(error) in job_error(str(tmp_path / "log"))


def test_the_last_lines_of_a_failed_run_name_jobs_errors_and_logs():
    train_jobs = [FailedJob("train", {"n": str(n)}, f"{n}.log") for n in range(7)]
    lines = format_failure([*train_jobs, FailedJob("codes", {}, None)]).splitlines()
    assert lines[0].startswith("robustgen: 8 jobs failed")
    assert lines[1].startswith("  codes: it ended before it wrote to its log")
    assert lines[2:4] == [f"  train (n 0): {job_error('0.log')}", "    log: 0.log"]
    assert lines[-1] == "  and 3 more"


def test_the_last_lines_of_a_successful_run_are_verdicts_and_paths(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/verdicts.txt").write_text("Data set a\n  1. It is so: supported\n")
    closing_lines = format_success(tmp_path, "snakemake --report x")
    assert closing_lines.startswith("Data set a\n  1. It is so: supported\n\nTables:")
    assert "make it with snakemake --report x" in closing_lines
    (tmp_path / "report.html").touch()
    assert f"Report:  {tmp_path}/report.html" in format_success(tmp_path, "snakemake --report x")


def test_the_command_prints_verdicts_and_paths_of_a_finished_study(study, monkeypatch, capsys):
    monkeypatch.chdir(study)
    monkeypatch.setattr("sys.argv", ["closing", "results/smoke"])
    main()
    text = capsys.readouterr().out
    verdicts = (study / "results/smoke/tables/verdicts.txt").read_text()
    assert verdicts.strip() in text
    assert "results/smoke/tables" in text
    assert "snakemake --report results/smoke/report.html" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "robustgen: name one folder of results, such as results/demo"),
        (["results/none"], "robustgen: results/none is not the folder of a finished study: "),
    ],
)
def test_the_command_reports_a_missing_study_in_one_sentence(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["closing", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    assert str(raised.value).startswith(message)
