"""What the program reaches on a collection of exported architectures: half of every group cut, and proven exact.

    python tools/bench_coverage.py                             # all models, two at a time
    python tools/bench_coverage.py resnet 'hf_*__D18'          # names with "resnet" in them, and by shell pattern
    python tools/bench_coverage.py --json all.json --markdown summary.md

Every model is filled with seeded weights and analyzed; half of the units of every group go at random, then random
blocks as well; both results must equal the zero-masked original. A comparison that could not fail counts as a failure
(see `tools/coverage/proof.py`). Exit status 1 and a list where a model fails, leaves more parameters than its family
may (`tools/coverage/families.py`), has attention whose heads and widths stay whole, or takes the analysis 5 s of CPU
time or 4 times the model's size of memory (plus 1 MiB, before streams are opened; see `tools/coverage/memory.py`).

The models are expected in ../shared/zoo/open.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from coverage import summary, zoo
from coverage.pool import examine_all
from coverage.record import Record
from coverage.worker import examine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from onnx_mdp.report.text import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the models and print what was found; the exit status."""
    options = _options(arguments)
    if options.worker:
        print(json.dumps(examine(options.worker).as_json()))
        return 0
    files = zoo.model_files(options.zoo, options.patterns)
    if not files:
        print(f"no models in {options.zoo} have a name like {' '.join(options.patterns) or '*.onnx'}", file=sys.stderr)
        return 2
    records = sorted(_examined(files, options.jobs), key=lambda record: record.model)
    broken = summary.violations(records)
    _print(records, broken)
    if options.json:
        options.json.write_text(json.dumps([record.as_json() for record in records], indent=1))
    if options.markdown:
        options.markdown.write_text(summary.markdown(records))
    return 1 if broken else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", help="parts of names, or shell patterns; all models by default")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each (2)")
    parser.add_argument("--json", type=Path, help="where to write everything that was recorded")
    parser.add_argument("--markdown", type=Path, help="where to write the summary by family")
    parser.add_argument("--zoo", type=Path, default=zoo.DEFAULT, help=f"folder of models ({zoo.DEFAULT})")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _examined(files: Sequence[Path], jobs: int) -> list[Record]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    records = []
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(files))
        for record in examine_all(Path(__file__).resolve(), files, jobs):
            records.append(record)
            progress.update(task, advance=1, description=f"{record.model}: {record.outcome}")
            if not console.is_terminal:
                print(record.model, record.verdict, file=sys.stderr, flush=True)
    return records


def _print(records: Sequence[Record], broken: Sequence[str]) -> None:
    console = Console(width=190)
    console.print(table("", summary.COLUMNS, map(summary.row, records), numbers=10))
    console.print(table("by family", summary.FAMILY_COLUMNS, summary.family_rows(records), numbers=8))
    for line in broken:
        console.print(line, highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
