"""Pruning to several latency budgets at once: opens every place, fills its tables, and searches one plan for all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from onnx_mdp.errors import OptionError
from onnx_mdp.graph.load import load
from onnx_mdp.latency.probe import find_grid
from onnx_mdp.pipeline.case import Case, Planner
from onnx_mdp.pipeline.joint import JointLoop, JointTrial
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.reporting import Outcome, Search
from onnx_mdp.pipeline.sides import Also, Place, Side, case_there
from onnx_mdp.quantities import LatencyBudget
from onnx_mdp.rewrite.plan import dense_plan
from onnx_mdp.solve.problem import Status


def check_several(planner: Planner, further: Sequence[Also], *, has_latency: bool) -> list[Planner]:
    """A planner for each further budget, which checks its options.

    Raises:
        OptionError: one of them is wrong, or --also stands beside what it cannot be used with.
    """
    options = planner.search
    if not has_latency and further:
        raise OptionError(f"{further[0].option}: is a budget beside --latency; give that too (100% for no other)")
    for name, given in (("--lut-device", options.lut_device), ("--cluster", options.cluster)):
        if given is not None and further:
            raise OptionError(f"{further[0].option} with {name} {given}: several latencies are measured here; give one")
    planners = [Planner(also.options, planner.listener) for also in further]
    for other in planners:
        other.clock, other.warnings = planner.clock, planner.warnings
    return planners


def search_several(
    planner: Planner, case: Case, budget: LatencyBudget, further: Sequence[tuple[Also, Planner]]
) -> Outcome:
    """The plan of least damage that measures within every budget.

    Raises:
        BudgetError: none is known.
        OptionError: the model has other groups at the sizes of a further budget.
    """
    with ExitStack() as opened:
        wanted = [(f"--latency {budget.text}", budget, planner, case)]
        wanted += [(also.option, also.budget, there, case_there(also, there, case)) for also, there in further]
        places = [_place(opened, *one) for one in wanted]
        if case.constraints.allow_dense() and all(_is_met(place) for place in places):
            return _uncut(planner, places)
        sides = _sides([one[2] for one in wanted], places)
        loop = JointLoop(sides, planner.search.solver, planner.listener)
        with planner.clock.stage("search"):
            trial = loop.run()
        _warn(planner, loop, trial)
        model = case.cut(trial.plan)
        search = Search(
            trial.answer, trial.predicted[0], len(loop.trials), loop.solve_seconds, places[0].meter, case.scores.unit
        )
        facts = [_fact(place, trial, i) for i, place in enumerate(places)][1:]
        return Outcome(trial.plan, model, trial.measured[0], loop.reason, search, facts)


def _place(opened: ExitStack, option: str, budget: LatencyBudget, planner: Planner, case: Case) -> Place:
    """A place with its engine, and the dense model measured there."""
    engine = opened.enter_context(planner.engine(case.runtime.fingerprint))
    meter = opened.enter_context(planner.meter(engine))
    stopwatch = planner.stopwatch(case, engine, meter)
    dense = planner.dense(case, engine, stopwatch, case.whole())
    return Place(option, budget, case, engine, meter, stopwatch, dense)


def _is_met(place: Place) -> bool:
    return place.budget.spent(place.dense.dense_ms, place.dense.dense_ms) <= 1


def _sides(planners: Sequence[Planner], places: Sequence[Place]) -> list[Side]:
    """The programs of all places, over the same widths: those that all devices like."""
    grids = [find_grid(place.meter) for place in places]
    grid = grids[0]
    for other in grids[1:]:
        grid = grid.joined(other)
    sides: list[Side] = []
    for planner, place in zip(planners, places, strict=True):
        tables = planner.tables(place.case, place.meter, grid)
        if sides:
            case, beside = place.case, sides[-1].program
            entries = (tables.tables, tables.levels, tables.sums)
            program = Program(case.timed, case.scores, *entries, case.constraints, beside)
        else:
            program = planner.program(place.case, tables)
        sides.append(Side(place, program, tables.fill, tables.correction()))
    return sides


def _uncut(planner: Planner, places: Sequence[Place]) -> Outcome:
    reason = f"the model meets {' and '.join(place.option for place in places)} with nothing cut"
    planner.warn(reason)
    case, dense = places[0].case, places[0].dense
    return Outcome(dense_plan(case.analysis), load(case.given)[1], dense.same(), reason)


def _warn(planner: Planner, loop: JointLoop, trial: JointTrial) -> None:
    if loop.reason:
        used = ", ".join(f"{100 * spent:.1f}%" for spent in trial.spent)
        planner.warn(f"the result uses {used} of the budgets: {loop.reason}")
    if trial.answer.status is not Status.OPTIMAL:
        planner.warn(f"the plan is not proven optimal: gap {100 * trial.answer.gap:.2g}% after 60 s")
    for side, found in zip(loop.sides, trial.measured, strict=True):
        if found.precision > side.place.stopwatch.precision:
            text = f"known to ±{100 * found.precision:.1f}% only"
            planner.warn(f"the machine is noisy: the latency of {side.place.option} is {text}")


def _fact(place: Place, trial: JointTrial, i: int) -> dict[str, Any]:
    """What was asked for and measured at a place, for the report."""
    found, predicted = trial.measured[i], trial.predicted[i]
    return {
        "option": place.option,
        "device": str(place.engine.fingerprint),
        "inputs": {name: list(shape) for name, shape in place.case.analysis.network.inputs.items()},
        "dense_ms": found.dense_ms,
        "pruned_ms": found.pruned_ms,
        "ratio": found.ratio,
        "budget_ms": place.budget.in_ms(found.dense_ms),
        "spent": trial.spent[i],
        "predicted_ms": predicted.share * found.dense_ms,
        "deviation_ms": predicted.deviation * found.dense_ms,
        "precision": found.precision,
        "clock": found.clock,
    }
