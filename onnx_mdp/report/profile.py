"""Where the time goes, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnx_mdp.report.facts import untimed
from onnx_mdp.report.text import table

_MOST_KINDS = 4


def profiled(found: dict[str, Any], top: int) -> RenderableType:
    """What `profile` found; of each table the first `top` rows, or all if it is 0."""
    head = f"{found['model']}: {found['whole_ms']:.3g} ms on {found['device']}"
    parts: list[RenderableType] = [Text(head), *_regions(found["regions"], top)]
    parts += _groups(found["groups"], found["sum_ms"], top)
    parts += _blocks(found["blocks"], found["sum_ms"], top)
    reuse = found["table"]
    lines = [
        f"regions add up to {found['sum_ms']:.3g} ms, the whole model takes {found['whole_ms']:.3g} ms: "
        f"{100 * found['difference']:+.1f}%",
        f"table: {reuse['entries']} entries, {reuse['reused']} of them ({100 * reuse['reused_share']:.0f}%) were there "
        f"before; {reuse['file']}",
    ]
    lines += [f"warning: {text}" for text in untimed(found["failed"])]
    return Group(*parts, Text("\n".join(lines)))


def _regions(regions: Sequence[dict[str, Any]], top: int) -> list[RenderableType]:
    rows = [
        (
            region["name"],
            _kinds(region["operators"]),
            f"{region['ms']:.3g}",
            f"{100 * region['share']:.1f}%",
            f"{100 * region['cumulative']:.1f}%",
            f"{region['saves_ms']:.2g}" if region["groups"] else "-",
            ", ".join(region["groups"]) or "nothing that can be cut",
            region["block"] or "-",
        )
        for region in regions
    ]
    columns = ("region", "operators", "ms", "share", "so far", "halved saves", "depends on", "in block")
    return _shown("\nregions", columns, rows, top, {2, 3, 4, 5})


def _groups(groups: Sequence[dict[str, Any]], total: float, top: int) -> list[RenderableType]:
    rows = [
        (
            group["name"],
            group["kind"],
            f"{group['units']} to {group['halved']}",
            f"{group['ms']:.3g}",
            f"{group['saves_ms']:.2g}",
            _part(group["saves_ms"], total),
        )
        for group in groups
    ]
    columns = ("group", "kind", "halved", "ms it touches", "saves ms", "of all")
    return _shown("\ngroups, each halved alone", columns, rows, top, {2, 3, 4, 5})


def _blocks(blocks: Sequence[dict[str, Any]], total: float, top: int) -> list[RenderableType]:
    rows = [
        (b["name"], f"{b['saves_ms']:.3g}", f"{100 * b['saves_ms'] / total:.1f}%" if total else "-") for b in blocks
    ]
    return _shown("\nblocks, each removed alone", ("block", "saves ms", "of all"), rows, top, {1, 2})


def _shown(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], top: int, numbers: set[int]
) -> list[RenderableType]:
    """The first rows of a table, and how many are left out."""
    if not rows:
        return []
    made = table(title, columns, rows[: top or None])
    for index in numbers:
        made.columns[index].justify = "right"
        made.columns[index].no_wrap = True
    more = len(rows) - top if top else 0
    return [made, *([Text(f"and {more} more (--top 0 shows all)")] if more > 0 else [])]


def _kinds(operators: Sequence[str]) -> str:
    more = len(operators) - _MOST_KINDS
    return "+".join(operators[:_MOST_KINDS]) + (f"+{more}" if more > 0 else "")


def _part(ms: float, total: float) -> str:
    return f"{100 * ms / total:.1f}%" if total else "-"
