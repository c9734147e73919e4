"""The latency look-up table: one SQLite file that loses nothing when a run is killed.

A row is one region at concrete sizes on one device. Its key is a hash of the region's canonical text, so equal
layers share it, within a model and between models. Rows carry a checksum; a damaged one is measured again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

from onnx_mdp.errors import LutError
from onnx_mdp.runtime.base import Fingerprint

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    device TEXT NOT NULL, key TEXT NOT NULL, ms REAL NOT NULL, wall_ms REAL NOT NULL, spread REAL NOT NULL,
    count INTEGER NOT NULL, measured TEXT NOT NULL, region TEXT NOT NULL, failed TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (device, key))
"""


@dataclass(frozen=True)
class Entry:
    """One measured region.

    Attributes:
        device: fingerprint.
        key: hash of the region's canonical text.
        ms: milliseconds by the clock to trust (CPU time at one thread, device time on a GPU, else wall time).
        wall_ms: wall milliseconds.
        spread: half-width of the 95 % interval around `ms`, as a share of it.
        count: passes.
        measured: when.
        region: canonical text.
        failed: why it could not be measured, else empty.
    """

    device: str
    key: str
    ms: float
    wall_ms: float
    spread: float
    count: int
    measured: str
    region: str
    failed: str = ""

    @property
    def checksum(self) -> str:
        """Hash over all other fields."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:16]


def region_key(text: str) -> str:
    """The key of a region's canonical text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def now() -> str:
    """The time stamped on entries."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_path() -> Path:
    """`onnx-mdp/lut.sqlite` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "onnx-mdp" / "lut.sqlite"


class LatencyTable:
    """The rows of one device in a LUT file; `put` returns only when they are on disk."""

    def __init__(self, path: Path, device: Fingerprint) -> None:
        self.path = path
        self.device = str(device)
        with self._guarded():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(_SCHEMA)
            self._entries = {entry.key: entry for entry in self._read()}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The row of a key on this device."""
        return self._entries.get(key)

    def put(self, entries: Iterable[Entry]) -> None:
        """Store rows in one transaction."""
        rows = list(entries)
        with self._guarded():
            self._db.execute("BEGIN IMMEDIATE")
            values = [(*astuple(entry), entry.checksum) for entry in rows]
            self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?,?,?,?,?,?,?,?,?,?)", values)
            self._db.execute("COMMIT")
        self._entries.update((entry.key, entry) for entry in rows)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _read(self) -> Iterator[Entry]:
        for row in self._db.execute("SELECT * FROM entry WHERE device = ?", (self.device,)):
            entry = Entry(*row[:-1])
            if entry.checksum == row[-1]:
                yield entry

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            hint = "give another file with --lut, or delete it if it is damaged"
            raise LutError(f"latency table {self.path}: {error}; {hint}") from error
