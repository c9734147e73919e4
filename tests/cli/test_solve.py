"""`onnx-mdp solve`: a program in a file, an answer as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import readme_problem, run
from tests.conftest import ROOT
from tests.solve.test_problem_file import program


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(program()))
    return path


def test_answer_is_printed_as_json(capsys: pytest.CaptureFixture[str], problem: Path) -> None:
    status, out, err = run(capsys, "solve", problem)
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert list(answer) == ["status", "objective", "bound", "gap", "levels", "blocks", "budgets", "solver", "seconds"]
    assert (answer["status"], answer["objective"], answer["solver"]) == ("optimal", 0.0, "decomposition")
    assert answer["levels"] == {"a": 2, "b": 1}
    assert answer["blocks"] == {"body": True, "part": True}
    assert answer["budgets"] == {"latency": 6.0}


def test_readme_shows_a_real_program_and_its_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = (ROOT / "README.md").read_text().split("$ onnx-mdp solve problem.json\n")[1].split("```")[0]
    (tmp_path / "problem.json").write_text(readme_problem())
    answer = json.loads(run(capsys, "solve", tmp_path / "problem.json")[1])
    assert {**answer, "seconds": 0} == {**json.loads(shown), "seconds": 0}


@pytest.mark.parametrize("solver", ["highs", "auto", "decomposition"])
def test_answer_is_written(capsys: pytest.CaptureFixture[str], problem: Path, solver: str) -> None:
    target = problem.with_name("answer.json")
    status, out, _ = run(capsys, "solve", problem, "--solver", solver, "--time-limit", "30", "-o", target)
    assert status == 0
    assert out.startswith("optimal: objective 0, gap 0.0e+00,")
    assert str(target) in out
    assert json.loads(target.read_text())["objective"] == 0.0
    assert sorted(path.name for path in target.parent.iterdir()) == ["answer.json", "problem.json"]


def test_budgets_that_bind_together_are_noticed(capsys: pytest.CaptureFixture[str], problem: Path) -> None:
    terms = [{"choices": [name], "table": table} for name in "ab" for table in ([5, 2, 0], [1, 2, 3], [3, 6, 9])]
    budgets = [{"name": "x", "terms": [1, 5], "limit": 6}, {"name": "y", "terms": [2, 4], "limit": 6}]
    objective = {"sense": "min", "terms": [0, 3]}
    data = {"choices": {"a": 3, "b": 3}, "terms": terms, "objective": objective, "budgets": budgets}
    problem.write_text(json.dumps(data))
    status, out, err = run(capsys, "solve", problem)
    assert (status, err) == (0, "solved by HiGHS: 2 budgets bind together\n")
    assert (json.loads(out)["solver"], json.loads(out)["objective"]) == ("highs", 10.0)


def test_options_may_come_from_a_file(capsys: pytest.CaptureFixture[str], problem: Path) -> None:
    config = problem.with_name("mdp.toml")
    config.write_text('[solve]\nsolver = "highs"\n')
    status, out, _ = run(capsys, "solve", problem, "--config", config)
    assert (status, json.loads(out)["solver"]) == (0, "highs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--solver", "glpk"], "error: --solver glpk: choose from decomposition, highs"),
        (["--time-limit", "0"], "error: --time-limit 0: must be more than zero seconds"),
        (["--time-limit", "nan"], "error: --time-limit nan: must be more than zero seconds"),
        (["-o", "absent/answer.json"], "error: absent/answer.json: the folder absent does not exist"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    problem: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(problem.parent)
    status, out, err = run(capsys, "solve", "problem.json", *options)
    assert (status, out) == (1, "")
    assert err.startswith(message)
    assert len(err.strip().splitlines()) == 1


def test_malformed_program_names_file_field_and_place(capsys: pytest.CaptureFixture[str], problem: Path) -> None:
    data = program()
    data["terms"][4]["table"][1] = [2]
    problem.write_text(json.dumps(data))
    status, _, err = run(capsys, "solve", problem)
    assert status == 1
    assert err.strip() == f"error: {problem}: terms[4].table[1]: has 1 entries; b has 2 levels"
