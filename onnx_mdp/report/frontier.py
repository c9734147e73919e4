"""A frontier of plans: its facts and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from onnx_mdp.report.text import table

_GAP = 1e-6


@dataclass(frozen=True)
class Point:
    """One plan of a frontier, predicted from the latency table.

    `asked` is what the user wrote, `asked_ms` the latency it stands for, None where a damage was asked; `predicted_ms`
    is what the plan should take, give or take one standard deviation `deviation_ms`, and `share` that of the dense
    model's; `widths` are the kept units of every group, 0 for one that went with its block; `gap` is that of the
    program the plan is the optimum of. `plan` is its file.
    """

    asked: str
    asked_ms: float | None
    predicted_ms: float
    deviation_ms: float
    share: float
    damage: float
    parameters: float
    macs: float
    removed_blocks: Sequence[str]
    widths: Mapping[str, int]
    status: str
    gap: float
    limits: Sequence[dict[str, Any]] = ()
    plan: str | None = None


@dataclass(frozen=True)
class Frontier:
    """Plans from one latency table, the slowest first.

    `unreachable` are the latencies asked for that no plan is predicted to meet; `parameters`, `macs` and `blocks` are
    those of the dense model, `units` the units of its groups; `solves` counts the programs solved in `solve_seconds`.
    """

    model: str
    device: str
    clock: str
    dense_ms: float
    parameters: int
    macs: int
    blocks: int
    units: Mapping[str, int]
    points: Sequence[Point]
    unreachable: Sequence[str]
    solver: str
    solves: int
    solve_seconds: float
    lut: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


def frontier_table(found: Frontier, written: Sequence[str] = ()) -> RenderableType:
    """What `pareto` found, and the files it wrote."""
    columns = ("asked", "ms", "±", "left", "damage", "params", "MACs", "removed", "units")
    head = (
        f"{found.model}: {found.dense_ms:.3g} ms, {found.parameters:,} parameters, {found.blocks} removable blocks\n"
        f"predicted for {found.device}"
    )
    lines = [
        f"program: {_proven(found.points)}, {found.solves} solved in {found.solve_seconds:.1f} s by {found.solver}",
        f"latency table: {found.lut['measured'] + found.lut['reused']} entries, {found.lut['measured']} of them new",
        f"time: {sum(found.seconds.values()):.1f} s",
        *(f"written: {path}" for path in written),
    ]
    rows = [_row(point, found) for point in found.points]
    return Group(Text(head), table("", columns, rows, numbers=8), Text("\n".join(lines)))


def _row(point: Point, found: Frontier) -> tuple[str, ...]:
    return (
        point.asked,
        f"{point.predicted_ms:.3g}",
        f"{point.deviation_ms:.2g}",
        f"{100 * point.share:.1f}%",
        f"{point.damage:.3g}",
        f"{100 * point.parameters / max(found.parameters, 1):.1f}%",
        f"{100 * point.macs / max(found.macs, 1):.1f}%",
        str(len(point.removed_blocks)),
        _kept(point, found.units),
    )


def _kept(point: Point, units: Mapping[str, int]) -> str:
    """The mean share of units that groups keep, over the groups that are still there."""
    shares = [point.widths[name] / count for name, count in units.items() if point.widths[name]]
    return f"{100 * fmean(shares):.0f}%" if shares else "-"


def _proven(points: Sequence[Point]) -> str:
    open_ones = sum(point.gap > _GAP for point in points)
    return f"{open_ones} of {len(points)} plans not proven optimal" if open_ones else "every plan optimal"
