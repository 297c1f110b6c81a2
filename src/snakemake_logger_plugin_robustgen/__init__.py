"""Progress bars with the time left, for `snakemake --logger robustgen`.

Snakemake finds logger plugins by the prefix of their names. This one extends the plugin for Rich
(`snakemake-logger-plugin-rich`) by two changes. Bars show the remaining time instead of the elapsed
time and of the number of running jobs, which is one too high. Without a terminal (CI, a file, a
scheduler), in a dry run, and without colours, Snakemake's own lines are printed instead of bars.
"""

import logging
import sys

from rich.progress import ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from snakemake_logger_plugin_rich import LogHandler as RichHandler

SPEED_PERIOD_S = 3600.0
"""Seconds within which finished jobs determine the remaining time. Rich's default of 30 seconds is
shorter than a job that trains."""

RUNNING_JOBS = "{task.fields[active]}"
"""Format of the column of running jobs."""

FRAME_LINES = 4
"""Lines of the terminal that are reserved for the frame of the bars and a message above it."""


class TimeLeftColumn(ProgressColumn):
    """The remaining time, estimated from finished jobs; "-:--:--" before the second one."""

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._remaining = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        """Return the remaining time of the jobs of one rule, or of the study."""
        if task.finished:
            return Text("")
        return self._remaining.render(task).append(" left", style="dim")


def _is_replaced(column: ProgressColumn | str) -> bool:
    """Whether a column shows the elapsed time or the number of running jobs."""
    return isinstance(column, TimeElapsedColumn) or (
        isinstance(column, TextColumn) and column.text_format == RUNNING_JOBS
    )


class LogHandler(RichHandler):  # type: ignore[misc]  # the plugin has no type stubs
    """A handler that shows bars in a terminal, and otherwise leaves Snakemake its own lines."""

    def __post_init__(self) -> None:
        """Decide whether bars are shown, and choose their columns."""
        settings = self.common_settings
        self.is_active = sys.stderr.isatty() and not (settings.dryrun or settings.nocolor)
        super().__post_init__()
        self.is_active &= not self.console.is_dumb_terminal
        progress = self.progress
        progress.speed_estimate_period = SPEED_PERIOD_S
        kept_columns = [column for column in progress.columns if not _is_replaced(column)]
        progress.columns = (*kept_columns, TimeLeftColumn())

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, if bars are shown."""
        if self.is_active:
            super().emit(record)
            self._fit_into_terminal()

    def _fit_into_terminal(self) -> None:
        """Hide bars of finished rules, the oldest first, if there are more bars than lines."""
        visible = [task for task in self.progress.tasks if task.visible]
        finished = [task for task in visible if task.finished]
        surplus = max(len(visible) + FRAME_LINES - self.console.height, 0)
        for task in finished[:surplus]:
            self.progress.update(task.id, visible=False)

    @property
    def writes_to_stream(self) -> bool:
        """Whether this replaces Snakemake's own lines."""
        return bool(self.is_active)
