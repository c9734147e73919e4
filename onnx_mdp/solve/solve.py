"""Solves a program with the asked solver, and checks the answer against the program itself."""

from __future__ import annotations

import importlib
import time
from importlib.util import find_spec
from typing import cast

from onnx_mdp.errors import OptionError, SolverError, SolverMissingError
from onnx_mdp.solve.linearize import Mip, linearize
from onnx_mdp.solve.problem import Answer, Problem, Status, open_gates, value
from onnx_mdp.solve.solvers.base import Limits, MipSolver

_ROWS = {
    "highs": ("onnx_mdp.solve.solvers.highs", "HighsSolver", "highspy"),
    "gurobi": ("onnx_mdp.solve.solvers.gurobi", "GurobiSolver", "gurobipy"),
}
_SLACK = 1e-6  # relative tolerance of budgets: solvers meet rows to about 1e-9 of their scale


def solver_names() -> tuple[str, ...]:
    """What `--solver` takes."""
    return (*_ROWS, "auto")


def is_available(name: str) -> bool:
    """Whether a solver's package is installed; imports nothing."""
    return name in _ROWS and find_spec(_ROWS[name][2]) is not None


def check_solver(name: str) -> None:
    """Fail early on a solver that cannot be used.

    Raises:
        OptionError: there is no such solver.
        SolverMissingError: it is not installed.
    """
    if name not in solver_names():
        raise OptionError(f"--solver {name}: choose from {', '.join(solver_names())}")
    if name != "auto" and not is_available(name):
        raise SolverMissingError(f"{name} is not installed: pip install {_ROWS[name][2]}, or --solver highs")


def solve(problem: Problem, solver: str = "highs", limits: Limits | None = None) -> Answer:
    """The best levels and blocks of a program.

    Args:
        problem: what to minimize.
        solver: `highs`, `gurobi`, or `auto`: Gurobi where it is installed and its licence admits the size, else HiGHS.
        limits: when to stop.

    Raises:
        OptionError: there is no such solver.
        SolverError: it is missing, not licensed, or failed.
    """
    started = time.perf_counter()
    mip, decode = linearize(problem)
    chosen = _choose(solver, mip)
    result = chosen.solve(mip, limits or Limits())
    seconds = time.perf_counter() - started
    if result.x is None:
        return Answer(result.status, float("inf"), result.bound, {}, {}, chosen.name, seconds)
    levels, kept = decode(result.x)
    opened = open_gates(problem.gates, kept)
    _check(problem, levels, opened, chosen.name)
    objective = value(problem.objective, levels, opened)
    return Answer(result.status, objective, min(result.bound, objective), levels, opened, chosen.name, seconds)


def _choose(name: str, mip: Mip) -> MipSolver:
    if name == "auto":
        gurobi = _load("gurobi") if is_available("gurobi") else None
        return gurobi if gurobi and gurobi.admits(mip) else _load("highs")
    check_solver(name)
    return _load(name)


def _load(name: str) -> MipSolver:
    module, cls, _ = _ROWS[name]
    return cast(MipSolver, getattr(importlib.import_module(module), cls)())


def _check(problem: Problem, levels: dict[str, int], opened: dict[str, bool], solver: str) -> None:
    """The rounded answer must satisfy the program exactly as written, not as the solver saw it."""
    widths = {choice.name: choice.widths for choice in problem.choices}
    for link in problem.links:
        total = link.fixed + sum(count * widths[part][levels[part]] for part, count in link.parts)
        if widths[link.total][levels[link.total]] != total:
            raise SolverError(f"{solver} returned widths that do not add up to {link.total}")
    for budget in problem.budgets:
        spent = value(budget.terms, levels, opened)
        if spent > budget.limit + _SLACK * max(1.0, abs(budget.limit)):
            raise SolverError(f"{solver} returned a plan over its {budget.name} budget: {spent:g} > {budget.limit:g}")


__all__ = ["Limits", "Status", "check_solver", "is_available", "solve", "solver_names"]
