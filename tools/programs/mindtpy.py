"""The published method's way of solving: the bilinear program in Pyomo's MindtPy, by outer approximation.

As in MDP (Sun et al., CVPR 2025): strategy OA, feasibility pump first, GLPK for linear and IPOPT for nonlinear
programs, everything else at its defaults. The program is not convex, so neither its answer nor its bound is proven.
IPOPT comes with CasADi; `programs.ipopt_ampl` makes of it the command that Pyomo calls.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from onnx_mdp.solve.problem import Problem, Term, open_gates, value

_SECONDS = 600
_IPOPT = Path(__file__).resolve().with_name("ipopt_ampl.py")


@dataclass(frozen=True)
class Reference:
    """What MindtPy returned, evaluated on the program's own tables: infinite where it is over a budget or nothing."""

    objective: float
    seconds: float
    outcome: str


def missing() -> str:
    """What this needs and does not find, with the remedy; empty where all is there."""
    lacking = [name for name in ("pyomo", "casadi") if find_spec(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed: pip install {' '.join(lacking)}"
    if shutil.which("glpsol") is None:
        return "glpsol is not on the path: install GLPK's programs (Debian: glpk-utils)"
    return ""


def solve(problem: Problem) -> Reference:
    """The plan that MindtPy returns."""
    pyomo: Any = importlib.import_module("pyomo.environ")
    model, hots, bits = _model(pyomo, problem)
    _put_ipopt_on_path()
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        logging.getLogger("pyomo").setLevel(logging.CRITICAL)
        try:
            result = pyomo.SolverFactory("mindtpy").solve(
                model,
                strategy="OA",
                init_strategy="FP",
                mip_solver="glpk",
                nlp_solver="ipopt",
                time_limit=_SECONDS,
            )
            outcome = str(result.solver.termination_condition)
        except Exception as error:  # MindtPy lets those of its solvers through
            return Reference(math.inf, time.perf_counter() - started, f"{type(error).__name__}: {error}"[:200])
    seconds = time.perf_counter() - started
    return Reference(_worth(pyomo, problem, hots, bits), seconds, outcome)


def _model(pyomo: Any, problem: Problem) -> tuple[Any, dict[str, list[Any]], dict[str, Any]]:
    model = pyomo.ConcreteModel()
    widths = {choice.name: choice.widths for choice in problem.choices}
    keys = [(name, level) for name, levels in widths.items() for level in range(len(levels))]
    model.hot = pyomo.Var(keys, domain=pyomo.Binary)
    model.bit = pyomo.Var([gate.name for gate in problem.gates], domain=pyomo.Binary)
    hots = {name: [model.hot[name, level] for level in range(len(levels))] for name, levels in widths.items()}
    bits = {gate.name: model.bit[gate.name] for gate in problem.gates}
    model.rows = pyomo.ConstraintList()
    for one in hots.values():
        model.rows.add(sum(one) == 1)
    for gate in problem.gates:
        if gate.inside:
            model.rows.add(bits[gate.name] <= bits[gate.inside])
    for link in problem.links:
        parts = sum(count * _width(hots[part], widths[part]) for part, count in link.parts)
        model.rows.add(_width(hots[link.total], widths[link.total]) == link.fixed + parts)
    for budget in problem.budgets:
        model.rows.add(_sum(budget.terms, hots, bits) <= budget.limit)
    model.least = pyomo.Objective(expr=_sum(problem.objective, hots, bits))
    return model, hots, bits


def _width(hots: list[Any], widths: tuple[int, ...]) -> Any:
    return sum(width * hot for width, hot in zip(widths, hots, strict=True))


def _sum(terms: Iterable[Term], hots: dict[str, list[Any]], bits: dict[str, Any]) -> Any:
    """Tables times the products of their one-hots and their block's bit."""
    total: Any = 0.0
    for term in terms:
        entry = _entry(np.asarray(term.table), [hots[name] for name in term.choices])
        total += entry if term.gate is None else bits[term.gate] * entry
    return total


def _entry(table: np.ndarray[Any, Any], hots: list[list[Any]]) -> Any:
    if not hots:
        return float(table)
    return sum(hot * _entry(row, hots[1:]) for hot, row in zip(hots[0], table, strict=True))


def _worth(pyomo: Any, problem: Problem, hots: dict[str, list[Any]], bits: dict[str, Any]) -> float:
    """The objective of the rounded plan."""
    found = {name: [pyomo.value(hot, exception=False) for hot in one] for name, one in hots.items()}
    if any(number is None for one in found.values() for number in one):
        return math.inf
    levels = {name: int(np.argmax(one)) for name, one in found.items()}
    opened = open_gates(problem.gates, {name: pyomo.value(bit) > 0.5 for name, bit in bits.items()})
    spent = [(value(budget.terms, levels, opened), budget.limit) for budget in problem.budgets]
    if any(total > limit * (1 + 1e-6) for total, limit in spent):
        return math.inf
    return value(problem.objective, levels, opened)


@functools.cache
def _put_ipopt_on_path() -> tempfile.TemporaryDirectory[str]:
    """A command `ipopt` on the path until this process ends: Pyomo remembers where it first found it."""
    folder = tempfile.TemporaryDirectory()
    command = Path(folder.name) / "ipopt"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{_IPOPT}' \"$@\"\n")
    command.chmod(0o755)
    os.environ["PATH"] = f"{folder.name}{os.pathsep}{os.environ['PATH']}"
    return folder
