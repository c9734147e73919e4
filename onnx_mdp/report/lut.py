"""Latency tables as readable tables."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnx_mdp.report.text import table

_WIDEST = 60  # characters of a region's first line
_REASONS = {
    "damaged": "damaged",
    "failed": "failed, to be measured again when they are needed",
    "old": "too old",
    "version": "of another version of the runtime",
    "canary of nothing else": "canaries of devices without other rows",
}


def shown(found: dict[str, Any]) -> RenderableType:
    """What `lut show` found."""
    rows = [
        (d["device"], age(d["oldest"]), age(d["newest"]), str(d["entries"]), str(d["failed"]), str(d["damaged"]))
        for d in found["devices"]
    ]
    columns = ("device", "oldest", "newest", "entries", "failed", "damaged")
    parts: list[RenderableType] = [Text(found["file"]), table("", columns, rows, numbers=3)]
    if "entries" in found:
        parts += _entries(found["entries"])
    return Group(*parts)


def _entries(entries: list[dict[str, Any]]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for device in dict.fromkeys(entry["device"] for entry in entries):
        mine = [entry for entry in entries if entry["device"] == device]
        columns = ("region", "when", "ms", "±", "count")
        parts.append(table(f"\n{device}", columns, [_entry(entry) for entry in mine], numbers=3))
    return parts or [Text("no entry matches")]


def _entry(entry: dict[str, Any]) -> tuple[str, ...]:
    region = _region(entry["region"])
    if entry["failed"]:
        return f"{region}: {entry['failed']}", age(entry["measured"]), "failed", "", ""
    return (
        region,
        age(entry["measured"]),
        f"{entry['ms']:.4g}",
        f"{100 * entry['spread']:.1f}%",
        str(entry["count"]),
    )


def _region(text: str) -> str:
    """The first operator of a region and the sizes it runs at, from the canonical text."""
    first, _, rest = text.partition("\n")
    if first == "in situ":
        return f"in situ {_region(rest)}"
    op, opened, arguments = first.partition("(")
    inputs = arguments.rpartition(") ")[2].partition(" -> ")[0]
    short = f"{op.removeprefix('ai.onnx.')} {re.sub(r'%[0-9]+:', '', inputs)}" if opened else first
    return short if len(short) <= _WIDEST else short[: _WIDEST - 1] + "…"


def age(stamp: str) -> str:
    """How long ago a time was."""
    if not stamp:
        return "-"
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds(), 0)
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' * (count != 1)} ago"
    return "just now"


def merged(found: dict[str, Any]) -> RenderableType:
    """What `lut merge` did."""
    rows = [(m["file"], *(str(m[name]) for name in ("added", "replaced", "older", "damaged"))) for m in found["merged"]]
    parts: list[RenderableType] = [table("", ("file", "new", "newer", "not newer", "damaged"), rows, numbers=4)]
    for file in found["merged"]:
        parts += [
            Text(
                f"{file['file']}: the rows of {device} are left out: the row of its canary is missing on one side, so "
                "the two tables cannot be compared; measure them again"
            )
            for device in file["apart"]
        ]
    parts.append(Text(f"written: {found['output']}"))
    return Group(*parts)


def collected(found: dict[str, Any]) -> RenderableType:
    """What `lut gc` dropped."""
    word = "would drop" if found["dry_run"] else "dropped"
    lines = [f"{word} {count} rows: {_REASONS[reason]}" for reason, count in found["dropped"].items()]
    size = found["bytes"]
    end = "" if found["dry_run"] else f", {size['before'] / 1e3:.0f} kB before and {size['after'] / 1e3:.0f} kB after"
    return Text("\n".join([*(lines or ["nothing to drop"]), f"{found['file']}: {found['kept']} rows left{end}"]))
