"""Latency tables as JSON and CSV: for other programs to read, and for `merge` to read back.

Every row keeps its checksum, so that what was damaged on the way is found. Numbers are written with all their digits.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from onnx_mdp.errors import LutError, OutputError
from onnx_mdp.latency.lut import Entry, LutFile, Row

_MARK = "onnx-mdp latency table"
_VERSION = 1
_COLUMNS = (*(field.name for field in fields(Entry)), "checksum")
_NUMBERS = {"ms": float, "wall_ms": float, "spread": float, "count": int}


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write rows as JSON or CSV, by the file's suffix.

    Raises:
        OutputError: the suffix is another, or the file cannot be written.
    """
    rows = [{**asdict(entry), "checksum": entry.checksum} for entry in entries]
    if path.suffix not in (".json", ".csv"):
        raise OutputError(f"{path}: tables are exported as JSON or CSV; name it .json or .csv")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".json":
                json.dump({"format": _MARK, "version": _VERSION, "entries": rows}, file, indent=1)
            else:
                writer = csv.DictWriter(file, _COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def read_rows(path: Path) -> list[Row]:
    """All rows of a LUT file or of what was exported from one; damaged ones are marked so.

    Raises:
        LutError: the file is missing, or is neither.
    """
    if path.suffix not in (".json", ".csv"):
        with closing(LutFile(path)) as file:
            return list(file.rows())
    try:
        with path.open(encoding="utf-8", newline="") as text:
            found = list(_from_json(json.load(text)) if path.suffix == ".json" else _from_csv(csv.DictReader(text)))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LutError(f"{path}: cannot be read as an exported latency table: {reason}; export it again") from error
    return [_row(number, values) for number, values in enumerate(found)]


def _from_json(data: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(data, dict) or data.get("format") != _MARK or not isinstance(data.get("entries"), list):
        raise ValueError(f"its format is not {_MARK!r}")
    if data.get("version") != _VERSION:
        raise ValueError(f"it is of version {data.get('version')}, this onnx-mdp reads {_VERSION}")
    yield from data["entries"]


def _from_csv(reader: csv.DictReader[str]) -> Iterator[Mapping[str, Any]]:
    if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
    yield from reader


def _row(number: int, values: Any) -> Row:
    """A row; one that lacks a value or has one of another kind is damaged."""
    try:
        typed = {name: _NUMBERS.get(name, str)(values[name]) for name in _COLUMNS}
    except (KeyError, TypeError, ValueError):
        held = values if isinstance(values, Mapping) else {}
        named = {name: str(held.get(name) or "") for name in ("device", "key", "measured", "region")}
        return Row(number, Entry(**named, ms=0.0, wall_ms=0.0, spread=0.0, count=0), intact=False)
    checksum = typed.pop("checksum")
    entry = Entry(**typed)
    return Row(number, entry, entry.checksum == checksum)
