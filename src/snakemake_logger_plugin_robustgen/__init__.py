"""Progress bars with the time left, for `snakemake --logger robustgen`.

Snakemake finds logger plugins by the prefix of their names. This one is the community's plugin for
Rich (`snakemake-logger-plugin-rich`) with two changes: bars show the time left in place of the time
since the start and of the number of running jobs (which counts one too many), and Snakemake's own
plain lines are kept where bars are of no use: without a terminal (CI, a file, a scheduler), in a
dry run, and where colours are switched off.
"""

import logging
import sys

from rich.progress import ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from snakemake_logger_plugin_rich import LogHandler as RichHandler

SPEED_PERIOD_S = 3600.0
"""Jobs that finished within so many seconds determine the time left. Rich's default of 30 seconds
is shorter than a job that trains."""

RUNNING_JOBS = "{task.fields[active]}"
"""The text of the column of running jobs."""

FRAME_LINES = 4
"""Lines of the terminal that bars leave free: for their frame and for a message above it."""


class TimeLeftColumn(ProgressColumn):
    """The time left, from the pace of the jobs that have finished; "-:--:--" until two have."""

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._remaining = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        """The time left of the jobs of one rule, or of the study."""
        if task.finished:
            return Text("")
        return self._remaining.render(task).append(" left", style="dim")


def _is_replaced(column: ProgressColumn | str) -> bool:
    """Whether a column shows the time since the start, or the number of running jobs."""
    return isinstance(column, TimeElapsedColumn) or (
        isinstance(column, TextColumn) and column.text_format == RUNNING_JOBS
    )


class LogHandler(RichHandler):  # type: ignore[misc]  # the plugin has no type stubs
    """Bars in a terminal; elsewhere nothing, which leaves Snakemake its own lines."""

    def __post_init__(self) -> None:
        """Choose the columns of the bars."""
        settings = self.common_settings
        self.is_active = sys.stderr.isatty() and not (settings.dryrun or settings.nocolor)
        super().__post_init__()
        self.is_active &= not self.console.is_dumb_terminal
        progress = self.progress
        progress.speed_estimate_period = SPEED_PERIOD_S
        kept_columns = [column for column in progress.columns if not _is_replaced(column)]
        progress.columns = (*kept_columns, TimeLeftColumn())

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, in a terminal."""
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
