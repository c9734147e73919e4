"""Plans of doubtful damage are searched for, and held-out inputs decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import onnx_mdp
from onnx_mdp.importance.base import Curve, Scores
from onnx_mdp.pipeline.candidates import lighter
from onnx_mdp.pipeline.listener import Listener

MODELS = Path(__file__).parents[2] / "models"


def test_only_streams_count_less() -> None:
    damage = np.array([1.0, 0.5, 0.0])
    scores = Scores({}, (Curve("stream", None, damage), Curve("fc", None, damage)), {"block": 1.0})
    found = lighter(scores, ["stream"], 0.5)
    assert [curve.damage.tolist() for curve in found.curves] == [[0.5, 0.25, 0.0], [1.0, 0.5, 0.0]]
    assert found.removal == scores.removal


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
    assert found.report.latency.ratio <= 0.404
