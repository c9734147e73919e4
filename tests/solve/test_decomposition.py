"""The decomposition against HiGHS on programs too large to enumerate, and what it promises of itself."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_mdp.errors import ProblemError
from onnx_mdp.solve import branch, buckets
from onnx_mdp.solve import solve as solving
from onnx_mdp.solve.buckets import make_plan
from onnx_mdp.solve.decompose import Decomposition
from onnx_mdp.solve.factors import at_state, make_model
from onnx_mdp.solve.incumbent import Incumbent
from onnx_mdp.solve.labels import undominated
from onnx_mdp.solve.order import elimination_order
from onnx_mdp.solve.problem import Answer, Budget, Choice, Gate, Link, Problem, Status, Term, value
from onnx_mdp.solve.solve import Limits, solve, solve_many
from onnx_mdp.solve.whole import Whole
from tests.solve.programs import random_program


def same(answer: Answer, other: Answer) -> bool:
    if not answer.has_plan or not other.has_plan:
        return answer.status is other.status
    return answer.objective == pytest.approx(other.objective, rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_highs(seed: int) -> None:
    problem = random_program(seed, 4 + seed % 5)
    answer = solve(problem)
    assert (answer.solver, answer.notice) == ("decomposition", "")
    assert answer.gap <= 1e-6
    assert same(answer, solve(problem, "highs"))


@pytest.mark.parametrize("seed", range(40, 60))
def test_cut_labels_and_splits_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no labels allowed, everything must come from bounds of what was cut and from splitting."""
    problem = random_program(seed, 8)
    full = solve(problem)
    monkeypatch.setattr(branch, "_SIZES", (3,))
    few = solve(problem)
    assert few.gap <= 1e-6
    assert same(few, full)


@pytest.mark.parametrize("seed", range(100, 130))
def test_short_lists_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list begins next to the bound and is followed by longer ones; what it proves holds below its end alone."""
    problem = random_program(seed, 10)
    full = solve(problem)
    monkeypatch.setattr(branch, "_MANY", -1)
    monkeypatch.setattr(branch, "_SIZES", (3,))
    short = solve(problem)
    assert short.gap <= 1e-6
    assert same(short, full)


@pytest.mark.parametrize("seed", range(60, 100))
def test_splitting_in_full_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever choice the bound falls for is split before any entry is ruled out, again and again; in thin slabs."""
    problem = random_program(seed, 8)
    full = solve(problem)
    monkeypatch.setattr(branch, "_LARGE", 0)
    monkeypatch.setattr(branch, "_HUB", 1)
    monkeypatch.setattr(branch, "_HUB_SHARE", 0.0)
    monkeypatch.setattr(buckets, "_WHOLE", 4)
    monkeypatch.setattr(buckets, "_SLAB", 4)
    split = solve(problem)
    assert split.gap <= 1e-6
    assert same(split, full)


def test_a_choice_at_one_level_costs_what_it_costs_there() -> None:
    """Fixing the stream of a program at each of its levels, one gives the optimum and none a better plan."""
    problem = random_program(7, 8)
    optimum = solve(problem).objective
    model = make_model(problem, problem.budgets[0].terms)
    (limit,) = (budget.limit for budget in problem.budgets)
    number = max(v for v in range(len(model.choices)) if v not in model.functions and model.sizes[v] > 1)
    found = []
    for state in range(model.sizes[number]):
        whole = Whole(at_state(model, number, state), make_plan(model))
        incumbent = Incumbent(whole.plan, limit, 1e-9, 0.0, math.inf)
        branch.Search(whole, incumbent).run()
        found.append(incumbent.cost)
    assert min(found) == pytest.approx(optimum, rel=1e-6)
    assert max(found) > min(found)


def test_too_dense_a_program_goes_to_highs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    choices = tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(7))
    damage = tuple(Term((c.name,), np.array([3.0, 2.0, 1.0, 0.0])) for c in choices)
    pairs = itertools.combinations([c.name for c in choices], 2)
    latency = tuple(Term(pair, np.sort(rng.uniform(0, 1, (4, 4)).ravel()).reshape(4, 4)) for pair in pairs)
    problem = Problem(choices, (), (), damage, (Budget("latency", latency, 8.0),))
    fits = solve(problem)
    assert (fits.solver, fits.notice) == ("decomposition", "")
    monkeypatch.setattr(buckets, "MOST_ENTRIES", 4**6)
    dense = solve(problem)
    assert dense.solver == "highs"
    assert dense.notice.startswith("solved by HiGHS: too dense for decomposition, its elimination needs a table")
    assert same(dense, fits)
    assert [same(answer, fits) for answer in solve_many(problem, [8.0])] == [True]


def test_budgets_that_cannot_bind_do_not_count() -> None:
    problem = random_program(3)
    (budget,) = problem.budgets
    loose = Budget("loose", budget.terms, 1e6)
    tighter = Budget("tighter", budget.terms, 0.9 * budget.limit)
    answer = solve(replace(problem, budgets=(budget, loose)))
    assert (answer.solver, answer.objective) == ("decomposition", solve(problem).objective)
    both = solve(replace(problem, budgets=(budget, tighter)))
    assert (both.solver, both.objective) == ("decomposition", solve(replace(problem, budgets=(tighter,))).objective)


@pytest.mark.parametrize("seed", range(6))
def test_many_limits_at_once_equal_one_by_one(seed: int) -> None:
    problem = random_program(seed, 8)
    (budget,) = problem.budgets
    limits = [share * budget.limit for share in (1.4, 1.0, 0.8, 0.7, 0.3, 1.2, 1e-3)]
    answers = solve_many(problem, limits)
    for limit, answer in zip(limits, answers, strict=True):
        one = solve(replace(problem, budgets=(replace(budget, limit=limit),)))
        assert same(answer, one)
        assert answer.gap <= 1e-6 or answer.status is Status.INFEASIBLE
    assert answers[-1].status is Status.INFEASIBLE
    found = sorted((limit, answer.objective) for limit, answer in zip(limits, answers, strict=True))
    assert all(before >= after for (_, before), (_, after) in itertools.pairwise(found))


def test_many_limits_share_relaxations() -> None:
    problem = random_program(1, 8)
    (budget,) = problem.budgets
    limits = [share * budget.limit for share in np.linspace(0.6, 1.2, 12)]
    shared, alone = Decomposition(problem), 0
    for limit in limits:
        one = Decomposition(problem)
        one.solve(limit, Limits(), time.perf_counter() + 60)
        shared.solve(limit, Limits(), time.perf_counter() + 60)
        alone += len(one.whole.passes)
    assert len(shared.whole.passes) < 0.7 * alone


def test_a_frontier_needs_one_budget() -> None:
    problem = replace(random_program(1), budgets=())
    with pytest.raises(ProblemError, match="a frontier needs a budget, the program has none"):
        solve_many(problem, [1.0])


def test_no_time_still_gives_a_plan_and_a_bound() -> None:
    problem = random_program(9, 12)
    exact = solve(problem)
    hasty = solve(problem, limits=Limits(seconds=0.0))
    (budget,) = problem.budgets
    assert hasty.status is Status.FEASIBLE
    assert value(budget.terms, hasty.levels, hasty.kept) <= budget.limit * (1 + 1e-6)
    assert hasty.bound <= exact.objective <= hasty.objective
    assert hasty.gap > 1e-6


def subset_sums() -> Problem:
    """Damage and latency in proportion: every plan is as good as its latency is close to the budget."""
    rng = np.random.default_rng(0)
    tables = rng.integers(1, 1000, (60, 6)).astype(float)
    choices = tuple(Choice(f"c{i}", tuple(range(6))) for i in range(60))
    latency = tuple(Term((f"c{i}",), table) for i, table in enumerate(tables))
    damage = tuple(Term((f"c{i}",), 1000 - table) for i, table in enumerate(tables))
    middle = 0.43 * tables.max(axis=1).sum() + 0.57 * tables.min(axis=1).sum()
    return Problem(choices, (), (), damage, (Budget("latency", latency, middle),))


def test_what_labels_cannot_prove_is_left_to_highs() -> None:
    problem = subset_sums()
    answer = solve(problem, limits=Limits(seconds=6))
    assert answer.notice == "HiGHS took over: decomposition did not prove its plan in time"
    assert (answer.status, answer.objective) == (Status.OPTIMAL, 60_000 - np.floor(problem.budgets[0].limit))


def test_linear_programs_that_would_not_fit_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "_MOST_COLUMNS", 359)
    answer = solve(subset_sums(), limits=Limits(seconds=1))
    assert (answer.status, answer.solver, answer.notice) == (Status.FEASIBLE, "decomposition", "")


@pytest.mark.parametrize("seed", range(12, 32))
def test_gap_that_is_asked_for_is_kept(seed: int) -> None:
    """The bound is what was proven, not the cost of a plan that was close enough."""
    problem = random_program(seed, 12)
    exact, rough = solve(problem), solve(problem, limits=Limits(gap=0.05))
    assert rough.status is exact.status is Status.OPTIMAL
    assert rough.gap <= 0.05
    assert rough.bound <= exact.objective * (1 + 1e-9) <= rough.objective * (1 + 2e-9)


def test_one_choice_twice_in_a_table_is_its_diagonal() -> None:
    table = np.array([[5.0, -9.0], [-9.0, 3.0]])
    problem = Problem((Choice("a", (1, 2)),), (), (), (Term(("a", "a"), table),), ())
    for solver in ("decomposition", "highs"):
        assert solve(problem, solver).objective == 3.0


def test_sums_that_nothing_reaches_are_never_chosen() -> None:
    choices = (Choice("a", (1, 2)), Choice("b", (1, 2)), Choice("sum", (7, 3, 2)))
    cheap = Term(("sum",), np.array([-100.0, 0.0, 5.0]))
    problem = Problem(choices, (), (Link("sum", (("a", 1), ("b", 1))),), (cheap,), ())
    answer = solve(problem)
    assert answer.levels["sum"] == 1
    assert answer.levels["a"] != answer.levels["b"]
    hopeless = replace(problem, links=(Link("sum", (("a", 1), ("b", 1)), fixed=20),))
    assert solve(hopeless).status is Status.INFEASIBLE


def test_two_links_on_one_total() -> None:
    choices = (Choice("a", (1, 2)), Choice("b", (1, 3)), Choice("sum", (2, 3, 6)))
    links = (Link("sum", (("a", 1),), fixed=1), Link("sum", (("b", 2),)))
    worth = (Term(("a",), np.array([0.0, -1.0])), Term(("b",), np.array([0.0, -9.0])))
    answer = solve(Problem(choices, (), links, worth, ()))
    assert (answer.levels, answer.objective) == ({"a": 0, "b": 0, "sum": 0}, 0.0)


def concats(layers: int) -> Problem:
    """Each layer reads the concat of all before it."""
    choices = [Choice("c0", (1, 2, 3, 4))]
    links, latency = [], []
    for i in range(1, layers):
        parts = tuple((f"c{j}", 1) for j in range(i))
        choices += [Choice(f"c{i}", (1, 2, 3, 4)), Choice(f"sum{i}", tuple(range(i, 4 * i + 1)))]
        links.append(Link(f"sum{i}", parts))
        latency.append(Term((f"sum{i}", f"c{i}"), np.multiply.outer(np.arange(i, 4 * i + 1.0), np.arange(1.0, 5))))
    damage = tuple(Term((f"c{i}",), np.array([3.0, 2.0, 1.0, 0.0])) for i in range(layers))
    limit = 0.5 * sum(float(term.table.max()) for term in latency)
    return Problem(tuple(choices), (), tuple(links), damage, (Budget("latency", tuple(latency), limit),))


def test_tables_of_concat_chains_stay_small() -> None:
    """Every table of a DenseNet is over one running sum and one or two parts, however long the chain."""
    for layers in (10, 40):
        problem = concats(layers)
        plan = buckets.make_plan(make_model(problem, problem.budgets[0].terms))
        assert max(bucket.entries for bucket in plan.buckets) <= 3 * layers * 4 * 4
    assert same(solve(concats(8)), solve(concats(8), "highs"))


def test_order_of_a_ladder_is_narrow() -> None:
    """Two parallel chains with rungs between them: no table needs more than three variables."""
    pairs = [(i, i + 2) for i in range(38)] + [(i, i + 1) for i in range(0, 40, 2)]
    order = elimination_order([4] * 40, pairs, (), {})
    neighbors = {v: {u for pair in pairs for u in pair if v in pair} - {v} for v in range(40)}
    for v in order:
        around = neighbors.pop(v)
        assert len(around) <= 2
        for u in around:
            neighbors[u] = (neighbors[u] | around) - {u, v}


def test_functions_come_before_their_parts() -> None:
    order = elimination_order([2, 2, 4, 8, 3], [(3, 4), (0, 4)], (), {2: (0, 1), 3: (2,)})
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert order.index(3) < order.index(2) < min(order.index(0), order.index(1))


def test_blocks_inside_removed_blocks_cost_nothing() -> None:
    gates = (Gate("outer"), Gate("middle", "outer"), Gate("inner", "middle"))
    choices = (Choice("a", (1, 2)), Choice("b", (1, 2)))
    latency = tuple(Term(("a", "b"), np.full((2, 2), 1.0 + i), gate.name) for i, gate in enumerate(gates))
    worth = tuple(Term((), np.array(-float(4 - i)), gate.name) for i, gate in enumerate(gates))
    problem = Problem(choices, gates, (), worth, (Budget("latency", latency, 3.5),))
    answer = solve(problem)
    assert answer.kept == {"outer": True, "middle": True, "inner": False}
    assert same(answer, solve(problem, "highs"))


@settings(max_examples=300)
@given(points=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_undominated_pairs(points: list[tuple[int, int, int]]) -> None:
    """Per group: pairs that no other beats, once each."""
    group, first, second = (np.array([p[axis] for p in points]) for axis in range(3))
    kept = [points[i] for i in undominated(group.astype(np.int64), first.astype(float), second.astype(float))]
    best = {p for p in points if not any(q != p and q[0] == p[0] and q[1] <= p[1] and q[2] <= p[2] for q in points)}
    assert len(kept) == len(set(kept))
    assert set(kept) == best
    assert [p[0] for p in kept] == sorted(p[0] for p in kept)
