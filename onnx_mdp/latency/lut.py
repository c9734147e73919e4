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
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from onnx_mdp.errors import LutError
from onnx_mdp.runtime.base import Fingerprint
from onnx_mdp.runtime.folder import cache_path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    device TEXT NOT NULL, key TEXT NOT NULL, ms REAL NOT NULL, wall_ms REAL NOT NULL, spread REAL NOT NULL,
    count INTEGER NOT NULL, measured TEXT NOT NULL, region TEXT NOT NULL, failed TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY (device, key))
"""

# The row of each device that all its other rows are relative to: the time of the canary when its table was begun.
CANARY = "canary of the engine"


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
    return cache_path() / "lut.sqlite"


_HINTS = {
    True: "give another file with --lut, or delete it if it is damaged",
    False: "give a LUT file, as onnx-mdp prune and profile make them, or what lut export made of one",
}


@dataclass(frozen=True)
class Row:
    """A row of a file as it lies there: its number, its entry, and whether its checksum agrees."""

    number: int
    entry: Entry
    intact: bool


class LutFile:
    """All rows of a LUT file, whatever their device.

    Args:
        path: the file.
        create: make it if it is missing; else it must be a LUT file, and may be read-only.

    Raises:
        LutError: it cannot be opened, or is no LUT file.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._hint = _HINTS[create]
        with self._guarded():
            self._db = _create(path) if create else _open(path)
            self._db.text_factory = lambda data: data.decode(errors="replace")  # so that damage costs one row
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(entry)")]
            if columns != [*(field.name for field in fields(Entry)), "checksum"]:
                raise sqlite3.DatabaseError("this is no LUT file of this version of onnx-mdp")

    def devices(self) -> list[str]:
        """The devices that have rows."""
        with self._guarded():
            return [row[0] for row in self._db.execute("SELECT DISTINCT device FROM entry ORDER BY device")]

    def rows(self, device: str | None = None) -> Iterator[Row]:
        """The rows of a device, or all of them."""
        asked, bound = (" WHERE device = ?", (device,)) if device is not None else ("", ())
        with self._guarded():
            for number, *values, checksum in self._db.execute(f"SELECT rowid, * FROM entry{asked}", bound):
                entry = Entry(*values)
                yield Row(number, entry, entry.checksum == checksum)

    def put(self, entries: Iterable[Entry]) -> None:
        """Store rows in one transaction; returns only when they are on disk."""
        values = [(*astuple(entry), entry.checksum) for entry in entries]
        with self._guarded(), self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO entry VALUES (?,?,?,?,?,?,?,?,?,?)", values)

    def drop(self, numbers: Iterable[int]) -> None:
        """Delete rows by their numbers in one transaction, and give their space back."""
        with self._guarded():
            with self._transaction():
                self._db.executemany("DELETE FROM entry WHERE rowid = ?", [(number,) for number in numbers])
            self._db.execute("VACUUM")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LutError(f"latency table {self.path}: {error}; {self._hint}") from error


def _create(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(_SCHEMA)
    return db


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileNotFoundError("no such file")
    # Beside a file in WAL mode SQLite wants to write, which a shared read-only folder does not let it.
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    mode = "mode=rw" if writable else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=30, isolation_level=None)


class LatencyTable:
    """The rows of one device in a LUT file; `put` returns only when they are on disk."""

    def __init__(self, path: Path, device: Fingerprint | str, *, create: bool = True) -> None:
        self.path = path
        self.device = str(device)
        self._file = LutFile(path, create=create)
        self._entries = {row.entry.key: row.entry for row in self._file.rows(self.device) if row.intact}

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> frozenset[str]:
        """The keys of all rows."""
        return frozenset(self._entries)

    def get(self, key: str) -> Entry | None:
        """The row of a key on this device."""
        return self._entries.get(key)

    def put(self, entries: Iterable[Entry]) -> None:
        """Store rows in one transaction."""
        rows = list(entries)
        self._file.put(rows)
        self._entries.update((entry.key, entry) for entry in rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
