"""Every solver, on the same rows: known optima, infeasible programs, gates, links, ties, tight budgets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_mdp.errors import OptionError, SolverLicenseError
from onnx_mdp.solve.problem import Budget, Choice, Gate, Link, Problem, Status, Term, open_gates, value
from onnx_mdp.solve.solve import Limits, is_available, solve, solver_names

SOLVERS = [name for name in solver_names() if name == "auto" or is_available(name)]
each_solver = pytest.mark.parametrize("solver", SOLVERS)


def enumerate_best(problem: Problem) -> float:
    """The best objective by trying everything; infinite where nothing is feasible."""
    widths = {choice.name: choice.widths for choice in problem.choices}
    best = float("inf")
    for picks in itertools.product(*(range(len(c.widths)) for c in problem.choices)):
        levels = dict(zip(widths, picks, strict=True))
        if any(
            widths[link.total][levels[link.total]]
            != link.fixed + sum(count * widths[part][levels[part]] for part, count in link.parts)
            for link in problem.links
        ):
            continue
        for bits in itertools.product((False, True), repeat=len(problem.gates)):
            kept = dict(zip((gate.name for gate in problem.gates), bits, strict=True))
            opened = open_gates(problem.gates, kept)
            if all(value(b.terms, levels, opened) <= b.limit + 1e-9 for b in problem.budgets):
                best = min(best, value(problem.objective, levels, opened))
    return best


def knapsack(limit: float) -> Problem:
    """Two widths with a joint latency, and a block that holds the second one's damage."""
    choices = (Choice("a", (1, 2, 3)), Choice("b", (1, 2)))
    latency = Term(("a", "b"), np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]), "block")
    rest = Term(("a",), np.array([1.0, 1.5, 2.0]))
    damage = (
        Term(("a",), np.array([5.0, 2.0, 0.0])),
        Term(("b",), np.array([3.0, 0.0]), "block"),
        Term((), np.array(4.0)),
        Term((), np.array(-4.0), "block"),
    )
    return Problem(choices, (Gate("block"),), (), damage, (Budget("latency", (latency, rest), limit),))


@each_solver
@pytest.mark.parametrize(("limit", "optimum"), [(8.0, 0.0), (7.9, 2.0), (5.0, 3.0), (4.9, 4.0), (2.0, 4.0), (1.0, 9.0)])
def test_known_optima(solver: str, limit: float, optimum: float) -> None:
    problem = knapsack(limit)
    answer = solve(problem, solver)
    assert answer.status is Status.OPTIMAL
    assert answer.objective == pytest.approx(optimum) == pytest.approx(enumerate_best(problem))
    assert answer.bound <= answer.objective + 1e-9
    assert answer.gap <= 1e-6
    assert answer.seconds > 0


@each_solver
def test_infeasible_budget(solver: str) -> None:
    answer = solve(knapsack(0.9), solver)
    assert answer.status is Status.INFEASIBLE
    assert not answer.levels
    assert answer.objective == float("inf")


@each_solver
def test_removed_block_takes_the_one_inside_along(solver: str) -> None:
    gates = (Gate("outer"), Gate("inner", inside="outer"))
    latency = (Term((), np.array(2.0), "outer"), Term((), np.array(3.0), "inner"))
    damage = (
        Term((), np.array(3.0)),
        Term((), np.array(-1.0), "outer"),
        Term((), np.array(-2.0), "inner"),
    )
    problem = Problem((), gates, (), damage, (Budget("latency", latency, 3.0),))
    answer = solve(problem, solver)
    assert answer.kept == {"outer": True, "inner": False}
    tight = solve(replace(problem, budgets=(Budget("latency", latency, 1.0),)), solver)
    assert tight.kept == {"outer": False, "inner": False}


@each_solver
def test_linked_widths_add_up(solver: str) -> None:
    choices = (Choice("a", (2, 4)), Choice("b", (1, 3, 5)), Choice("sum", (5, 9, 11, 15)))
    problem = Problem(
        choices,
        (),
        (Link("sum", (("a", 1), ("b", 2)), fixed=1),),
        (Term(("a",), np.array([1.0, 0.0])), Term(("b",), np.array([9.0, 2.0, 0.0]))),
        (Budget("latency", (Term(("sum",), np.array([5.0, 9.0, 11.0, 15.0])),), 12.0),),
    )
    answer = solve(problem, solver)
    assert answer.objective == pytest.approx(enumerate_best(problem))
    widths = {c.name: c.widths[answer.levels[c.name]] for c in choices}
    assert widths["sum"] == 1 + widths["a"] + 2 * widths["b"]


@each_solver
def test_three_way_table(solver: str) -> None:
    rng = np.random.default_rng(0)
    choices = tuple(Choice(name, (1, 2, 3)) for name in "abc")
    damage = tuple(Term((name,), np.sort(rng.uniform(0, 1, 3))[::-1]) for name in "abc")
    table = np.multiply.outer(np.multiply.outer(np.arange(1.0, 4), np.arange(1.0, 4)), np.arange(1.0, 4))
    problem = Problem(choices, (), (), damage, (Budget("latency", (Term(("a", "b", "c"), table),), 9.0),))
    assert solve(problem, solver).objective == pytest.approx(enumerate_best(problem))


@each_solver
def test_degenerate_ties_and_one_choice(solver: str) -> None:
    problem = Problem(
        (Choice("only", (1,)),),
        (),
        (),
        (Term(("only",), np.zeros(1)),),
        (Budget("b", (Term(("only",), np.ones(1)),), 1.0),),
    )
    answer = solve(problem, solver)
    assert (answer.objective, answer.levels) == (0.0, {"only": 0})
    equal = Problem(
        tuple(Choice(f"c{i}", (1, 2)) for i in range(6)),
        (),
        (),
        tuple(Term((f"c{i}",), np.array([1.0, 0.0])) for i in range(6)),
        (Budget("b", tuple(Term((f"c{i}",), np.array([1.0, 2.0])) for i in range(6)), 9.0),),
    )
    assert solve(equal, solver).objective == pytest.approx(3.0)


@each_solver
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_does_not_matter(solver: str, scale: float) -> None:
    problem = knapsack(5.0)
    (budget,) = problem.budgets
    scaled = replace(
        problem,
        budgets=(Budget("latency", tuple(replace(t, table=t.table * scale) for t in budget.terms), 5.0 * scale),),
    )
    assert solve(scaled, solver).objective == pytest.approx(3.0)


def chain(count: int, levels: int) -> Problem:
    rng = np.random.default_rng(1)
    choices = tuple(Choice(f"c{i}", tuple(range(1, levels + 1))) for i in range(count))
    outer = np.multiply.outer(np.arange(1.0, levels + 1), np.arange(1.0, levels + 1))
    latency = tuple(Term((f"c{i}", f"c{i + 1}"), outer * rng.uniform(0.5, 2)) for i in range(count - 1))
    damage = tuple(Term((f"c{i}",), np.sort(rng.uniform(0, 1, levels))[::-1]) for i in range(count))
    total = sum(float(term.table[-1, -1]) for term in latency)
    return Problem(choices, (), (), damage, (Budget("latency", latency, total / 2),))


@each_solver
def test_time_limit_keeps_the_incumbent_or_says_unknown(solver: str) -> None:
    problem = chain(14, 6) if solver != "highs" else chain(60, 16)
    answer = solve(problem, solver, Limits(seconds=0.05))
    assert answer.status in (Status.OPTIMAL, Status.FEASIBLE, Status.UNKNOWN)
    if answer.levels:
        (budget,) = problem.budgets
        assert value(budget.terms, answer.levels, answer.kept) <= budget.limit * (1 + 1e-6)
        assert answer.bound <= answer.objective + 1e-9


@pytest.mark.skipif(not is_available("gurobi"), reason="gurobipy is not installed")
def test_gurobi_licence_limit_is_a_clear_error_and_auto_avoids_it() -> None:
    large = chain(40, 12)
    auto = solve(large, "auto", Limits(seconds=60, gap=1e-3))
    assert auto.levels
    if auto.solver == "highs":  # a full licence would admit the size
        with pytest.raises(SolverLicenseError, match="stops at 2000.*--solver highs"):
            solve(large, "gurobi")


def test_unknown_solver() -> None:
    with pytest.raises(OptionError, match="choose from decomposition, highs, gurobi, scip, auto"):
        solve(knapsack(5.0), "glpk")


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small random program with gates, nesting and joint tables."""
    numbers = st.integers(0, 6)
    choices = tuple(
        Choice(f"c{i}", tuple(range(1, draw(st.integers(1, 3)) + 1))) for i in range(draw(st.integers(1, 4)))
    )
    gates = tuple(
        Gate(f"g{i}", draw(st.sampled_from([None, *(f"g{j}" for j in range(i))])))
        for i in range(draw(st.integers(0, 3)))
    )

    def term() -> Term:
        names = tuple(draw(st.lists(st.sampled_from([c.name for c in choices]), max_size=3, unique=True)))
        shape = [len(c.widths) for name in names for c in choices if c.name == name]
        size = int(np.prod(shape))
        table = np.array(draw(st.lists(numbers, min_size=size, max_size=size)), float).reshape(shape)
        return Term(names, table, draw(st.sampled_from([None, *(g.name for g in gates)])))

    terms = [term() for _ in range(draw(st.integers(1, 5)))]
    objective = [term() for _ in range(draw(st.integers(1, 5)))]
    return Problem(choices, gates, (), tuple(objective), (Budget("b", tuple(terms), float(draw(st.integers(0, 12)))),))


@each_solver
@settings(max_examples=60)
@given(problem=problems())
def test_agrees_with_enumeration(solver: str, problem: Problem) -> None:
    answer = solve(problem, solver)
    best = enumerate_best(problem)
    if best == float("inf"):
        assert answer.status is Status.INFEASIBLE
    else:
        assert answer.objective == pytest.approx(best, abs=1e-6)
