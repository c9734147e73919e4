"""Programs as JSON: what they mean, and what is said about malformed ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from onnx_mdp.errors import ProblemError
from onnx_mdp.solve.problem_file import parse_problem, read_problem
from onnx_mdp.solve.solve import is_available, solve, solver_names

SOLVERS = [name for name in solver_names() if name == "auto" or is_available(name)]


def program() -> dict[str, Any]:
    """Two choices and a locked block inside a removable one; removing that costs 5, every plan is worked out below."""
    return {
        "choices": {"a": 3, "b": 2},
        "allowed": {"a": [2, 0]},
        "blocks": {"body": {"removable": True, "inside": None}, "part": {"removable": False, "inside": "body"}},
        "terms": [
            {"choices": ["a"], "table": [9, 4, 0], "block": None},
            {"choices": ["b"], "table": [3, 0], "block": "part"},
            {"choices": [], "table": 5},
            {"table": -5, "block": "body"},
            {"choices": ["a", "b"], "table": [[1, 2], [2, 4], [3, 6]], "block": "part"},
        ],
        "objective": {"sense": "min", "terms": [0, 1, 2, 3]},
        "budgets": [{"name": "latency", "terms": [4], "limit": 6}],
    }


def answer(data: dict[str, Any], solver: str = "decomposition") -> dict[str, Any]:
    file = parse_problem(data)
    return file.answer(solve(file.problem, solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("limit", "objective", "levels", "kept"),
    [(6, 0, {"a": 2, "b": 1}, True), (4, 3, {"a": 2, "b": 0}, True), (2, 5, {"a": 2}, False), (0, 5, {"a": 2}, False)],
)
def test_meaning(solver: str, limit: float, objective: float, levels: dict[str, int], kept: bool) -> None:
    data = program()
    data["budgets"][0]["limit"] = limit
    found = answer(data, solver)
    assert set(found) == {
        *("status", "objective", "bound", "gap", "levels", "blocks", "budgets", "solver", "seconds"),
    }
    assert (found["status"], found["objective"]) == ("optimal", pytest.approx(objective))
    assert {name: found["levels"][name] for name in levels} == levels
    assert found["blocks"] == {"body": kept, "part": kept}
    assert found["budgets"]["latency"] <= limit
    assert found["gap"] <= 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_maximum_and_several_budgets(solver: str) -> None:
    data = {
        "choices": {"a": 3, "b": 3},
        "terms": [
            {"choices": ["a"], "table": [0, 5, 9]},
            {"choices": ["b"], "table": [0, 6, 7]},
            {"choices": ["a"], "table": [1, 2, 3]},
            {"choices": ["b"], "table": [1, 2, 3]},
        ],
        "objective": {"sense": "max", "terms": [0, 1]},
        "budgets": [
            {"name": "ms", "terms": [2, 2, 3], "limit": 8},
            {"name": "bytes", "terms": [2, 3, 3], "limit": 7},
        ],
    }
    found = answer(data, solver)
    assert (found["objective"], found["levels"]) == (15.0, {"a": 2, "b": 1})
    assert found["bound"] >= found["objective"]
    assert found["budgets"] == {"ms": 8.0, "bytes": 7.0}


def test_no_plan_is_null() -> None:
    data = program()
    data["blocks"]["body"]["removable"] = False
    data["budgets"][0]["limit"] = 0.5
    found = answer(data)
    assert found["status"] == "infeasible"
    assert (found["objective"], found["bound"], found["gap"]) == (None, None, None)
    assert (found["levels"], found["blocks"], found["budgets"]) == ({}, {}, {})
    json.dumps(found, allow_nan=False)


CHANGES = [
    (["choices", "a"], 0, "choices.a: 0 is not a number of levels"),
    (["choices", "a"], True, "choices.a: true is not a number of levels"),
    (["choices"], [3, 2], r"choices: is \[3, 2\]; give an object"),
    (["allowed", "a"], [], "allowed.a: allows no level"),
    (["allowed", "a"], [0, 3], r"allowed.a\[1\]: there is no level 3; they are numbered from 0 to 2"),
    (["allowed", "z"], [0], "allowed.z: there is no choice z"),
    (["blocks", "body", "removable"], 1, "blocks.body.removable: 1 is neither true nor false"),
    (["blocks", "body", "inside"], "z", 'blocks.body.inside: there is no block "z"'),
    (["blocks", "body", "inside"], ["z"], r'blocks.body.inside: there is no block \["z"\]'),
    (["blocks", "body", "inside"], "part", "blocks.body.inside: the block lies inside itself"),
    (["blocks", "part", "insde"], "body", "blocks.part: has no field insde; its fields are inside, removable"),
    (["terms", 0, "choices"], ["z"], r'terms\[0\].choices\[0\]: there is no choice "z"'),
    (["terms", 0, "table"], [1, 2], r"terms\[0\].table: has 2 entries; a has 3 levels"),
    (["terms", 0, "table"], 7, r"terms\[0\].table: is 7; give a list over the 3 levels of a"),
    (["terms", 0, "table"], [1, "2", 3], r'terms\[0\].table\[1\]: "2" is not a number'),
    (["terms", 2, "table"], [5], r"terms\[2\].table: \[5\] is not a number"),
    (["terms", 4, "table"], [[1, 2], [3], [4, 5]], r"terms\[4\].table\[1\]: has 1 entries; b has 2 levels"),
    (["terms", 4, "table", 2, 1], float("nan"), r"terms\[4\].table\[2\]\[1\]: NaN is not a finite number"),
    (["terms", 4, "table", 2, 1], 10**400, r"terms\[4\].table\[2\]\[1\]: 1000.* is not a finite number"),
    (["terms", 1, "block"], "z", r'terms\[1\].block: there is no block "z"'),
    (["terms", 1], 5, r"terms\[1\]: is 5; give an object"),
    (["terms", 1], {"choices": ["a"]}, r"terms\[1\]: lacks table"),
    (["objective"], {"sense": "min"}, "objective: lacks terms"),
    (["objective", "sense"], "minimize", 'objective.sense: "minimize" is neither min nor max'),
    (["objective", "terms"], [0, 5], r"objective.terms\[1\]: there is no term 5; they are numbered from 0 to 4"),
    (["objective", "terms"], [-1], r"objective.terms\[0\]: there is no term -1"),
    (["objective", "terms"], [0.0], r"objective.terms\[0\]: there is no term 0.0"),
    (["budgets", 0, "limit"], float("inf"), r"budgets\[0\].limit: Infinity is not a finite number"),
    (["budgets", 0, "limit"], None, r"budgets\[0\].limit: null is not a number"),
    (["budgets", 0, "name"], 3, r"budgets\[0\].name: 3 is not a text"),
    (["budgets"], {"latency": 3}, "budgets: is .*; give a list"),
    (["budget"], [], "the program: has no field budget; its fields are allowed, blocks, budgets"),
]


@pytest.mark.parametrize(("path", "value", "message"), CHANGES)
def test_malformed_files_name_the_field_and_the_place(path: list[Any], value: Any, message: str) -> None:
    data = copy.deepcopy(program())
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ProblemError, match=f"^{message}"):
        parse_problem(data)


@pytest.mark.parametrize("lacking", ["choices", "terms", "objective"])
def test_what_may_not_be_left_out(lacking: str) -> None:
    data = program()
    del data[lacking]
    with pytest.raises(ProblemError, match=f"^the program: lacks {lacking}"):
        parse_problem(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[1]", r"the program: is \[1\]"), ("\0\xff", "not JSON"), ("[" * 100_000, "not JSON")],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ProblemError, match=f"p.json: {message}"):
        read_problem(tmp_path / "p.json")
    with pytest.raises(ProblemError, match="absent.json: cannot be read"):
        read_problem(tmp_path / "absent.json")
