"""Puts the facts of a finished run together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_mdp.config import PruneOptions
from onnx_mdp.graph.check import parameter_count
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.weights import model_bytes
from onnx_mdp.groups.find import Analysis
from onnx_mdp.latency.correct import Prediction
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.quantities import LatencyBudget
from onnx_mdp.recover.recover import Recovery
from onnx_mdp.report.facts import LatencyFacts, Report, SolveFacts, block_facts, group_facts, locked_facts
from onnx_mdp.rewrite.plan import Plan
from onnx_mdp.runtime.base import Fingerprint
from onnx_mdp.solve.problem import Answer
from onnx_mdp.verify.oracle import Proof


@dataclass(frozen=True, eq=False)
class Search:
    """What is left of a search: not its sessions, whose memory the proof needs."""

    answer: Answer
    predicted: Prediction
    rounds: int
    solve_seconds: float
    meter: Meter
    unit: str

    @classmethod
    def of(cls, loop: Loop, trial: Trial, meter: Meter) -> Search:
        """What the report needs of a loop that ended with a trial."""
        unit = loop.program.scores.unit
        return cls(trial.answer, trial.predicted, loop.rounds, loop.solve_seconds, meter, unit)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The plan a run settled on, its model, how that compares with the dense one, and the search that found it.

    `also` has the facts of further latency budgets. Where a search by accuracy has come to the outcome, `accuracy` is
    that of the recovered model, `recovery` what was recovered, and `steps` what was measured on the way.
    """

    plan: Plan
    model: onnx.ModelProto
    measured: Comparison
    reason: str = ""
    search: Search | None = None
    also: Sequence[dict[str, Any]] = ()
    recovery: Recovery | None = None
    accuracy: float | None = None
    steps: Sequence[dict[str, Any]] = ()


def make_report(
    source: Source,
    analysis: Analysis,
    outcome: Outcome,
    proof: Proof,
    options: PruneOptions,
    budget: LatencyBudget | None,
    device: Fingerprint,
) -> Report:
    """The report of a run, without its times and warnings."""
    return Report(
        model=source.name,
        budget=_asked(options),
        reason=outcome.reason,
        device=str(device),
        latency=_latency(outcome, budget),
        parameters={"dense": source.parameters, "pruned": parameter_count(outcome.model)},
        bytes={"dense": source.size, "pruned": model_bytes(outcome.model)},
        solve=_solve(outcome),
        proof=asdict(proof),
        groups=group_facts(analysis, outcome.plan),
        blocks=block_facts(analysis, outcome.plan),
        locked=locked_facts(analysis),
        lut=_lut(outcome),
        also=outcome.also,
        steps=outcome.steps,
        options={name: _plain(value) for name, value in asdict(options).items()},
    )


def recovery_fact(recovery: Recovery | None) -> dict[str, Any]:
    """What recovery did, as plain data; empty where there was none."""
    if recovery is None:
        return {}
    facts = {name: getattr(recovery, name) for name in ("before", "after", "unit", "inputs", "kept")}
    return {**facts, "layers": [asdict(refit) for refit in recovery.refits]}


def _latency(outcome: Outcome, budget: LatencyBudget | None) -> LatencyFacts:
    measured = outcome.measured
    return LatencyFacts(
        dense_ms=measured.dense_ms,
        pruned_ms=measured.pruned_ms,
        ratio=measured.ratio,
        predicted_ms=outcome.search.predicted.share * measured.dense_ms if outcome.search else None,
        deviation_ms=outcome.search.predicted.deviation * measured.dense_ms if outcome.search else None,
        precision=measured.precision,
        budget_ms=budget.in_ms(measured.dense_ms) if budget else None,
        rounds=outcome.search.rounds if outcome.search else 0,
        clock=measured.clock,
        dense_wall_ms=measured.dense_wall_ms,
        pruned_wall_ms=measured.pruned_wall_ms,
    )


def _solve(outcome: Outcome) -> SolveFacts | None:
    if not outcome.search:
        return None
    answer, seconds, unit = outcome.search.answer, outcome.search.solve_seconds, outcome.search.unit
    return SolveFacts(answer.status, answer.objective, answer.bound, answer.gap, seconds, answer.solver, unit)


def _lut(outcome: Outcome) -> Mapping[str, Any]:
    if not outcome.search:
        return {}
    meter = outcome.search.meter
    return {
        "file": str(meter.table.path),
        "entries": len(meter.table),
        "measured": meter.measured,
        "reused": meter.reused,
    }


def _asked(options: PruneOptions) -> str:
    return options.latency or (f"ratio {options.ratio}" if options.ratio else f"max-drop {options.max_drop}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
