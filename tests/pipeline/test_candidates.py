"""Plans of doubtful damage are searched for, and held-out inputs decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

import onnx_mdp
from onnx_mdp.errors import BudgetError
from onnx_mdp.importance.base import Curve, Scores
from onnx_mdp.pipeline.candidates import Candidates, lighter
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.reporting import Outcome
from onnx_mdp.pipeline.stopwatch import Comparison
from onnx_mdp.solve.problem import PROVEN, Answer, Status

MODELS = Path(__file__).parents[2] / "models"


def test_only_streams_count_less() -> None:
    damage = np.array([1.0, 0.5, 0.0])
    scores = Scores({}, (Curve("stream", None, damage), Curve("fc", None, damage)), {"block": 1.0})
    found = lighter(scores, ["stream"], 0.5)
    assert [curve.damage.tolist() for curve in found.curves] == [[0.5, 0.25, 0.0], [1.0, 0.5, 0.0]]
    assert found.removal == scores.removal


def test_a_plan_of_other_damage_is_the_best_only_where_none_does_less() -> None:
    answer = Answer(Status.OPTIMAL, 0.1, 0.1, {"fc": 1}, {}, "decomposition", 0.0)
    dearer, same = answer.recounted(0.4, 0.3), answer.recounted(0.2, 0.3)
    assert (dearer.objective, dearer.bound, dearer.status) == (0.4, 0.3, Status.FEASIBLE)
    assert (same.objective, same.bound, same.status) == (0.2, 0.2, Status.OPTIMAL)


@dataclass(frozen=True)
class Program:
    """What is searched with."""

    scores: Scores
    budgets: tuple[()] = ()


@dataclass
class Search:
    """Stands for a loop: what it finds is the program's damage at half a width."""

    program: Program
    listener: Listener

    reason: str = "no other plan lies near the budget"

    def over(self, program: Program) -> Search:
        return replace(self, program=program)

    def fuller(self, trial: Any) -> Any:
        for damage in (0.7, 0.8):
            yield SimpleNamespace(plan=SimpleNamespace(widths=lambda d=damage: {"fc": d}, removed=()), spent=0.98)


def found_by(search: Any, spent: float = 0.98) -> Any:
    damage = search.program.scores.curves[0].damage[1]
    if damage > 2:
        raise BudgetError("not reached")
    return SimpleNamespace(plan=SimpleNamespace(widths=lambda: {"fc": damage}, removed=()), spent=spent)


def promised(search: Any) -> Any:
    """The same, but that some which are not reached are thought to be."""
    damage = search.program.scores.curves[0].damage[1]
    return SimpleNamespace(plan=SimpleNamespace(widths=lambda: {"fc": damage}, removed=()), spent=0.98)


def outcome_of(search: Any, trial: Any) -> Outcome:
    return Outcome(trial.plan, onnx.ModelProto(), Comparison(1, 1, 1, 1, "cpu", 0), search.reason)


def damage_of(outcome: Outcome) -> float:
    return outcome.plan.widths()["fc"]


def test_of_all_plans_that_are_tried_the_nearest_is_kept() -> None:
    """Two of noise, of which one may not be reached, and one around the plan."""
    tried: list[float] = []

    def recovered(outcome: Outcome) -> Any:
        tried.append(damage_of(outcome))
        return SimpleNamespace(before=9.0, after=abs(tried[-1] - 0.5) + 0.1)

    def around(search: Any, trial: Any) -> Scores:
        assert trial is first
        return scores_of(0.5)

    search: Any = Search(Program(scores_of(1.0)), ear := Ear())
    first = found_by(search)
    kept = Candidates((), 2, 0, around, promised, found_by, outcome_of, recovered).best(search, first)
    assert kept.plan.widths()["fc"] == 0.5
    assert tried[0] == 1.0
    assert len(set(tried)) == len(tried) == 4
    assert ear.notes[-1].startswith("kept, with damage measured around the plan: ")
    again = [note for note in ear.notes if note.startswith("again")]
    assert again[-1] == "again, with damage measured around the plan:"
    best, searched = 0.6, 0
    for damage in tried[1:3]:
        far = abs(damage - 0.5) + 0.1
        searched += far <= 1.25 * best
        best = far if far < 0.95 * best else best
    assert len(again) == searched + 1, "what is much farther is not searched"


def test_what_is_likely_to_be_much_farther_is_not_searched() -> None:
    searched: list[float] = []

    def found(search: Any) -> Any:
        searched.append(search.program.scores.curves[0].damage[1])
        return found_by(search)

    def recovered(outcome: Outcome) -> Any:
        return SimpleNamespace(before=9.0, after={1.0: 1.0, 0.2: 0.5}.get(damage_of(outcome), 1.3))

    search: Any = Search(Program(scores_of(1.0)), Ear())
    kept = Candidates(("fc",), 0, 0, None, promised, found, outcome_of, recovered).best(search, found_by(search))
    assert searched == [0.2]
    assert damage_of(kept) == 0.2


def test_what_was_not_found_as_promised_is_recovered_as_it_is() -> None:
    def found(search: Any) -> Any:
        return SimpleNamespace(plan=SimpleNamespace(widths=lambda: {"fc": 0.7}, removed=()), spent=0.98)

    def recovered(outcome: Outcome) -> Any:
        return SimpleNamespace(before=9.0, after={1.0: 1.0, 0.7: 0.3}.get(damage_of(outcome), 0.5))

    search: Any = Search(Program(scores_of(1.0)), Ear())
    kept = Candidates(("fc",), 0, 0, None, promised, found, outcome_of, recovered).best(search, found_by(search))
    assert damage_of(kept) == 0.7
    assert kept.recovery is not None
    assert kept.recovery.after == 0.3


def test_a_plan_that_is_hardly_nearer_is_not_taken() -> None:
    def recovered(outcome: Outcome) -> Any:
        return SimpleNamespace(before=9.0, after=1.0 if outcome.plan is first.plan else 0.96)

    search: Any = Search(Program(scores_of(1.0)), Ear())
    first = found_by(search)
    candidates = Candidates(("fc",), 0, 0, None, promised, found_by, outcome_of, recovered)
    assert candidates.best(search, first).plan is first.plan


def test_a_plan_that_leaves_some_of_the_budget_is_compared_with_some_that_use_it() -> None:
    def recovered(outcome: Outcome) -> Any:
        return SimpleNamespace(before=9.0, after=abs(damage_of(outcome) - 0.8) + 0.1)

    search: Any = Search(Program(scores_of(1.0)), ear := Ear())
    first = found_by(search, 0.93)
    kept = Candidates((), 0, 0, None, promised, found_by, outcome_of, recovered).best(search, first)
    assert damage_of(kept) == 0.8
    assert not kept.reason
    assert ear.notes == [
        "kept, with more of the budget: 0.3 became 0.2 on held-out inputs",
        "kept, with more of the budget: 0.2 became 0.1 on held-out inputs",
    ]
    assert search.reason, "it is what the first search said"
    alike = Candidates((), 0, 0, None, promised, found_by, outcome_of, lambda _: SimpleNamespace(before=1.0, after=1.0))
    assert alike.best(search, first).reason == "plans that use more of it are no better on held-out inputs"


def scores_of(damage: float) -> Scores:
    return Scores({}, (Curve("fc", None, np.array([4 * damage, damage, 0.0])),), {})


class Ear(Listener):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_result_is_the_nearest_to_the_dense_model_of_those_tried(lut: Path) -> None:
    """Deep enough that the stream is worth cutting; whichever is kept, none that was tried is nearer."""
    ear = Ear()
    model, inputs = MODELS / "digits_vit.onnx", str(MODELS / "digits_calibration.npz")
    found = onnx_mdp.prune(model, inputs=inputs, latency="40%", lut=lut, listener=ear)
    steps = [note for note in ear.notes if note.startswith("kept, with")]
    kept = found.report.recovery["after"]
    for step in steps:
        before, after = (
            float(word) for word in step.split(": ")[1].removesuffix(" on held-out inputs").split(" became ")
        )
        assert after < before
        assert kept <= after * 1.01
    facts = found.report.solve
    assert facts is not None
    assert facts.bound <= facts.objective
    assert (facts.status == Status.OPTIMAL) == (facts.gap <= PROVEN)
    assert found.report.latency.ratio <= 0.404
