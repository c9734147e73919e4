"""`lut`: list, join, export and clean up latency tables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from onnx_mdp.errors import OptionError, OutputError, RuntimeBackendError
from onnx_mdp.latency.exchange import read_rows, write_entries
from onnx_mdp.latency.library import Unwanted, devices_of, garbage, held_rows, merge_rows, named_device, select
from onnx_mdp.latency.lut import Entry, LutFile, Row, default_path
from onnx_mdp.lut_config import LutExportOptions, LutGcOptions, LutMergeOptions, LutShowOptions
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import is_available, open_runtime, variants

_EXPORTS = (".json", ".csv", ".sqlite")


def show(file: Path | None = None, options: LutShowOptions | None = None) -> dict[str, Any]:
    """The devices of a LUT file, or of what was exported from one; with a device or a pattern, their entries as well.

    Raises:
        LutError: the file cannot be read, or has no such device.
    """
    options = options or LutShowOptions()
    path = file or default_path()
    rows = read_rows(path)
    found: dict[str, Any] = {"file": str(path), "devices": [asdict(device) for device in devices_of(rows)]}
    if options.device is None and options.match is None:
        return found
    device = None if options.device is None else _device(options.device, rows)
    return {**found, "entries": [asdict(entry) for entry in select(rows, device, options.match)]}


def merge(files: Sequence[Path], options: LutMergeOptions | None = None) -> dict[str, Any]:
    """Put the rows of files into one: the newest of each region and device wins, damaged rows are left out.

    Raises:
        LutError: a file cannot be read; then nothing is written.
    """
    options = options or LutMergeOptions()
    if not files:
        raise OptionError("lut merge: name at least one file to merge")
    target = options.output or default_path()
    if target.suffix in (".json", ".csv"):
        raise OptionError(f"--output {target}: rows are merged into a LUT file; export that one as {target.suffix}")
    read = [(path, read_rows(path)) for path in files]
    with closing(LutFile(target, create=True)) as table:
        held = held_rows(table.rows())
        merged = []
        for path, rows in read:
            taken, facts = merge_rows(held, rows)
            table.put(taken)
            merged.append({"file": str(path), **asdict(facts)})
        return {"output": str(target), "merged": merged, "devices": [asdict(d) for d in devices_of(table.rows())]}


def export(file: Path | None, options: LutExportOptions) -> int:
    """Write a table as JSON, CSV or a LUT file of its own; returns how many rows went out.

    Raises:
        LutError: the file cannot be read, or has no such device.
        OutputError: the result cannot be written.
    """
    if options.output.suffix not in _EXPORTS:
        raise OutputError(f"--output {options.output}: tables are exported as {', '.join(_EXPORTS)}")
    rows = read_rows(file or default_path())
    device = None if options.device is None else _device(options.device, rows)
    entries = [row.entry for row in rows if row.intact and device in (None, row.entry.device)]
    if options.output.suffix == ".sqlite":
        _write_table(options.output, entries)
    else:
        write_entries(options.output, entries)
    return len(entries)


def gc(file: Path | None = None, options: LutGcOptions | None = None) -> dict[str, Any]:
    """Drop rows that are damaged or failed, and as asked those that are old or of other versions of the runtime.

    Raises:
        LutError: the file cannot be read or written.
    """
    options = options or LutGcOptions()
    path = file or default_path()
    unwanted = Unwanted(_before(options.days), _installed() if options.other_versions else None)
    size = path.stat().st_size if path.is_file() else 0
    with closing(LutFile(path)) as table:
        rows = list(table.rows())
        found = garbage(rows, unwanted)
        numbers = [number for group in found.values() for number in group]
        if not options.dry_run:
            table.drop(numbers)
    return {
        "file": str(path),
        "dropped": {reason: len(group) for reason, group in found.items() if group},
        "kept": len(rows) - len(numbers),
        "dry_run": options.dry_run,
        "bytes": {"before": size, "after": path.stat().st_size},
    }


def _device(name: str, rows: Sequence[Row]) -> str:
    return named_device(name, (facts.device for facts in devices_of(rows)), "--device")


def _write_table(path: Path, entries: Sequence[Entry]) -> None:
    if path.exists():
        raise OutputError(f"--output {path}: exists; use lut merge to add to it")
    with closing(LutFile(path, create=True)) as table:
        table.put(entries)


def _before(days: float | None) -> str:
    """The time that many days ago, as entries are stamped."""
    if days is None:
        return ""
    if not (math.isfinite(days) and 0 <= days < 36500):
        raise OptionError(f"--days {days:g}: give a number of days, 0 or more")
    return (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")


def _installed() -> dict[str, str]:
    """The version of every runtime, with its provider, that can be opened here."""
    found: dict[str, str] = {}
    for name in filter(is_available, variants()):
        with contextlib.suppress(RuntimeBackendError):  # its device is missing
            found[name] = open_runtime(RuntimeSpec(name)).version()
    return found
