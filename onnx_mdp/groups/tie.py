"""Groups that are asked to keep equally many units."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from onnx_mdp.errors import OptionError
from onnx_mdp.groups.find import Analysis, Group

Ties = tuple[tuple[Group, ...], ...]


def find_ties(analysis: Analysis, patterns: Iterable[str]) -> Ties:
    """The groups whose name matches each shell pattern; patterns that share a group are one tie.

    Raises:
        OptionError: a pattern matches fewer than two groups, or groups of different numbers of units.
    """
    ties: list[tuple[Group, ...]] = []
    for pattern in patterns:
        found = _matched(analysis, pattern)
        joined = [tie for tie in ties if set(tie) & set(found)]
        together = dict.fromkeys(group for tie in (*joined, found) for group in tie)
        _check_units(pattern, tuple(together))
        ties = [tie for tie in ties if tie not in joined] + [tuple(together)]
    return tuple(ties)


def _matched(analysis: Analysis, pattern: str) -> tuple[Group, ...]:
    found = tuple(group for group in analysis.groups if fnmatch.fnmatchcase(group.name, pattern))
    if not found:
        raise OptionError(f"--tie {pattern}: no group has such a name; onnx-mdp inspect lists them")
    if len(found) == 1:
        raise OptionError(f"--tie {pattern}: matches {found[0].name} alone; a tie needs two groups or more")
    return found


def _check_units(pattern: str, tie: tuple[Group, ...]) -> None:
    other = next((group for group in tie if group.units != tie[0].units), None)
    if other is not None:
        raise OptionError(
            f"--tie {pattern}: {tie[0].name} has {tie[0].units} units and {other.name} has {other.units}; "
            "tie groups of equal units, with one --tie for each width"
        )
