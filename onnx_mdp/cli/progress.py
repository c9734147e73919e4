"""Progress on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from onnx_mdp.pipeline.listener import Listener


class RichListener(Listener):
    """Shows the running stage with a bar, and notes as lines, on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._task: TaskID | None = None

    def __enter__(self) -> RichListener:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def stage(self, name: str) -> None:
        """Show the stage in place of the last one."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=None)

    def step(self, done: int, total: int, what: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(escape(text), style="dim", highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._console.print(f"warning: {escape(text)}", style="yellow", highlight=False)
