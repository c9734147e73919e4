"""Blocks that a budget does not let go are no blocks, and the answer is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_mdp.solve.presolve import needed, without
from onnx_mdp.solve.problem import Budget, Gate, Problem, Term, value
from onnx_mdp.solve.solve import solve
from tests.solve.programs import random_program


def removals(problem: Problem, most: int) -> Budget:
    """At most so many blocks may go; those inside one that goes count too."""
    gone = [Term((), np.array(-1.0), gate.name) for gate in problem.gates]
    return Budget("removals", (Term((), np.array(float(len(gone)))), *gone), most)


@pytest.mark.parametrize("seed", range(30))
def test_no_removals_leave_one_budget(seed: int) -> None:
    """The answer is that of another solver, which is given both budgets, and no time goes to the second of them."""
    problem = random_program(seed)
    problem = replace(problem, budgets=(*problem.budgets, removals(problem, 0)))
    assert needed(problem) == {gate.name for gate in problem.gates}
    found, other = solve(problem), solve(problem, "highs")
    assert found.has_plan == other.has_plan
    if other.has_plan:
        assert (found.solver, found.notice) == ("decomposition", "")
        assert found.objective == pytest.approx(other.objective, rel=1e-6, abs=1e-9)
        assert found.kept == {gate.name: True for gate in problem.gates}


@pytest.mark.parametrize("seed", range(10))
def test_some_removals_bind_as_before(seed: int) -> None:
    problem = random_program(seed)
    problem = replace(problem, budgets=(*problem.budgets, removals(problem, 1)))
    found, other = solve(problem), solve(problem, "highs")
    assert found.has_plan == other.has_plan
    if other.has_plan:
        assert found.objective == pytest.approx(other.objective, rel=1e-6, abs=1e-9)
        assert sum(not kept for kept in found.kept.values()) <= 1


def test_what_an_outer_block_holds_keeps_it() -> None:
    """The inner block has to stay, and with it the one around it; the third may go."""
    gates = (Gate("outer", None), Gate("inner", "outer"), Gate("free", "inner"))
    kept = Budget("kept", (Term((), np.array(-2.0), "inner"), Term((), np.array(-0.5), "free")), -1.5)
    objective = (Term((), np.array(1.0), "inner"), Term((), np.array(3.0), "free"))
    problem = Problem((), gates, (), objective, (kept,))
    assert needed(problem) == {"outer", "inner"}
    left = without(problem, needed(problem))
    assert left.gates == (Gate("free", None),)
    assert [term.gate for term in (*left.objective, *left.budgets[0].terms)] == [None, "free", None, "free"]
    answer = solve(problem)
    assert answer.kept == {"outer": True, "inner": True, "free": False}
    assert answer.objective == value(problem.objective, {}, answer.kept) == 1.0
