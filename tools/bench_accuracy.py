"""Accuracy without training: top-1 of real models pruned to latency budgets, beside what others reached.

    python tools/bench_accuracy.py                                          # the default, four models, six budgets
    python tools/bench_accuracy.py resnet56 --budgets 73,50 --variants all  # what each part is worth
    python tools/bench_accuracy.py resnet20 --samples 0,64,256,1000         # what inputs are worth; 0 is none

Models and labelled images are expected in ../shared/real, calibration images are none of the labelled ones, and the
figures of others are read from ../shared/evidence/accuracy.md: the best peer at most as slow, and the prototype
on a line between its points at the latency that ours has. Rows that the JSON file holds are not run again: delete it to
start anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from accuracy.evidence import Evidence, read_evidence
from accuracy.sweep import VARIANTS, Row, Sweep
from rich.console import Console

from onnx_mdp.report.text import table

TOOLS = Path(__file__).resolve().parent
SHARED = TOOLS.parent.parent / "shared"
MODELS = ("resnet20", "resnet56", "mobilenet_v2", "vit_tiny")
BUDGETS = "90,83,73,60,50,40"
_AVAILABLE = {"imagenet": 500, "cifar10": 5000}  # calibration images of ../shared/real
_COLUMNS = (
    "model",
    "variant",
    "inputs",
    "asked",
    "blocks",
    "latency",
    "top-1",
    "prototype",
    "peer",
    "before",
    "after",
    "score s",
    "recover s",
    "MB",
)


def sweeps(options: argparse.Namespace, done: Sequence[Row]) -> Iterator[Sweep]:
    """What is to be run: one sweep per model, variant and number of inputs, of the budgets that are not done."""
    import real

    known = {row.key for row in done}
    for model, variant, samples in product(options.models, options.variants, options.samples):
        count = min(samples, _AVAILABLE[real.MODELS[model].data])
        left = tuple(b for b in options.budgets if (model, variant, count, b) not in known)
        known |= {(model, variant, count, budget) for budget in left}
        if left:
            yield Sweep(model, variant, count, left, str(options.lut), options.precision)


def rows_of(sweep: Sweep) -> Iterator[Row]:
    """The rows of a sweep as they come, from a process of its own: memory is counted there."""
    asked = {**asdict(sweep), "real": str(SHARED / "real")}
    folders = os.pathsep.join([str(TOOLS.parent), str(TOOLS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "accuracy.sweep", json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": folders}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            yield Row(**json.loads(line))
    if process.returncode:
        print(f"{sweep.model} {sweep.variant}: ended with status {process.returncode}", file=sys.stderr)


def shown(row: Row, evidence: Mapping[str, Evidence]) -> tuple[str, ...]:
    """A row of the table."""
    known = evidence.get(row.model)
    if row.ratio is None or row.top1 is None:
        return (row.model, row.variant, str(row.samples), f"{row.budget} %", "", row.reason, *[""] * 8)
    prototype = known.prototype(row.ratio) if known else None
    peer = known.peer(row.ratio) if known else None
    return (
        row.model,
        row.variant,
        str(row.samples),
        f"{row.budget} %",
        str(row.removed),
        f"{row.ratio:.3f}",
        f"{100 * row.top1:.2f}",
        _number(prototype, ".2f"),
        f"{peer.top1:.2f}" if peer else "-",
        _number(row.before, ".3g"),
        _number(row.after, ".3g"),
        _number(row.score_s, ".0f"),
        _number(row.recover_s, ".0f"),
        _number(row.memory_mb, ".0f"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with lists where they are lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="names of ../shared/real")
    parser.add_argument("--budgets", type=_numbers, default=BUDGETS, help=f"percent of dense latency; {BUDGETS}")
    parser.add_argument("--variants", default="default", help=f"all, or some of: {', '.join(VARIANTS)}")
    parser.add_argument("--samples", type=_numbers, default="512", help="calibration inputs; 0 is none")
    parser.add_argument("--json", type=Path, default=Path("bench_accuracy.json"), help="rows done, and to be done")
    parser.add_argument("--lut", type=Path, default=Path("bench_accuracy.sqlite"), help="latency table of all runs")
    parser.add_argument("--precision", default="2%", help="of latencies; comparisons end sooner where it is coarser")
    options = parser.parse_args(arguments)
    asked = [name.strip() for name in options.variants.split(",")]
    options.variants = list(VARIANTS) if asked == ["all"] else asked
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"--variants {', '.join(sorted(unknown))}: choose from {', '.join(VARIANTS)}, or all")
    if "taylor" in options.variants and find_spec("torch") is None:
        print("taylor is left out: PyTorch is not installed: pip install 'onnx-mdp[torch]'", file=sys.stderr)
        options.variants.remove("taylor")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and print the table of all that is asked for."""
    options = parse(arguments)
    sys.path.append(str(SHARED / "real"))
    evidence = read_evidence(SHARED / "evidence" / "accuracy.md")
    rows = [Row(**row) for row in json.loads(options.json.read_text())] if options.json.exists() else []
    for sweep in sweeps(options, list(rows)):
        for row in rows_of(sweep):
            rows.append(row)
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
            print(*shown(row, evidence), file=sys.stderr, flush=True)
    asked = [row for row in rows if row.model in options.models and row.variant in options.variants]
    Console(width=150).print(table("", _COLUMNS, (shown(row, evidence) for row in asked), numbers=11))


if __name__ == "__main__":
    main()
