"""Programs as JSON: the format that `onnx-mdp solve` reads, and its answers.

    {"choices": {name: number of levels}, "allowed": {name: [levels]},
     "blocks": {name: {"removable": bool, "inside": name or null}},
     "terms": [{"choices": [names], "table": nested list over their levels, "block": name or null}],
     "objective": {"sense": "min" or "max", "terms": [indices]},
     "budgets": [{"name": name, "terms": [indices], "limit": number}]}

Levels count from 0. `allowed`, `blocks` and `budgets` may be left out, and so may a block's `removable` (true)
and `inside`, and a term's `choices` and `block`. A block that is not removable goes only with the blocks around it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.errors import ProblemError
from onnx_mdp.solve.problem import Answer, Budget, Choice, Gate, Problem, Term, value
from onnx_mdp.solve.validate import check_problem

_FIELDS = {"choices", "allowed", "blocks", "terms", "objective", "budgets"}


@dataclass(frozen=True, eq=False)
class ProblemFile:
    """A program as it was written, and as it is solved.

    `levels` are the allowed levels of each choice, `blocks` maps every block to the removable one whose removal takes
    it along (None where none does), `sign` is -1 where the objective is to be maximized.
    """

    problem: Problem
    levels: Mapping[str, tuple[int, ...]]
    blocks: Mapping[str, str | None]
    sign: float

    def answer(self, answer: Answer) -> dict[str, Any]:
        """An answer in the terms of the file. What is not known, as a plan that does not exist, is None."""
        levels, opened = answer.levels, answer.kept
        blocks, budgets = (self.blocks, self.problem.budgets) if answer.has_plan else ({}, ())
        return {
            "status": str(answer.status),
            "objective": _finite(self.sign * answer.objective),
            "bound": _finite(self.sign * answer.bound),
            "gap": _finite(answer.gap),
            "levels": {name: self.levels[name][level] for name, level in levels.items()},
            "blocks": {name: gate is None or opened[gate] for name, gate in blocks.items()},
            "budgets": {budget.name: value(budget.terms, levels, opened) for budget in budgets},
            "solver": answer.solver,
            "seconds": round(answer.seconds, 6),
        }


def read_problem(path: Path) -> ProblemFile:
    """Read a program from a file.

    Raises:
        ProblemError: it cannot be read, is no JSON, or malformed; the message names the field and the place.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ProblemError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{path}: not JSON ({error})") from error
    try:
        return parse_problem(data)
    except ProblemError as error:
        raise ProblemError(f"{path}: {error}") from error


def parse_problem(data: object) -> ProblemFile:
    """A program from decoded JSON.

    Raises:
        ProblemError: it is malformed; the message names the field and the place.
    """
    fields = _object(data, "the program", _FIELDS, required={"choices", "terms", "objective"})
    counts = {name: _count(n, f"choices.{name}") for name, n in _object(fields["choices"], "choices").items()}
    levels = _allowed(_object(fields.get("allowed", {}), "allowed"), counts)
    blocks, gates = _blocks(_object(fields.get("blocks", {}), "blocks"))
    terms = [
        _term(item, f"terms[{i}]", counts, levels, blocks) for i, item in enumerate(_list(fields["terms"], "terms"))
    ]
    sign, objective = _objective(fields["objective"], terms)
    budgets = tuple(
        _budget(item, f"budgets[{i}]", terms) for i, item in enumerate(_list(fields.get("budgets", []), "budgets"))
    )
    choices = tuple(Choice(name, tuple(range(len(kept)))) for name, kept in levels.items())
    problem = Problem(choices, gates, (), objective, budgets)
    check_problem(problem)
    return ProblemFile(problem, levels, blocks, sign)


def _allowed(allowed: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    levels = {name: tuple(range(count)) for name, count in counts.items()}
    for name, given in allowed.items():
        where = f"allowed.{name}"
        if name not in counts:
            raise ProblemError(f"{where}: there is no choice {name}")
        kept = [_index(level, f"{where}[{i}]", counts[name], "level") for i, level in enumerate(_list(given, where))]
        if not kept:
            raise ProblemError(f"{where}: allows no level; give at least one, or leave it out to allow all")
        levels[name] = tuple(sorted(set(kept)))
    return levels


def _blocks(blocks: Mapping[str, Any]) -> tuple[dict[str, str | None], tuple[Gate, ...]]:
    """The removable block that takes each block along, and the removable blocks."""
    removable: dict[str, bool] = {}
    inside: dict[str, str | None] = {}
    for name, given in blocks.items():
        where = f"blocks.{name}"
        block = _object(given, where, {"removable", "inside"})
        removable[name], inside[name] = block.get("removable", True), block.get("inside")
        if not isinstance(removable[name], bool):
            raise ProblemError(f"{where}.removable: {_shown(removable[name])} is neither true nor false")
        _check_block(inside[name], f"{where}.inside", blocks)
    takes = {name: _taken_by(name, removable, inside) for name in blocks}
    around = {name: None if outer is None else takes[outer] for name, outer in inside.items()}
    return takes, tuple(Gate(name, around[name]) for name in blocks if removable[name])


def _check_block(given: object, where: str, blocks: Mapping[str, Any]) -> None:
    if given is not None and (not isinstance(given, str) or given not in blocks):
        raise ProblemError(f"{where}: there is no block {_shown(given)}")


def _taken_by(name: str, removable: Mapping[str, bool], inside: Mapping[str, str | None]) -> str | None:
    """The innermost removable block at or around a block."""
    path, at = [name], inside[name]
    while at is not None:
        if at in path:
            raise ProblemError(f"blocks.{name}.inside: the block lies inside itself; blocks must nest")
        path.append(at)
        at = inside[at]
    return next((block for block in path if removable[block]), None)


def _term(
    given: object,
    where: str,
    counts: Mapping[str, int],
    levels: Mapping[str, tuple[int, ...]],
    blocks: Mapping[str, str | None],
) -> Term:
    term = _object(given, where, {"choices", "table", "block"}, required={"table"})
    names = _list(term.get("choices", []), f"{where}.choices")
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in counts:
            raise ProblemError(f"{where}.choices[{i}]: there is no choice {_shown(name)}")
    table = _table(term["table"], f"{where}.table", [(name, counts[name]) for name in names])
    for axis, name in enumerate(names):
        table = np.take(table, levels[name], axis=axis)
    block = term.get("block")
    _check_block(block, f"{where}.block", blocks)
    return Term(tuple(names), table, None if block is None else blocks[block])


def _table(given: object, where: str, axes: Sequence[tuple[str, int]]) -> NDArray[np.float64]:
    """A nested list as an array; every list must be as long as its choice has levels."""
    if not axes:
        return np.array(_number(given, where))
    (name, count), inner = axes[0], axes[1:]
    if not isinstance(given, list):
        raise ProblemError(f"{where}: is {_shown(given)}; give a list over the {count} levels of {name}")
    if len(given) != count:
        raise ProblemError(f"{where}: has {len(given)} entries; {name} has {count} levels")
    if not inner:
        return np.array([_number(entry, f"{where}[{i}]") for i, entry in enumerate(given)])
    return np.stack([_table(row, f"{where}[{i}]", inner) for i, row in enumerate(given)])


def _objective(given: object, terms: Sequence[Term]) -> tuple[float, tuple[Term, ...]]:
    objective = _object(given, "objective", {"sense", "terms"}, required={"sense", "terms"})
    if objective["sense"] not in ("min", "max"):
        raise ProblemError(f"objective.sense: {_shown(objective['sense'])} is neither min nor max")
    sign = 1.0 if objective["sense"] == "min" else -1.0
    picked = _picked(objective["terms"], "objective.terms", terms)
    return sign, tuple(Term(term.choices, sign * term.table, term.gate) for term in picked)


def _budget(given: object, where: str, terms: Sequence[Term]) -> Budget:
    budget = _object(given, where, {"name", "terms", "limit"}, required={"name", "terms", "limit"})
    if not isinstance(budget["name"], str):
        raise ProblemError(f"{where}.name: {_shown(budget['name'])} is not a text")
    limit = _number(budget["limit"], f"{where}.limit")
    return Budget(budget["name"], _picked(budget["terms"], f"{where}.terms", terms), limit)


def _picked(given: object, where: str, terms: Sequence[Term]) -> tuple[Term, ...]:
    spots = enumerate(_list(given, where))
    return tuple(terms[_index(item, f"{where}[{i}]", len(terms), "term")] for i, item in spots)


def _object(
    given: object, where: str, known: set[str] | None = None, required: set[str] | None = None
) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ProblemError(f"{where}: is {_shown(given)}; give an object in braces")
    for name in given:
        if known is not None and name not in known:
            raise ProblemError(f"{where}: has no field {name}; its fields are {', '.join(sorted(known))}")
    if missing := sorted((required or set()) - given.keys()):
        raise ProblemError(f"{where}: lacks {', '.join(missing)}")
    return given


def _list(given: object, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise ProblemError(f"{where}: is {_shown(given)}; give a list in brackets")
    return given


def _count(given: object, where: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ProblemError(f"{where}: {_shown(given)} is not a number of levels; give a whole number from 1")
    return given


def _index(given: object, where: str, count: int, kind: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < count:
        raise ProblemError(f"{where}: there is no {kind} {_shown(given)}; they are numbered from 0 to {count - 1}")
    return given


def _number(given: object, where: str) -> float:
    if not isinstance(given, int | float) or isinstance(given, bool):
        raise ProblemError(f"{where}: {_shown(given)} is not a number")
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProblemError(f"{where}: {_shown(given)} is not a finite number")
    return number


def _shown(given: object) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(given)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _finite(number: float) -> float | None:
    return number + 0.0 if math.isfinite(number) else None  # + 0.0 makes -0.0 a plain zero
