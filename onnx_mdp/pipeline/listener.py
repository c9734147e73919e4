"""What long work tells whoever watches: the command line shows it, the Python functions stay silent."""

from __future__ import annotations


class Listener:
    """Receives progress. This one ignores it; a front end overrides what it shows."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, done: int, total: int, what: str = "") -> None:
        """Part of the current stage is done."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should know."""
