"""Prunes real models to 70 % of their latency and to half their units, with accuracy before and after.

    python tools/bench_real.py                        # all models, writes bench_real.json
    python tools/bench_real.py resnet20 digits_vit    # some of them

The real models and labelled images are expected in ../shared/real (see its real.py); the bundled ones are in models/.
Accuracy is top-1 on evaluation images; calibration images never overlap them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console

import onnx_mdp
from onnx_mdp.report.text import table

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "real"
BUNDLED = ("digits_cnn", "digits_vit")
MODELS = ("resnet20", "resnet56", "mobilenet_v2", "vit_tiny", "cifar_vit", "resnet50_probe", "yolox_nano", *BUNDLED)
CALIBRATION = 64


@dataclass(frozen=True)
class Row:
    """One run: latency and parameters left, top-1 before and after (None without labels), proof error, seconds."""

    model: str
    asked: str
    importance: str
    dense_ms: float
    pruned_ms: float
    ratio: float
    rounds: int
    parameters: float
    removed_blocks: int
    dense_top1: float | None
    top1: float | None
    proof: float
    seconds: float
    reason: str


def source(name: str) -> tuple[Path, dict[str, np.ndarray] | None]:
    """A model's file and calibration inputs; None where there are no images for it."""
    if name in BUNDLED:
        with np.load(ROOT / "models" / "digits_calibration.npz") as data:
            return ROOT / "models" / f"{name}.onnx", {"input": data["input"][:CALIBRATION]}
    import real

    path = real.path(name)
    if real.MODELS[name].data == "none":
        return path, None
    feed = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    return path, {feed: real.calibration(name, CALIBRATION)}


def top1(name: str, model: bytes | str) -> float | None:
    """Share of evaluation images whose largest logit is the label's."""
    if name in BUNDLED:
        with np.load(ROOT / "models" / "digits_test.npz") as data:
            session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
            logits = session.run(None, {"input": data["input"]})[0]
            return float((logits.argmax(1) == data["labels"]).mean())
    import real

    return None if real.MODELS[name].data == "none" else float(real.top1(model, name))


def run(name: str, asked: dict[str, Any], lut: Path, dense: float | None) -> Row:
    """Prune one model and evaluate it."""
    path, inputs = source(name)
    started = time.perf_counter()
    result = onnx_mdp.prune(path, inputs=inputs, lut=lut, threads=1, **asked)
    seconds = time.perf_counter() - started
    report = result.report
    return Row(
        model=name,
        asked=" ".join(f"{key} {value}" for key, value in asked.items()),
        importance="activation" if inputs else "magnitude",
        dense_ms=report.latency.dense_ms,
        pruned_ms=report.latency.pruned_ms,
        ratio=report.latency.ratio,
        rounds=report.latency.rounds,
        parameters=report.parameters["pruned"] / report.parameters["dense"],
        removed_blocks=sum(block["removed"] for block in report.blocks),
        dense_top1=dense,
        top1=top1(name, result.model.SerializeToString()),
        proof=report.proof["max_relative_error"],
        seconds=seconds,
        reason=report.reason,
    )


def shown(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    percent = ["-" if value is None else f"{100 * value:.1f}" for value in (row.dense_top1, row.top1)]
    return (
        row.model,
        row.asked,
        f"{row.dense_ms:.2f}",
        f"{row.pruned_ms:.2f}",
        f"{row.ratio:.3f}",
        str(row.rounds),
        f"{100 * row.parameters:.0f} %",
        str(row.removed_blocks),
        *percent,
        f"{row.proof:.0e}",
        f"{row.seconds:.0f}",
    )


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--json", type=Path, default=Path("bench_real.json"), help="where to write the figures")
    parser.add_argument("--lut", type=Path, help="latency table file; an empty one by default")
    options = parser.parse_args()
    if REAL.is_dir():
        sys.path.insert(0, str(REAL))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        lut = options.lut or Path(folder) / "lut.sqlite"
        for name in options.models:
            dense = top1(name, str(source(name)[0]))
            for asked in ({"latency": "70%"}, {"ratio": "50%"}):
                rows.append(run(name, asked, lut, dense))
                print(*shown(rows[-1]), rows[-1].reason, flush=True)
    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    columns = (
        "model",
        "asked",
        "dense ms",
        "ms",
        "ratio",
        "rounds",
        "params",
        "blocks",
        "top-1",
        "after",
        "proof",
        "s",
    )
    Console(width=140).print(table("", columns, map(shown, rows), numbers=10))


if __name__ == "__main__":
    main()
