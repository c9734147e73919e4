"""Every solver, on the same rows: known optima, infeasible programs, gates, links, ties, tight budgets, bad numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_mdp.errors import OptionError, ProblemError, SolverLicenseError, SolverMissingError
from onnx_mdp.solve.problem import Budget, Choice, Gate, Link, Problem, Status, Term, open_gates, value
from onnx_mdp.solve.solve import Limits, is_available, solve, solver_names

SOLVERS = [name for name in solver_names() if name == "auto" or is_available(name)]
_ABSENT = [name for name in solver_names() if name not in SOLVERS]
each_solver = pytest.mark.parametrize(
    "solver",
    [*SOLVERS, *(pytest.param(name, marks=pytest.mark.skip(reason=f"{name} is not installed")) for name in _ABSENT)],
)


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


def times(terms: tuple[Term, ...], scale: float) -> tuple[Term, ...]:
    return tuple(replace(term, table=term.table * scale) for term in terms)


@each_solver
@pytest.mark.parametrize(("limit", "optimum"), [(8.0, 0.0), (7.9, 2.0), (5.0, 3.0), (4.9, 4.0), (1.0, 9.0)])
@pytest.mark.parametrize("budget_scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("objective_scale", [1e-6, 1e6])
def test_scale_does_not_matter(
    solver: str, limit: float, optimum: float, budget_scale: float, objective_scale: float
) -> None:
    problem = knapsack(limit)
    (budget,) = problem.budgets
    scaled = replace(
        problem,
        objective=times(problem.objective, objective_scale),
        budgets=(Budget("latency", times(budget.terms, budget_scale), limit * budget_scale),),
    )
    assert solve(scaled, solver).objective == pytest.approx(optimum * objective_scale, rel=1e-9, abs=1e-15)
    hopeless = replace(scaled, budgets=(replace(scaled.budgets[0], limit=0.99 * budget_scale),))
    assert solve(hopeless, solver).status is Status.INFEASIBLE


@each_solver
def test_budget_without_slack(solver: str) -> None:
    """0.1 + 0.2 is more than 0.3 in floating point; a plan that spends just that is within the budget all the same."""
    choices = (Choice("a", (1, 2)), Choice("b", (1, 2)))
    damage = (Term(("a",), np.array([1.0, 0.0])), Term(("b",), np.array([1.0, 0.0])))
    latency = (Term(("a",), np.array([0.05, 0.1])), Term(("b",), np.array([0.05, 0.2])))
    assert 0.1 + 0.2 > 0.3
    answer = solve(Problem(choices, (), (), damage, (Budget("latency", latency, 0.3),)), solver)
    assert (answer.status, answer.objective) == (Status.OPTIMAL, 0.0)
    none_left = Problem(choices, (), (), damage, (Budget("latency", times(latency, 0.0), 0.0),))
    assert solve(none_left, solver).objective == 0.0


@each_solver
def test_block_worth_removing(solver: str) -> None:
    """SCIP 10.0.0 keeps the block and calls that optimal, unless it is told to leave weak dual reductions out."""
    choices = (Choice("a", (1,)), Choice("b", (1, 2, 3)), Choice("c", (1, 2)))
    joint = Term(("a", "c", "b"), np.array([[[0.25, 0.0, 0.0], [0.0, 0.75, 0.75]]]), "costs")
    free = Term(("a", "b", "c"), np.zeros((1, 3, 2)), "costs")
    worth = (Term((), np.array(-0.5), "pays"), joint)
    problem = Problem(choices, (Gate("pays"), Gate("costs")), (), worth, (Budget("b", (free,), 0.0),))
    assert solve(problem, solver).objective == -0.5 == enumerate_best(problem)


@each_solver
def test_terms_that_cancel(solver: str) -> None:
    """0.1 + 0.2 - 0.3 is 6e-17: rounding, which no unit may blow up to something."""
    numbers = (Term((), np.array(number), "block") for number in (0.1, 0.2, -0.3))
    gates, rows = (Gate("block"),), tuple(numbers)
    assert value(rows, {}, {"block": True}) > 0
    worth = (Term((), np.array(-1.0), "block"), *rows)
    answer = solve(Problem((), gates, (), worth, (Budget("b", rows, 0.0),)), solver)
    assert (answer.status, answer.kept) == (Status.OPTIMAL, {"block": True})
    nothing = (Term((), np.array(0.25), "block"), Term((), np.array(-0.25), "block"))
    assert solve(Problem((), gates, (), nothing, (Budget("b", nothing, 0.0),)), solver).objective == 0.0


@each_solver
def test_no_budget_and_no_choice(solver: str) -> None:
    free = replace(knapsack(1.0), budgets=())
    assert (solve(free, solver).status, solve(free, solver).objective) == (Status.OPTIMAL, 0.0)
    gates = (Gate("block"),)
    bits = Problem((), gates, (), (Term((), np.array(-1.0), "block"),), ())
    assert solve(bits, solver).kept == {"block": True}
    assert solve(bits, solver).gap == 0.0


@each_solver
def test_several_budgets_at_once(solver: str) -> None:
    """Each budget alone admits a plan that the other one forbids."""
    choices = tuple(Choice(name, (1, 2, 3)) for name in "ab")
    damage = tuple(Term((name,), np.array([5.0, 2.0, 0.0])) for name in "ab")
    ones = tuple(Term((name,), np.array([1.0, 2.0, 3.0])) for name in "ab")
    budgets = (Budget("x", (ones[0], times(ones[1:], 3.0)[0]), 6.0), Budget("y", (times(ones, 3.0)[0], ones[1]), 6.0))
    problem = Problem(choices, (), (), damage, budgets)
    alone = [solve(replace(problem, budgets=(budget,)), solver).objective for budget in budgets]
    both = solve(problem, solver)
    assert both.objective == pytest.approx(enumerate_best(problem))
    assert both.objective > max(alone)
    assert (both.notice == "") == (solver != "decomposition")


@each_solver
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"objective": (Term(("a",), np.array([1.0, np.nan, 0.0])),)},
            r"objective, term 0: the table holds nan at levels \(1,\)",
        ),
        ({"objective": (Term((), np.array(-np.inf)),)}, "objective, term 0: the table holds -inf"),
        ({"budgets": (Budget("ms", (Term(("b",), np.array([1.0, np.inf])),), 1.0),)}, "budget ms, term 0.*inf"),
        ({"budgets": (Budget("ms", (), float("inf")),)}, "budget ms: limit inf"),
        ({"budgets": (Budget("ms", (), 1.0), Budget("ms", (), 2.0))}, "budget ms: is given 2 times"),
        ({"objective": (Term(("z",), np.zeros(2)),)}, "term 0: there is no choice z"),
        ({"objective": (Term((), np.array(1.0), "z"),)}, "term 0: there is no block z"),
        ({"objective": (Term(("a", "b"), np.zeros((2, 3))),)}, "the table is 2x3, its choices have 3x2 levels"),
        ({"choices": (Choice("a", (1, 2, 3)), Choice("b", ()))}, "choice b: has no levels"),
        ({"choices": (Choice("a", (1, 2, 3)), Choice("a", (1, 2)))}, "choice a: is given 2 times"),
        ({"gates": (Gate("block", "block"),)}, "block block: lies inside itself"),
        ({"gates": (Gate("block", "z"),)}, "block block: lies inside z"),
        ({"links": (Link("a", (("z", 1),)),)}, "link of a: there is no choice z"),
    ],
)
def test_malformed_programs_are_refused_with_the_place(solver: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        solve(replace(knapsack(5.0), **change), solver)


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
    problem = chain(14, 6) if solver in ("gurobi", "auto") else chain(60, 16)
    answer = solve(problem, solver, Limits(seconds=1e-3 if solver == "decomposition" else 0.05))
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


@pytest.mark.parametrize("name", _ABSENT or [pytest.param("", marks=pytest.mark.skip(reason="all are installed"))])
def test_absent_solver_names_the_remedy(name: str) -> None:
    with pytest.raises(SolverMissingError, match=f"{name} is not installed: pip install .*, or --solver decomposition"):
        solve(knapsack(5.0), name)


def test_unknown_solver() -> None:
    with pytest.raises(OptionError, match="choose from decomposition, highs, gurobi, scip, auto"):
        solve(knapsack(5.0), "glpk")


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small random program with gates, nesting, joint tables and sums of widths."""
    numbers = st.integers(-2, 6).map(lambda n: n / 4)
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

    links = []
    for i in range(draw(st.integers(0, 2))):
        names = draw(st.lists(st.sampled_from([c.name for c in choices]), min_size=1, max_size=3, unique=True))
        parts = tuple((name, draw(st.integers(1, 2))) for name in names)
        widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True))
        total = Choice(f"sum{i}", tuple(widths))
        choices = (*choices, total)
        links.append(Link(total.name, parts, draw(st.integers(0, 1))))
    terms = [term() for _ in range(draw(st.integers(1, 5)))]
    objective = [term() for _ in range(draw(st.integers(1, 5)))]
    budget = Budget("b", tuple(terms), draw(st.integers(-4, 24)) / 4)
    return Problem(choices, gates, tuple(links), tuple(objective), (budget,))


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_agrees_with_enumeration(count: int) -> None:
    """All solvers, on the same programs; the numbers are quarters, whose sums are exact."""

    @settings(max_examples=count)
    @given(problem=problems())
    def check(problem: Problem) -> None:
        best = enumerate_best(problem)
        for solver in SOLVERS:
            answer = solve(problem, solver)
            assert answer.objective == best, solver
            if best == float("inf"):
                assert answer.status is Status.INFEASIBLE, solver
            else:
                assert answer.status is Status.OPTIMAL, solver
                assert answer.bound <= best, solver
                assert answer.gap <= 1e-6, solver

    check()
