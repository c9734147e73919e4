"""What can be done with whole LUT files: list them, join them, clean them up.

The rows of a device are relative to the speed its canary ran at when the table was begun (`CANARY` of
`onnx_mdp.latency.lut`). So rows that move from one file to another are scaled by the ratio of the two canaries, and the
canary's own row neither moves over another nor is dropped while there are rows relative to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from onnx_mdp.errors import LutError
from onnx_mdp.latency.lut import CANARY, Entry, Row, region_key

_CANARY_KEY = region_key(CANARY)


@dataclass(frozen=True)
class DeviceFacts:
    """The rows of one device: how many are measured, failed and damaged, and when the first and last were measured."""

    device: str
    entries: int
    failed: int
    damaged: int
    oldest: str
    newest: str


def devices_of(rows: Iterable[Row]) -> list[DeviceFacts]:
    """What there is of every device, the one with the most rows first. A canary is no entry."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.entry.key != _CANARY_KEY:
            found.setdefault(row.entry.device, []).append(row)
    facts = [_device(name, held) for name, held in found.items()]
    return sorted(facts, key=lambda device: (-device.entries, device.device))


def _device(name: str, rows: Sequence[Row]) -> DeviceFacts:
    intact = [row.entry for row in rows if row.intact]
    failed = sum(bool(entry.failed) for entry in intact)
    stamps = sorted(entry.measured for entry in intact) or [""]
    return DeviceFacts(name, len(intact) - failed, failed, len(rows) - len(intact), stamps[0], stamps[-1])


def named_device(name: str, devices: Iterable[str], option: str) -> str:
    """The one device whose fingerprint is, or contains, the text.

    Raises:
        LutError: none or several do; the message lists them.
    """
    known = sorted(set(devices))
    if name in known:
        return name
    fitting = [device for device in known if name.lower() in device.lower()]
    if len(fitting) == 1:
        return fitting[0]
    shown = "; ".join(fitting or known) or "none"
    problem = "fits several devices, give more of one" if fitting else "there is no such device, there are"
    raise LutError(f"{option} {name!r}: {problem}: {shown}")


def select(rows: Iterable[Row], device: str | None, pattern: str | None) -> list[Entry]:
    """Intact rows of a device (None: of all) whose region fits a shell pattern, the slowest first."""
    fitting = [
        row.entry
        for row in rows
        if row.intact
        and device in (None, row.entry.device)
        and (pattern is None or fnmatchcase(row.entry.region, pattern))
        and row.entry.key != _CANARY_KEY
    ]
    return sorted(fitting, key=lambda entry: (entry.device, -entry.ms, entry.region))


@dataclass(frozen=True)
class Merged:
    """What became of the rows of one file.

    Attributes:
        added: rows that were not there.
        replaced: rows newer than those that were there.
        older: rows that were not newer, and so left out.
        damaged: rows whose checksum does not agree, left out.
        apart: devices left out because their canary's row is missing, which says what their rows are relative to.
    """

    added: int
    replaced: int
    older: int
    damaged: int
    apart: tuple[str, ...]


Held = dict[tuple[str, str], Entry]


def held_rows(rows: Iterable[Row]) -> Held:
    """The intact rows by device and key."""
    return {(row.entry.device, row.entry.key): row.entry for row in rows if row.intact}


def merge_rows(held: Held, rows: Sequence[Row]) -> tuple[list[Entry], Merged]:
    """The rows to store beside those held, which are updated, and what became of all.

    The newest wins, but a failed measurement never replaces one that succeeded.
    """
    theirs = held_rows(rows)
    scales = _scales(held, theirs)
    taken: list[Entry] = []
    replaced = older = 0
    for place, entry in theirs.items():
        scale, before = scales[entry.device], held.get(place)
        if scale is None or (entry.key == _CANARY_KEY and before):
            continue
        if before is not None and not _wins(entry, before):
            older += 1
            continue
        replaced += before is not None
        taken.append(replace(entry, ms=entry.ms * scale))
    held.update(((entry.device, entry.key), entry) for entry in taken)
    new = [entry for entry in taken if entry.key != _CANARY_KEY]
    apart = tuple(device for device, scale in scales.items() if scale is None)
    return taken, Merged(len(new) - replaced, replaced, older, sum(not row.intact for row in rows), apart)


def _wins(new: Entry, old: Entry) -> bool:
    if bool(new.failed) != bool(old.failed):
        return bool(old.failed)
    return new.measured > old.measured


def _scales(held: Held, theirs: Held) -> dict[str, float | None]:
    """What to multiply the rows of each device with; None where that cannot be known."""
    ours = {device for device, _ in held}
    return {device: _scale(held, theirs, device) if device in ours else 1.0 for device, _ in theirs}


def _scale(held: Held, theirs: Held, device: str) -> float | None:
    mine, other = held.get((device, _CANARY_KEY)), theirs.get((device, _CANARY_KEY))
    if mine is None and other is None:
        return 1.0
    return mine.ms / other.ms if mine and other and other.ms else None


@dataclass(frozen=True)
class Unwanted:
    """Which rows to drop.

    Attributes:
        before: rows measured before this time; empty for none.
        versions: runtime -> the one version to keep; rows of runtimes that are not in here stay.
    """

    before: str = ""
    versions: Mapping[str, str] | None = None


def garbage(rows: Sequence[Row], unwanted: Unwanted) -> dict[str, list[int]]:
    """Numbers of the rows to drop by reason: damaged, failed, old, or of another version of the runtime.

    A canary stays as long as another row of its device does.
    """
    found: dict[str, list[int]] = {"damaged": [], "failed": [], "old": [], "version": []}
    kept: set[str] = set()
    for row in rows:
        reason = _reason(row, unwanted)
        if reason and (row.entry.key != _CANARY_KEY or not row.intact):
            found[reason].append(row.number)
        elif row.entry.key != _CANARY_KEY:
            kept.add(row.entry.device)
    alone = [r.number for r in rows if r.intact and r.entry.key == _CANARY_KEY and r.entry.device not in kept]
    return {**found, "canary of nothing else": alone}


def _reason(row: Row, unwanted: Unwanted) -> str:
    if not row.intact:
        return "damaged"
    if row.entry.failed:
        return "failed"
    if row.entry.measured < unwanted.before:
        return "old"
    runtime, version = runtime_of(row.entry.device)
    return "version" if (unwanted.versions or {}).get(runtime.split(" ")[0], version) != version else ""


def runtime_of(device: str) -> tuple[str, str]:
    """Name, with provider and options, and version of the runtime in a fingerprint's text."""
    name, _, version = device.partition(", ")[0].rpartition(" ")
    return name, version


def hardware_of(device: str) -> str:
    """What a fingerprint's text says besides the runtime's version and the threads."""
    _, _, rest = device.partition(", ")
    return rest.rpartition(", ")[0]
