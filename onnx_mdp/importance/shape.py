"""The shape of a damage curve is the scorer's, a local error; its size is what was measured at a few widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnx_mdp.groups.find import Analysis, Group
from onnx_mdp.importance.base import Curve, Scores, Vector

_LEAST = 1e-12  # a measured damage below this is rounding
_EVEN = 1e-3
_POWERS = (0.5, 3.0)  # of a local error that a damage can plausibly grow with


def shapes(analysis: Analysis, scores: Scores, group: Group) -> list[Curve]:
    """The scorer's curves of a group; where it has none, every unit counts the same.

    No unit counts less than a thousandth of the mean: of units that a scorer finds to be nothing, a trial may measure
    a little more than that, and a curve through it would multiply it beyond measure for all others.
    """
    even = np.linspace(1.0, 0.0, group.units + 1)
    found = [curve for curve in scores.curves if curve.group == group.name and curve.damage[0] > 0]
    if not found:
        return [Curve(group.name, analysis.homes.get(group.name), even)]
    return [replace(curve, damage=curve.damage + _EVEN * curve.damage[0] * even) for curve in found]


def scaled(curves: list[Curve], points: Mapping[int, float], most: float) -> list[Curve]:
    """The curves such that their sum is a c^p through the measured points, and beyond them at most `most`."""
    total = np.sum([curve.damage for curve in curves], axis=0)
    share = [curve.damage / np.maximum(total, _LEAST) for curve in curves]
    damage = _through(total, points, most)
    return [replace(curve, damage=damage * part) for curve, part in zip(curves, share, strict=True)]


def _through(total: Vector, points: Mapping[int, float], most: float) -> Vector:
    """Damage at each width: a power of the local error through the points, monotone, by straight lines in log space.

    With one point it is proportional to the local error: both are of second order in a small change.
    """
    error = np.maximum(total, _LEAST)
    widths = sorted(points, reverse=True)  # from little damage to much
    if not widths:
        return np.zeros_like(total)
    x = np.log([error[width] for width in widths])
    y = np.log(np.maximum.accumulate([max(points[width], _LEAST) for width in widths]))
    power = 1.0
    if len(x) > 1 and x[-1] > x[0]:
        power = float(np.clip((y[-1] - y[0]) / (x[-1] - x[0]), *_POWERS))
    at = np.log(error)
    line = np.interp(at, x, y) + power * (np.minimum(at - x[0], 0) + np.maximum(at - x[-1], 0))
    damage: Vector = np.exp(line)
    worst = np.exp(y[-1])
    beyond = np.arange(len(total)) < widths[-1]
    damage[beyond] = np.minimum(damage[beyond], max(most, worst))
    damage[total <= _LEAST] = 0.0
    return damage
