"""Solves a program with the asked solver, and checks the answer against the program itself."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import cast

from onnx_mdp.errors import OptionError, ProblemError, SolverError, SolverMissingError
from onnx_mdp.solve.decompose import Decomposition
from onnx_mdp.solve.factors import TooDenseError
from onnx_mdp.solve.linearize import Mip, columns_of, linearize
from onnx_mdp.solve.presolve import needed, without
from onnx_mdp.solve.problem import Answer, Budget, Problem, Status, largest, magnitude, open_gates, value
from onnx_mdp.solve.solvers.base import Limits, MipSolver
from onnx_mdp.solve.validate import check_problem

DEFAULT = "decomposition"
_ROWS = {
    "highs": ("onnx_mdp.solve.solvers.highs", "HighsSolver", "highspy"),
    "gurobi": ("onnx_mdp.solve.solvers.gurobi", "GurobiSolver", "gurobipy"),
    "scip": ("onnx_mdp.solve.solvers.scip", "ScipSolver", "pyscipopt"),
}
_EXTRAS = {"scip": "'onnx-mdp[scip]'"}  # what to install where the package is not in the base install
_FIRST = 1 / 3  # of the time limit, for the decomposition where HiGHS may help
_MOST_COLUMNS = 500_000  # that HiGHS may help with: they take about 3 GB
_LEAST_SECONDS = 1.0  # that are worth starting HiGHS for
_SLACK = 1e-6  # relative tolerance of budgets: solvers meet rows to about 1e-9 of their scale


def solver_names() -> tuple[str, ...]:
    """What `--solver` takes."""
    return (DEFAULT, *_ROWS, "auto")


def is_available(name: str) -> bool:
    """Whether a solver's package is installed; imports nothing."""
    return name == DEFAULT or (name in _ROWS and find_spec(_ROWS[name][2]) is not None)


def check_solver(name: str) -> None:
    """Fail early on a solver that cannot be used.

    Raises:
        OptionError: there is no such solver.
        SolverMissingError: it is not installed.
    """
    if name not in solver_names():
        raise OptionError(f"--solver {name}: choose from {', '.join(solver_names())}")
    if name != "auto" and not is_available(name):
        package = _EXTRAS.get(name, _ROWS[name][2])
        raise SolverMissingError(f"{name} is not installed: pip install {package}, or --solver {DEFAULT}")


def solve(problem: Problem, solver: str = DEFAULT, limits: Limits | None = None) -> Answer:
    """The best levels and blocks of a program.

    Args:
        problem: what to minimize.
        solver: `decomposition`; `highs`, `gurobi` or `scip` for the linearization; or `auto`: the linearization in
            Gurobi where it is installed and its licence admits the size, else in HiGHS.
        limits: when to stop.

    Raises:
        OptionError: there is no such solver.
        ProblemError: the program is malformed; the message names the place.
        SolverError: the solver is missing, not licensed, or failed.
    """
    check_solver(solver)
    check_problem(problem)
    limits = limits or Limits()
    return _by_decomposition(problem, limits) if solver == DEFAULT else _by_milp(problem, solver, limits)


def solve_many(
    problem: Problem, budgets: Sequence[float], limits: Limits | None = None, solver: str = DEFAULT
) -> list[Answer]:
    """The best levels and blocks at each of many limits of the program's first budget.

    By decomposition, with the preparation and the relaxations shared: every limit starts from the multipliers of
    those before it. A program too dense for it, or in which other budgets can bind, is solved limit by limit, as
    `solve` does, and so is every program with another solver.

    Args:
        problem: a program with a budget, whose own limit is not read; further budgets hold at every limit.
        budgets: the limits of the first budget, in any order.
        limits: when to stop each solve.
        solver: as `solve` takes it.

    Raises:
        OptionError: there is no such solver.
        ProblemError: the program is malformed, or has no budget.
        SolverError: the solver is missing, not licensed, or failed.
    """
    if not problem.budgets:
        raise ProblemError("a frontier needs a budget, the program has none")
    budget, *others = problem.budgets
    each = [replace(problem, budgets=(replace(budget, limit=limit), *others)) for limit in budgets]
    limits = limits or Limits()
    if solver != DEFAULT or any(_most(other) > other.limit for other in others):
        return [solve(one, solver, limits) for one in each]
    for one in each:
        check_problem(one)
    try:
        prepared = Decomposition(replace(problem, budgets=(budget,)))
    except TooDenseError:
        return [_by_decomposition(one, limits) for one in each]
    return [_prepared(one, prepared, limits, time.perf_counter()) for one in each]


def _by_decomposition(problem: Problem, limits: Limits) -> Answer:
    """By decomposition where it applies, else by HiGHS with a notice; over blocks that may go, not those that stay."""
    stay = needed(problem)
    answer = _decomposed(without(problem, stay), limits)
    return replace(answer, kept={**answer.kept, **dict.fromkeys(stay, True)}) if answer.has_plan else answer


def _decomposed(problem: Problem, limits: Limits) -> Answer:
    started = time.perf_counter()
    binding = [budget for budget in problem.budgets if _most(budget) > budget.limit]
    if len(binding) <= 1:
        try:
            one = replace(problem, budgets=tuple(binding))
            share = _FIRST if columns_of(problem) <= _MOST_COLUMNS else 1.0
            first = _prepared(one, Decomposition(one), replace(limits, seconds=share * limits.seconds), started)
            return _helped(problem, first, limits, started)
        except TooDenseError as error:
            return _instead(problem, limits, started, f"solved by HiGHS: too dense for decomposition, {error}")
    return _by_one_budget(problem, binding, limits, started) or _instead(
        problem, limits, started, f"solved by HiGHS: {len(binding)} budgets bind together"
    )


def _helped(problem: Problem, first: Answer, limits: Limits, started: float) -> Answer:
    """An answer that the decomposition has not proven in its share of the time, with HiGHS's in what is left of it.

    Programs in which damage and latency are nearly proportional leave too many labels; cuts are better at those. Where
    the linear program would be too large no time is left here: the decomposition had it all.
    """
    if first.status is not Status.FEASIBLE or limits.seconds - (time.perf_counter() - started) < _LEAST_SECONDS:
        return first
    second = _instead(problem, limits, started, "HiGHS took over: decomposition did not prove its plan in time")
    bound = max(first.bound, second.bound)
    better = second if second.objective < first.objective else first
    joint = replace(better, bound=min(bound, better.objective), seconds=second.seconds, notice=second.notice)
    return replace(joint, status=Status.OPTIMAL if joint.gap <= limits.gap else Status.FEASIBLE)


def _by_one_budget(problem: Problem, binding: Sequence[Budget], limits: Limits, started: float) -> Answer | None:
    """The optimum for one budget alone, if it meets the others as well: then it is the optimum for all."""
    for budget in binding:
        one = replace(problem, budgets=(budget,))
        try:
            answer = _prepared(one, Decomposition(one), limits, started)
        except TooDenseError:
            return None
        if answer.status is Status.INFEASIBLE:
            return answer
        spent = [(value(b.terms, answer.levels, answer.kept), b) for b in binding] if answer.has_plan else []
        if answer.status is Status.OPTIMAL and all(total <= other.limit for total, other in spent):
            return answer
    return None


def _instead(problem: Problem, limits: Limits, started: float, notice: str) -> Answer:
    left = max(0.0, limits.seconds - (time.perf_counter() - started))
    answer = _by_milp(problem, "highs", replace(limits, seconds=left))
    return replace(answer, seconds=time.perf_counter() - started, notice=notice)


def _prepared(problem: Problem, prepared: Decomposition, limits: Limits, started: float) -> Answer:
    limit = problem.budgets[0].limit if problem.budgets else math.inf
    found = prepared.solve(limit, limits, started + limits.seconds)
    seconds = time.perf_counter() - started
    if found.status is Status.INFEASIBLE:
        return Answer(found.status, math.inf, math.inf, {}, {}, DEFAULT, seconds)
    opened = open_gates(problem.gates, found.kept)
    _check(problem, found.levels, opened, DEFAULT)
    objective = value(problem.objective, found.levels, opened)
    return Answer(found.status, objective, min(found.bound, objective), found.levels, opened, DEFAULT, seconds)


def _by_milp(problem: Problem, solver: str, limits: Limits) -> Answer:
    started = time.perf_counter()
    mip, decode = linearize(problem)
    chosen = _choose(solver, mip)
    # Solvers compare reduced costs and bounds to absolute tolerances: the largest cost sets the unit. A power of two
    # loses no digits.
    unit = 2.0 ** -round(math.log2(magnitude(problem.objective)))
    result = chosen.solve(replace(mip, cost=mip.cost * unit, offset=mip.offset * unit), limits)
    seconds = time.perf_counter() - started
    bound = result.bound / unit
    if result.x is None:
        return Answer(result.status, math.inf, bound, {}, {}, chosen.name, seconds)
    levels, kept = decode(result.x)
    opened = open_gates(problem.gates, kept)
    _check(problem, levels, opened, chosen.name)
    objective = value(problem.objective, levels, opened)
    return Answer(result.status, objective, min(bound, objective), levels, opened, chosen.name, seconds)


def _choose(name: str, mip: Mip) -> MipSolver:
    if name == "auto":
        gurobi = _load("gurobi") if is_available("gurobi") else None
        return gurobi if gurobi and gurobi.admits(mip) else _load("highs")
    return _load(name)


def _load(name: str) -> MipSolver:
    module, cls, _ = _ROWS[name]
    return cast(MipSolver, getattr(importlib.import_module(module), cls)())


def _most(budget: Budget) -> float:
    """At least what any plan spends."""
    return sum(max(float(term.table.max()), 0.0 if term.gate else -math.inf) for term in budget.terms)


def _check(problem: Problem, levels: dict[str, int], opened: dict[str, bool], solver: str) -> None:
    """The rounded answer must satisfy the program exactly as written, not as the solver saw it."""
    widths = {choice.name: choice.widths for choice in problem.choices}
    for link in problem.links:
        total = link.fixed + sum(count * widths[part][levels[part]] for part, count in link.parts)
        if widths[link.total][levels[link.total]] != total:
            raise SolverError(f"{solver} returned widths that do not add up to {link.total}")
    for budget in problem.budgets:
        spent = value(budget.terms, levels, opened)
        if spent > budget.limit + _SLACK * max(abs(budget.limit), largest(budget.terms)):
            raise SolverError(f"{solver} returned a plan over its {budget.name} budget: {spent:g} > {budget.limit:g}")


__all__ = ["DEFAULT", "Limits", "Status", "check_solver", "is_available", "solve", "solve_many", "solver_names"]
