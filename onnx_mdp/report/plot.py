"""Draws a frontier; the only home of matplotlib."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

from onnx_mdp.errors import OptionError
from onnx_mdp.report.frontier import Frontier

_SUFFIXES = (".svg", ".png", ".pdf")
_DAMAGE, _PARAMETERS = "#1f4e79", "#b0b0b0"


def check_plot(path: Path) -> None:
    """Fail early where a plot could not be drawn in the end; matplotlib is not imported.

    Raises:
        OptionError: the suffix is none that can be written, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise OptionError(f"--plot {path}: cannot be drawn; end the name with {', '.join(_SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise OptionError(f"--plot {path}: matplotlib is not installed: pip install 'onnx-mdp[plot]'")


def draw(found: Frontier, suffix: str) -> bytes:
    """The frontier as an image: damage over predicted latency, the share of parameters left behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    behind = axes.twinx()
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    ms = [point.predicted_ms for point in found.points]
    damage = [point.damage for point in found.points]
    left = [100 * point.parameters / max(found.parameters, 1) for point in found.points]
    behind.plot(ms, left, color=_PARAMETERS, marker=".", linestyle=":")
    behind.set_ylabel("parameters left, %", color="gray")
    behind.set_ylim(0, 105)
    deviations = [point.deviation_ms for point in found.points]
    axes.errorbar(ms, damage, xerr=deviations, color=_DAMAGE, marker="o", markersize=4, capsize=2)
    axes.axvline(found.dense_ms, color=_PARAMETERS, linewidth=1)
    axes.annotate("dense", (found.dense_ms, 0), textcoords="offset points", xytext=(-3, 3), ha="right", color="gray")
    for point in found.points:
        place = (point.predicted_ms, point.damage)
        axes.annotate(f"{100 * point.share:.0f}%", place, textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"predicted latency, ms (± one standard deviation)\n{found.device}", wrap=True)
    axes.set_ylabel("damage", color=_DAMAGE)
    axes.set_title(Path(found.model).name)
    image = io.BytesIO()
    figure.savefig(image, format=suffix.lstrip(".").lower(), dpi=150)
    return image.getvalue()
