"""Prints top-1 of models on the bundled labelled test images.

python tools/evaluate.py a.onnx b.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

DATA = Path(__file__).resolve().parent.parent / "models" / "digits_test.npz"


def top1(model: str) -> float:
    """Share of test images whose largest logit is the label's."""
    with np.load(DATA) as data:
        images, labels = data["input"], data["labels"]
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: images})[0]
    return float((logits.argmax(1) == labels).mean())


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(f"{path}: top-1 {100 * top1(path):.1f} %")
