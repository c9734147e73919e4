"""Tables of what was found, and what breaks a promise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from coverage.anatomy import ATTENTION_KINDS
from coverage.families import FAMILIES, OTHER, Family, family_of
from coverage.proof import BEFORE_SELECTION
from coverage.record import EXACT, FAILED, LEFT_ALONE, Record

SECONDS = 5.0
MEMORY = 4.0
# Bytes the analysis may take whatever the model's size: what it knows of some hundred nodes.
OVERHEAD = 2**20

COLUMNS = (
    *("model", "verdict", "kinds", "groups", "units", "blocks", "prunable params", "MACs", "params left"),
    *("MACs left", "proof", "s", "memory", "opened"),
)
FAMILY_COLUMNS = (
    *("family", "models", "exact", "left alone", "failed", "median parameters left", "median MACs left"),
    *("worst proof error", "slowest analysis"),
)


def violations(records: Sequence[Record]) -> list[str]:
    """Every promise that a model breaks, one line each."""
    return [f"{record.model}: {what}" for record in records for what in _broken(record)]


def _broken(record: Record) -> Iterator[str]:
    if record.outcome == FAILED:
        yield record.verdict
        return
    limit = family_of(record.model).limit
    if limit is not None and record.parameters_left > limit:
        yield f"{_percent(record.parameters_left)} of the parameters are left, allowed {_percent(limit)}"
    if record.attention and not ATTENTION_KINDS & set(record.cut_kinds):
        yield "it has attention, but no heads, query/key or value widths are cut"
    if record.seconds >= SECONDS:
        yield f"its analysis takes {record.seconds:.1f} s, allowed {SECONDS:g} s"
    if record.memory_bytes >= MEMORY * record.bytes + OVERHEAD:
        yield f"its analysis takes {record.memory_bytes / 2**20:.1f} MiB, allowed {MEMORY:g} times its size and 1 MiB"


def row(record: Record) -> tuple[str, ...]:
    """A model's row; see `COLUMNS`."""
    ran = record.outcome == EXACT
    return (
        record.model,
        record.verdict + (f" ({record.compared})" if record.compared == BEFORE_SELECTION else ""),
        " ".join(f"{kind} {count}" for kind, count in record.kinds.items()),
        str(record.groups),
        str(record.units),
        f"{record.removed}/{record.blocks}",
        _percent(record.prunable_parameters),
        _percent(record.prunable_macs),
        _percent(record.parameters_left) if ran else "-",
        _percent(record.macs_left) if ran else "-",
        f"{record.proof:.0e}" if record.proof is not None else "-",
        f"{record.seconds:.2f}",
        f"{record.memory_bytes / max(record.bytes, 1):.1f}x",
        f"{record.opened_bytes / max(record.bytes, 1):.1f}x",
    )


def family_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row per family, and one for all of them; see `FAMILY_COLUMNS`."""
    rows = [_family_row(family.name, _members(records, family)) for family in (*FAMILIES, OTHER)]
    return [*(one for one in rows if one[1] != "0"), _family_row("all", records)]


def _members(records: Sequence[Record], family: Family) -> list[Record]:
    return [record for record in records if record.family == family.name]


def _family_row(name: str, records: Sequence[Record]) -> tuple[str, ...]:
    exact = [record for record in records if record.outcome == EXACT]
    proofs = [record.proof for record in exact if record.proof is not None]
    return (
        name,
        str(len(records)),
        str(len(exact)),
        str(sum(record.outcome == LEFT_ALONE for record in records)),
        str(sum(record.outcome == FAILED for record in records)),
        _median(exact, lambda record: record.parameters_left),
        _median(exact, lambda record: record.macs_left),
        f"{max(proofs):.0e}" if proofs else "-",
        f"{max(record.seconds for record in records):.1f} s" if records else "-",
    )


def _median(records: Sequence[Record], value: Callable[[Record], float]) -> str:
    return _percent(statistics.median(map(value, records))) if records else "-"


def markdown(records: Sequence[Record]) -> str:
    """The summary by family, as a table in Markdown."""
    lines = [FAMILY_COLUMNS, ("---",) * len(FAMILY_COLUMNS), *family_rows(records)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
