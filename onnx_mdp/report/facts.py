"""The facts of a run, as the JSON report holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan


@dataclass(frozen=True)
class LatencyFacts:
    """Milliseconds of the dense and the pruned model, measured in turn in one process.

    `clock` is `wall`, or `cpu` where a busy machine made wall time useless; `predicted_ms` is what the table promised
    for the plan, give or take one standard deviation `deviation_ms`; `precision` is the half-width of the 95 % interval
    around the ratio; `rounds` how often plans were solved and measured,
    up to three at a time. `predicted_ms` and `budget_ms` are None for a --ratio run.
    """

    dense_ms: float
    pruned_ms: float
    ratio: float
    predicted_ms: float | None
    deviation_ms: float | None
    budget_ms: float | None
    rounds: int
    clock: str
    dense_wall_ms: float
    pruned_wall_ms: float
    precision: float


@dataclass(frozen=True)
class SolveFacts:
    """The last solve: outcome, least damage found, proven bound, gap, seconds over all solves, and solver.

    `unit` is what damage is counted in: `KL`, `relative L2`, or `relative error` of layers where it is not measured.
    """

    status: str
    objective: float
    bound: float
    gap: float
    seconds: float
    solver: str
    unit: str


@dataclass(frozen=True)
class Report:
    """Everything a run found and did.

    `budget` is what was asked; `reason` is empty, or why the result is not closer to the budget; `limits` are the
    budgets besides latency, with what the plan counts, `also` further latency budgets with what was measured for each;
    `lossless` is what was rewritten before anything was cut, `recovery` what fitting the weights anew did;
    `approximation` names the groups over which statistics are taken that were cut, with how far the outputs moved on
    which inputs; `accuracy` has that of the dense model and of the result, with the metric and the inputs it was
    measured on, `steps` what the search for the fastest model within a drop of it measured.
    """

    model: str
    budget: str
    reason: str
    device: str
    latency: LatencyFacts
    parameters: dict[str, int]
    bytes: dict[str, int]
    solve: SolveFacts | None
    proof: dict[str, Any]
    groups: list[dict[str, Any]]
    blocks: list[dict[str, Any]]
    locked: list[dict[str, Any]]
    lut: Mapping[str, Any]
    options: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    limits: Sequence[dict[str, Any]] = ()
    lossless: Mapping[str, Any] = field(default_factory=dict)
    recovery: Mapping[str, Any] = field(default_factory=dict)
    approximation: Mapping[str, Any] = field(default_factory=dict)
    also: Sequence[dict[str, Any]] = ()
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[dict[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


def group_facts(analysis: Analysis, plan: Plan) -> list[dict[str, Any]]:
    """Name, kind, units and kept units of every group; none are kept of one that went with its block."""
    gone = {name for name, block in analysis.homes.items() if block in plan.removed}
    kept = {name: 0 if name in gone else width for name, width in plan.widths().items()}
    return [{"name": g.name, "kind": g.kind, "units": g.units, "kept": kept[g.name]} for g in analysis.groups]


def block_facts(analysis: Analysis, plan: Plan) -> list[dict[str, Any]]:
    """Name and fate of every removable block."""
    return [{"name": block.name, "removed": block.name in plan.removed} for block in analysis.blocks]


def locked_facts(analysis: Analysis) -> list[dict[str, Any]]:
    """Name, units and reasons of every dimension that may not be cut."""
    return [
        {"name": locked.name, "units": locked.units, "reasons": [str(reason) for reason in locked.reasons[:4]]}
        for locked in analysis.locked
    ]


def untimed(failed: Mapping[str, str]) -> list[str]:
    """What to say of table entries that could not be measured, given why: one line for all of one reason."""
    alike: dict[str, list[str]] = {}
    for text, reason in failed.items():
        alike.setdefault(reason, []).append(text.partition("\n")[0][:60])
    return [
        f"a region cannot be timed alone and counts nothing: {names[0]}: {reason}"
        + (f" (likewise for {len(names) - 1} more entr{'y' if len(names) == 2 else 'ies'})" if len(names) > 1 else "")
        for reason, names in alike.items()
    ]
