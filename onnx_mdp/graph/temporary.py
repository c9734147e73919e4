"""Temporary files that a process which is asked to end does not leave behind: only a SIGKILL does."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

# A request to end and a closed terminal kill the process by default; the second does not exist on Windows.
_ENDS = tuple(number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP"))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder below `TMPDIR` that is gone at the end of the context."""
    folder = tempfile.TemporaryDirectory(prefix="onnx-mdp-", ignore_cleanup_errors=True)
    with folder as name, removed_at_end(partial(shutil.rmtree, name, ignore_errors=True)):
        yield Path(name)


@contextmanager
def removed_at_end(remove: Callable[[], object]) -> Iterator[None]:
    """Within the context, a signal that kills the process lets it call `remove` first.

    Signals that the process handles or ignores are left as they are, and all of them outside the main thread, where
    Python sets no handlers.
    """

    def end(number: int, frame: object) -> None:
        remove()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in _ENDS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
