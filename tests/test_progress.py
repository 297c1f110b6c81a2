"""The logger plugin: progress bars in a terminal, Snakemake's own lines elsewhere."""

import io
import logging
import sys
from datetime import timedelta

import pytest
import yaml
from conftest import ROOT
from rich.progress import Task
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_robustgen import LogHandler, TimeLeftColumn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


CASES = {
    "a terminal": (Terminal, {}, True),
    "a file": (io.StringIO, {}, False),
    "a dry run": (Terminal, {"dryrun": True}, False),
    "a terminal without colours": (Terminal, {"nocolor": True}, False),
}


@pytest.mark.parametrize(("stream", "settings", "is_active"), CASES.values(), ids=CASES)
def test_bars_replace_lines_only_in_a_terminal(stream, settings, is_active, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    handler = LogHandler(OutputSettings(**settings), None)
    stats = {"event": LogEvent.RUN_INFO, "stats": {"train": 2, "total": 2}}
    handler.emit(logging.makeLogRecord({"msg": "stats", **stats}))
    handler.close()
    assert handler.writes_to_stream == is_active
    assert ("Workflow Progress" in sys.stderr.getvalue()) == is_active
    assert ("train" in sys.stderr.getvalue()) == is_active


def test_a_terminal_that_cannot_move_its_cursor_shows_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not LogHandler(OutputSettings(), None).writes_to_stream


def test_bars_do_not_count_running_jobs():
    progress = LogHandler(OutputSettings(), None).progress
    number = progress.add_task("train", total=4, active=7777)
    texts = [str(cell) for cell in progress.make_tasks_table([progress.tasks[number]]).columns]
    assert any("train" in text for text in texts)
    assert not any("7777" in text for text in texts)


def test_the_remaining_time_is_estimated_from_finished_jobs():
    clock = iter(range(0, 10_000, 100))
    handler = LogHandler(OutputSettings(), None)
    progress = handler.progress
    progress.get_time = lambda: next(clock)
    progress.disable = False
    number = progress.add_task("train", total=4, active=1)
    task: Task = progress.tasks[number]
    column = TimeLeftColumn()
    assert column.render(task).plain == "-:--:-- left"
    for completed in (1, 2):
        progress.update(number, completed=completed)
    assert 0 < task.time_remaining < 1000
    assert TimeLeftColumn().render(task).plain == f"{timedelta(seconds=task.time_remaining)} left"
    progress.update(number, completed=4)
    assert TimeLeftColumn().render(task).plain == ""


def test_finished_rules_are_hidden_if_there_are_too_many(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("LINES", "8")
    handler = LogHandler(OutputSettings(), None)
    add = handler.progress.add_task
    for name in ("codes", "vaegan", "train", "attack", "distances", "errors"):
        number = add(name, total=1, active=1)
        handler.progress.update(number, completed=int(name in ("codes", "train", "attack")))
    handler.emit(logging.makeLogRecord({"msg": "anything"}))
    handler.close()
    names = [task.description for task in handler.progress.tasks if task.visible]
    assert names == ["vaegan", "attack", "distances", "errors"]


def test_the_default_profile_selects_the_plugin():
    """Snakemake always reads profiles/default beside the Snakefile."""
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert profile["logger"] == ["robustgen"]
