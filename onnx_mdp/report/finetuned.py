"""What `finetune` did, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def finetuned(report: Mapping[str, Any], path: str) -> str:
    """A few lines: what became of the outputs, of which weights, and how long it took."""
    before, after, count = report["before"], report["after"], report["held_out"]
    lines = [f"{report['unit']} {before['divergence']:.3g} became {after['divergence']:.3g} on {count} held-out inputs"]
    if after["accuracy"] is not None:
        right = f"{100 * before['accuracy']:.1f}% became {100 * after['accuracy']:.1f}%"
        lines.append(f"accuracy: {right} (top-1 on {count} held-out inputs)")
    ended = f"; ended by {report['ended']}" if report["ended"] else ""
    lines.append(f"trained: {report['epochs']} epochs, {report['steps']} steps{ended}; {_chosen(report)}")
    lines += [f"time: {sum(report['seconds'].values()):.1f} s", f"written: {path}"]
    return "\n".join(lines)


def _chosen(report: Mapping[str, Any]) -> str:
    if not report["kept"]:
        return "the weights are those given"
    return f"the weights are {'the average' if report['averaged'] else 'those'} of epoch {report['epoch']}"
