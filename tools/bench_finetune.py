"""Fine-tuning on a CPU: top-1 of CIFAR-10 models after the cut, after recovery, and after minutes of training.

    python tools/bench_finetune.py                                   # four models at 50 % and 35 % of their latency
    python tools/bench_finetune.py resnet20 --budgets 50 --minutes 1
    python tools/bench_finetune.py resnet20 --augment flip,shift     # images changed each time

Models and images are expected in ../shared/real. Plans are made and weights recovered with 512 of the training images,
training has 5,000, a tenth of them held out; labels are not used. Top-1 is over all evaluation images, which nothing
else sees. The cut without recovery is the same plan's. Rows that the JSON file holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from rich.console import Console

import onnx_mdp
from onnx_mdp.config import PruneOptions
from onnx_mdp.report.text import table

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
MODELS = ("resnet20", "resnet56", "mlperf_resnet8", "cifar_vit")
CALIBRATION, TRAINING = 512, 5000
_COLUMNS = (
    "model",
    "asked",
    "minutes",
    "latency",
    "dense",
    "cut",
    "recovered",
    "tuned",
    "KL before",
    "after",
    "epochs",
)


@dataclass(frozen=True)
class Row:
    """One model at one budget: latency as a share of the dense model's, top-1 as shares; divergence is held out."""

    model: str
    budget: int
    minutes: float
    augment: str
    ratio: float
    dense: float
    cut: float
    recovered: float
    tuned: float
    before: float
    after: float
    epochs: int
    epoch: int
    averaged: bool
    seconds: float

    @property
    def key(self) -> tuple[str, int, float, str]:
        """What makes it one row."""
        return self.model, self.budget, self.minutes, self.augment


def run(model: str, budget: int, options: argparse.Namespace) -> Row:
    """Prune, fine-tune, and count."""
    import real

    path = real.path(model)
    name = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "plan.json")
        asked = PruneOptions(latency=f"{budget}%", lut=options.lut, plan=plan)
        pruned = onnx_mdp.prune(path, asked, inputs={name: real.calibration(model, CALIBRATION)})
        cut, _ = onnx_mdp.apply(path, plan)
    given = {"augment": tuple(filter(None, options.augment.split(","))), "minutes": options.minutes, "threads": 1}
    images = {name: real.calibration(model, TRAINING)}
    tuned = onnx_mdp.finetune(pruned.model, dense=path, inputs=images, **given)
    report = tuned.report
    return Row(
        model,
        budget,
        options.minutes,
        options.augment,
        ratio=pruned.report.latency.ratio,
        dense=real.top1(path, model, threads=1),
        cut=_top1(cut, model),
        recovered=_top1(pruned.model, model),
        tuned=_top1(tuned.model, model),
        before=report["before"]["divergence"],
        after=report["after"]["divergence"],
        **{name: report[name] for name in ("epochs", "epoch", "averaged")},
        seconds=report["seconds"]["fine-tune"],
    )


def _top1(model: onnx.ModelProto, name: str) -> float:
    import real

    return float(real.top1(model.SerializeToString(), name, threads=1))


def shown(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    accuracies = (f"{100 * value:.2f}" for value in (row.dense, row.cut, row.recovered, row.tuned))
    divergences = (f"{value:.3g}" for value in (row.before, row.after))
    first = (row.model, f"{row.budget} % {row.augment}".strip(), f"{row.minutes:g}", f"{row.ratio:.3f}")
    return (*first, *accuracies, *divergences, str(row.epochs))


def missing(options: argparse.Namespace, rows: Sequence[Row]) -> Iterator[tuple[str, int]]:
    """The models and budgets that are asked for and not done."""
    done = {row.key for row in rows}
    for model, budget in product(options.models, options.budgets):
        if (model, budget, options.minutes, options.augment) not in done:
            yield model, budget


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="names of ../shared/real, of CIFAR-10")
    parser.add_argument("--budgets", type=_numbers, default="50,35", help="percent of dense latency; 50,35")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training for each; 3")
    parser.add_argument("--augment", default="", help="flip, shift, or flip,shift")
    parser.add_argument("--json", type=Path, default=Path("bench_finetune.json"), help="rows done, and to be done")
    parser.add_argument("--lut", type=Path, default=Path("bench_finetune.sqlite"), help="latency table of all runs")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and print the table of all that is asked for."""
    options = parse(arguments)
    sys.path.append(str(SHARED / "real"))
    found: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    rows = [Row(**row) for row in found]
    for model, budget in missing(options, list(rows)):
        rows.append(run(model, budget, options))
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(*shown(rows[-1]), file=sys.stderr, flush=True)
    asked = [row for row in rows if row.model in options.models and row.budget in options.budgets]
    Console(width=120).print(table("", _COLUMNS, map(shown, asked), numbers=10))


if __name__ == "__main__":
    main()
