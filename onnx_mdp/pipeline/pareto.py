"""`pareto`: what every latency costs, from one latency table; or the reverse, how fast a plan of little damage is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_mdp.errors import BudgetError, OptionError, OutputError
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.save import check_writable, write_bytes, write_text
from onnx_mdp.groups.count import count_macs, count_parameters
from onnx_mdp.inputs.load import InputsLike
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.case import Case, Planner
from onnx_mdp.pipeline.frontier import FrontierSearch
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.stages import ModelLike
from onnx_mdp.pipeline.stopwatch import Comparison, foreseen
from onnx_mdp.pipeline.streams import write_plans
from onnx_mdp.program_config import ParetoOptions
from onnx_mdp.quantities import LatencyBudget, parse_latency
from onnx_mdp.report.facts import group_facts
from onnx_mdp.report.frontier import Frontier, Point
from onnx_mdp.report.plot import check_plot, draw
from onnx_mdp.rewrite.plan import Plan
from onnx_mdp.solve.problem import Answer
from onnx_mdp.streams.turn import Bases

_FROM, _TO, _POINTS = "90%", "30%", 12


@dataclass(frozen=True, eq=False)
class ParetoResult:
    """What `pareto` returns: the frontier, the plan of each of its points as plain data, and the bases they are in."""

    frontier: Frontier
    plans: list[dict[str, Any]]
    bases: Bases = field(default_factory=dict)


def pareto(
    model: ModelLike,
    options: ParetoOptions | None = None,
    *,
    inputs: InputsLike | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> ParetoResult:
    """The plans of least damage at many latencies, or the fastest within a damage; nothing is cut.

    Args:
        model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords (`from_` for --from).
        inputs: calibration inputs: a file, a mapping from input names to arrays, or one array.
        listener: receives progress.
        fields: fields of `ParetoOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or ParetoOptions(), **fields)
    return _Pareto(options, listener or Listener()).run(model, inputs if inputs is not None else options.inputs)


@dataclass(frozen=True)
class _Span:
    """Evenly spaced latencies, the slowest first."""

    first: LatencyBudget
    last: LatencyBudget
    points: int

    def latencies(self, dense_ms: float) -> list[tuple[str, float]]:
        """What was asked for as text, and in milliseconds.

        Raises:
            OptionError: the first is faster than the last.
        """
        first, last = self.first.in_ms(dense_ms), self.last.in_ms(dense_ms)
        if first < last:
            raise _wrong_way(self.first.text, self.last.text)
        found = np.linspace(first, last, self.points if first > last else 1).tolist()
        by_share = self.first.share is not None and self.last.share is not None
        return [(f"{100 * ms / dense_ms:.3g}%" if by_share else f"{ms:.3g} ms", ms) for ms in found]


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A plan that was found for what was asked."""

    asked: str
    asked_ms: float | None
    answer: Answer


class _Pareto(Planner):
    def __init__(self, options: ParetoOptions, listener: Listener) -> None:
        self.options = options
        self.span = _span(options)
        self.unreachable: list[str] = []
        super().__init__(options, listener)
        if options.plot:
            check_plot(options.plot)

    def run(self, model: ModelLike, inputs: InputsLike | None) -> ParetoResult:
        case = self.case(model, inputs, self._check)
        if self.options.lut_device is not None:
            with self.borrowed(self.options.lut_device) as borrowed:
                found = self._found(case, borrowed, None)
            if borrowed.absent:
                self.warn(f"{len(borrowed.absent)} table entries that plans rest on are not in the table: interpolated")
        else:
            with self.engine(case.runtime.fingerprint) as engine, self.meter(engine) as meter:
                dense = self.dense(case, engine, self.stopwatch(case, engine, meter), case.whole())
                found = self._found(case, meter, dense)
        seconds = {name: round(value, 3) for name, value in self.clock.seconds.items()}
        found = replace(found, frontier=replace(found.frontier, seconds=seconds, warnings=self.warnings))
        self._write(found)
        return found

    def _check(self, source: Source) -> None:
        """Fail on what could not be written before the work starts."""
        for path in (self.options.plot, self.options.output):
            if path:
                check_writable(path)
        if folder := self.options.plans:
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"--plans {folder}: is a file; give a folder")
            check_writable(folder / _plan_name(1) if folder.is_dir() else folder)

    def _found(self, case: Case, meter: Meter, dense: Comparison | None) -> ParetoResult:
        tables = self.tables(case, meter)
        if dense is None:
            dense = foreseen(tables.fill.wholes[0].ms, 1.0, 0.0)
            self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {self.device}, by the table")
            self.warn_of_rewriting(case)
        program = self.program(case, tables)
        search = FrontierSearch(program, tables.fill, tables.correction(), dense.ratio, self.options.solver)
        with self.clock.stage("search"):
            wanted = self._wanted(search, dense)
        for notice in dict.fromkeys(one.answer.notice for one in wanted if one.answer.notice):
            self.warn(notice)
        plans = [program.plan(one.answer) for one in wanted]
        points = _Points(case, search, dense, self.options.plans)
        frontier = Frontier(
            model=case.source.name,
            device=str(self.device),
            clock=dense.clock,
            dense_ms=dense.dense_ms,
            parameters=case.source.parameters,
            macs=sum(node_macs(case.timed.network).values()),
            blocks=len(case.analysis.blocks),
            units={group.name: group.units for group in case.analysis.groups},
            points=[points.point(i, one, plan) for i, (one, plan) in enumerate(zip(wanted, plans, strict=True), 1)],
            unreachable=self.unreachable,
            solver=wanted[0].answer.solver,
            solves=search.solved,
            solve_seconds=search.solve_seconds,
            lut={"file": str(meter.table.path), "measured": meter.measured, "reused": meter.reused},
        )
        return ParetoResult(frontier, [case.plan_json(plan) for plan in plans], case.bases)

    def _wanted(self, search: FrontierSearch, dense: Comparison) -> list[_Wanted]:
        if self.options.damage_max is not None:
            answer = search.fastest(self.options.damage_max)
            return [_Wanted(f"≤ {self.options.damage_max:g}", None, answer)]
        asked = self.span.latencies(dense.dense_ms)
        answers = search.frontier([ms / dense.dense_ms for _, ms in asked])
        found = [_Wanted(text, ms, answer) for (text, ms), answer in zip(asked, answers, strict=True) if answer]
        self.unreachable = [text for (text, _), answer in zip(asked, answers, strict=True) if answer is None]
        if self.unreachable:
            self._tell_of_unreachable(search.lowest(), dense, any_found=bool(found))
        return found

    def _tell_of_unreachable(self, lowest: float, dense: Comparison, *, any_found: bool) -> None:
        """A warning of what no plan reaches; an error where that is everything."""
        least = f"{lowest * dense.dense_ms:.3g} ms, {100 * lowest:.1f}% of the dense model's {dense.dense_ms:.3g} ms"
        text = f"{', '.join(self.unreachable)} cannot be reached: the lowest that the table predicts is {least}"
        remedy = "ask for more, or allow more with a lower --min-keep, a smaller --multiple or fewer --lock"
        if not any_found:
            raise BudgetError(f"{text}; {remedy}")
        self.warn(f"{text}; {remedy}")

    def _write(self, found: ParetoResult) -> None:
        options = self.options
        if options.plans:
            _make_folder(options.plans)
            plans = {options.plans / _plan_name(number): plan for number, plan in enumerate(found.plans, 1)}
            write_plans(plans, found.bases, options.plans / "streams.npz")
        if options.output:
            write_text(options.output, json.dumps(found.frontier.to_json(), indent=1) + "\n")
        if options.plot:
            write_bytes(options.plot, draw(found.frontier, options.plot.suffix))


class _Points:
    """Makes points of answers."""

    def __init__(self, case: Case, search: FrontierSearch, dense: Comparison, folder: Path | None) -> None:
        self._case = case
        self._folder = folder
        self._search = search
        self._dense = dense
        self._counts = count_parameters(case.timed), count_macs(case.timed)

    def point(self, number: int, wanted: _Wanted, plan: Plan) -> Point:
        """The facts of a plan."""
        case, answer = self._case, wanted.answer
        predicted, ms = self._search.predicted(answer), self._dense.dense_ms
        kept = {group.factor: len(plan.kept[group.name]) for group in case.analysis.groups}
        parameters, macs = (round(count.at(case.analysis, kept, plan.removed)) for count in self._counts)
        return Point(
            asked=wanted.asked,
            asked_ms=wanted.asked_ms,
            predicted_ms=predicted.share * ms,
            deviation_ms=predicted.deviation * ms,
            share=predicted.share,
            damage=self._search.program.damage_of(answer),
            parameters=parameters,
            macs=macs,
            removed_blocks=plan.removed,
            widths={fact["name"]: fact["kept"] for fact in group_facts(case.analysis, plan)},
            status=answer.status,
            gap=answer.gap,
            limits=[limit.fact(case.analysis, plan) for limit in case.constraints.limits],
            plan=str(self._folder / _plan_name(number)) if self._folder else None,
        )


def _span(options: ParetoOptions) -> _Span:
    """The latencies that are asked for, checked as far as is possible without a measurement."""
    if options.damage_max is not None:
        if not 0 <= options.damage_max < math.inf:
            raise OptionError(f"--damage-max {options.damage_max:g}: must be a number, 0 or more")
        if given := [name for name in ("from_", "to", "points") if getattr(options, name) is not None]:
            name = given[0].rstrip("_")
            raise OptionError(f"--damage-max with --{name}: the fastest plan within a damage is one; give either")
    points = _POINTS if options.points is None else options.points
    if points < 1:
        raise OptionError(f"--points {points}: must be 1 or more")
    first, last = parse_latency(options.from_ or _FROM, "--from"), parse_latency(options.to or _TO, "--to")
    if (first.share is None) == (last.share is None) and first.in_ms(1.0) < last.in_ms(1.0):
        raise _wrong_way(first.text, last.text)
    return _Span(first, last, points)


def _wrong_way(first: str, last: str) -> OptionError:
    return OptionError(f"--from {first} --to {last}: starts at the slowest; give --from {last} --to {first}")


def _plan_name(number: int) -> str:
    return f"{number:02}.json"


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"--plans {path}: cannot be made ({error.strerror}); choose another place") from error
