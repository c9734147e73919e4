"""The `onnx-mdp` command: arguments in, stages run, tables out; exit status 0, 1 (user can act) or 2 (wrong usage)."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cyclopts import App, CycloptsError
from cyclopts.config import Toml
from rich.console import Console

from onnx_mdp import __version__
from onnx_mdp.cli import lut
from onnx_mdp.cli.progress import RichListener
from onnx_mdp.config import (
    ApplyOptions,
    BenchOptions,
    ExplainOptions,
    InspectOptions,
    ProfileOptions,
    PruneOptions,
)
from onnx_mdp.errors import MdpError, OptionError
from onnx_mdp.finetune_config import FinetuneOptions
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.program_config import ParetoOptions, SolveOptions

_HELP = """Prune ONNX models to a latency budget: measured on this machine, solved to optimality, proven exact.

Typical use:

* `onnx-mdp inspect model.onnx` shows what can be cut, and what cannot and why.
* `onnx-mdp explain model.onnx layer.weight` shows why: what its axes are, and which nodes couple or lock them.
* `onnx-mdp profile model.onnx` shows where the time goes.
* `onnx-mdp prune model.onnx --latency 70% --inputs calibration.npz -o pruned.onnx` makes it fit.
* `onnx-mdp finetune pruned.onnx --dense model.onnx --inputs images.npz -o tuned.onnx` trains it.
* `onnx-mdp bench model.onnx pruned.onnx` compares the two.
* `onnx-mdp pareto model.onnx --from 90% --to 30%` shows what every latency costs.

Options can be kept in a TOML file with one table per command: `onnx-mdp prune model.onnx --config mdp.toml`.
"""

app = App(name="onnx-mdp", help=_HELP, help_format="markdown", version=__version__, suppress_keyboard_interrupt=False)
app.command(lut.app)


@app.command
def prune(model: Path, /, *, options: PruneOptions = PruneOptions(), config: Path | None = None) -> None:
    """Make a model meet a latency budget.

    Removes whole channels, heads, widths and residual blocks, chosen together so that the model measures within the
    budget on this machine and loses as little as possible. The result is a smaller dense ONNX model with the same
    inputs and outputs, proven equal to the original with the removed weights set to zero.

    Args:
        model: The ONNX model.
        config: TOML file with options, under [prune].
    """
    from onnx_mdp import pipeline
    from onnx_mdp.report.text import summary

    options = replace(options, output=options.output or _default_output(model))
    with _listener(quiet=options.quiet) as listener:
        result = pipeline.prune(model, options, listener=listener)
    if not options.quiet:
        _out().print(summary(result.report, str(options.output)))


@app.command
def inspect(model: Path, /, *, options: InspectOptions = InspectOptions(), config: Path | None = None) -> None:
    """Show the prunable groups and blocks of a model, and what is locked and why.

    Args:
        model: The ONNX model.
        config: TOML file with options, under [inspect].
    """
    from onnx_mdp import pipeline
    from onnx_mdp.report.text import anatomy

    found = pipeline.inspect(model, options)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _out().print(anatomy(found))


@app.command
def explain(
    model: Path,
    name: str | None = None,
    /,
    *,
    options: ExplainOptions = ExplainOptions(),
    config: Path | None = None,
) -> None:
    """Show why axes can or cannot be cut: what every operator does to them, or all about one name.

    Without a name, every node is listed with its operator's rule, one line of equations between axes, and the axes of
    what it computes. An axis is a group's name, `!16` for 16 units that may not be cut, a product `(a b)` or parts one
    after the other `[a + b]`.

    * `onnx-mdp explain model.onnx fc1.weight`: a tensor's axes, which nodes lock them and why, and the nodes around it.
    * `onnx-mdp explain model.onnx layers.0.attn.qkv/head`: the weights, tensors and integers that a group changes.
    * `onnx-mdp explain model.onnx patch`: every reason of a dimension that inspect lists as locked.

    Args:
        model: The ONNX model.
        name: A tensor, or a group or locked dimension as `inspect` names it.
        config: TOML file with options, under [explain].
    """
    from onnx_mdp import pipeline
    from onnx_mdp.report.explanation import explanation

    found = pipeline.explain(model, name, options)
    if options.json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print(explanation(found))


@app.command
def profile(model: Path, /, *, options: ProfileOptions = ProfileOptions(), config: Path | None = None) -> None:
    """Show where the time goes, and what narrower widths would save.

    Fills the latency table that `prune` plans with, so that pruning the model afterwards starts at once.

    * *regions*: what is timed together, and what halving all widths it depends on would save of its time;
    * *groups*: what halving one group alone would save everywhere;
    * *blocks*: what removing one would save.

    Args:
        model: The ONNX model.
        config: TOML file with options, under [profile].
    """
    from onnx_mdp.pipeline.profile import profile as run
    from onnx_mdp.report.profile import profiled

    with _listener(quiet=options.quiet or options.json) as listener:
        found = run(model, options, listener=listener)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        _out().print(profiled(found, options.top))


@app.command
def pareto(model: Path, /, *, options: ParetoOptions = ParetoOptions(), config: Path | None = None) -> None:
    """Show what every latency costs: the plans of least damage at many latencies.

    All are solved for from one latency table, which `prune` plans with too, and none is built or measured: latencies
    are predictions with their standard deviation. Nothing is written unless it is asked for. *Damage* is what a plan
    costs in the unit of `--importance`, 0 for the dense model.

    * `onnx-mdp pareto model.onnx --from 90% --to 30% --points 12 --plot frontier.svg`: evenly spaced latencies;
    * `onnx-mdp pareto model.onnx --damage-max 0.5`: the reverse, the fastest plan within a damage;
    * `onnx-mdp pareto model.onnx --plans plans`: a plan file for each point, `plans/01.json` for the slowest;
    * `onnx-mdp apply model.onnx plans/03.json` then cuts the model so, and `onnx-mdp prune model.onnx --latency 60%`
      finds the plan that measures within a latency.

    Args:
        model: The ONNX model.
        config: TOML file with options, under [pareto].
    """
    from onnx_mdp import pipeline
    from onnx_mdp.report.frontier import frontier_table

    with _listener(quiet=options.quiet or options.json) as listener:
        found = pipeline.pareto(model, options, listener=listener).frontier
    if options.json:
        print(json.dumps(found.to_json(), indent=1))
    elif not options.quiet:
        written = [str(path) for path in (options.plans, options.output, options.plot) if path]
        _out().print(frontier_table(found, written))


@app.command
def bench(model: Path, /, *others: Path, options: BenchOptions = BenchOptions(), config: Path | None = None) -> None:
    """Compare the latency of models, run in turn in one process.

    Args:
        model: The ONNX model that ratios are to.
        others: More ONNX models.
        config: TOML file with options, under [bench].
    """
    from onnx_mdp.pipeline.bench import bench as run
    from onnx_mdp.report.text import comparison

    rows = run((model, *others), options)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        _out().print(comparison(rows))
        for row in rows:
            if row.note:
                _err().print(f"{row.model}: {row.note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@app.command
def apply(model: Path, plan: Path, /, *, options: ApplyOptions = ApplyOptions(), config: Path | None = None) -> None:
    """Repeat the cut of a plan file, without measuring.

    Args:
        model: The ONNX model the plan was made for.
        plan: A plan file written by `prune --plan`.
        config: TOML file with options, under [apply].
    """
    from onnx_mdp import pipeline

    options = replace(options, output=options.output or _default_output(model))
    _, proof = pipeline.apply(model, plan, options)
    if not options.quiet:
        error = f"equals the masked original to {proof.max_relative_error:.1e}"
        if pipeline.approximates(plan):
            error += ", which takes statistics over the units that stay: the model's own function is approximated"
        _out().print(f"written: {options.output} ({error})", highlight=False, soft_wrap=True)


@app.command
def finetune(model: Path, /, *, options: FinetuneOptions = FinetuneOptions(), config: Path | None = None) -> None:
    """Train a cut model towards the outputs of the dense one; needs the extra `torch`.

    Labels are not needed. Weights are judged on inputs held out from training; if none are better than those given,
    the model is written as it was. Only values of weights change, and nothing else of the file.

    * `onnx-mdp finetune pruned.onnx --dense model.onnx --inputs images.npz --minutes 10 -o tuned.onnx`
    * `--resume` goes on where a run that was killed stopped.

    Args:
        model: The cut ONNX model.
        config: TOML file with options, under [finetune].
    """
    from onnx_mdp import pipeline
    from onnx_mdp.report.finetuned import finetuned

    options = replace(options, output=options.output or _default_output(model, "tuned"))
    with _listener(quiet=options.quiet) as listener:
        result = pipeline.finetune(model, options, listener=listener)
    if not options.quiet:
        _out().print(finetuned(result.report, str(options.output)), highlight=False, soft_wrap=True, markup=False)


@app.command
def solve(problem: Path, /, *, options: SolveOptions = SolveOptions(), config: Path | None = None) -> None:
    """Solve a program given as a file, to the proven optimum.

    The file names choices with a number of levels each, blocks that may be removed, and terms: tables over the levels
    of some choices. The objective and the budgets are sums of terms. A term counts its entry, and nothing if its block,
    or one that this is inside of, is removed. Levels and terms are numbered from 0.

        {"choices": {"a": 2}, "blocks": {"b": {"removable": true, "inside": null}},
         "terms": [{"choices": ["a"], "table": [3, 0], "block": null},
                   {"choices": ["a"], "table": [1, 2], "block": "b"}],
         "objective": {"sense": "min", "terms": [0]}, "budgets": [{"name": "ms", "terms": [1], "limit": 1.5}]}

    The answer is JSON: status, objective, proven bound, gap, levels, blocks (whether kept), budgets, solver, seconds.

    Args:
        problem: The JSON file.
        config: TOML file with options, under [solve].
    """
    from onnx_mdp.pipeline.solve import solve_file

    answer, notice = solve_file(problem, options)
    if notice:
        _err().print(notice, style="yellow", highlight=False, soft_wrap=True, markup=False)
    if options.output is None:
        print(json.dumps(answer, indent=1))
        return
    plan = "objective {objective:.9g}, gap {gap:.1e}" if answer["objective"] is not None else "no plan"
    text = ("{status}: " + plan + ", {seconds:.2g} s in {solver}").format(**answer)
    _out().print(f"{text}; written: {options.output}", highlight=False, soft_wrap=True, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app.config = _config(tokens)
        app(tokens, exit_on_error=False, print_error=True, error_console=_err(), result_action="return_value")
    except CycloptsError:
        return 2
    except MdpError as error:
        _err().print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        _err().print("interrupted; finished measurements are kept", style="yellow")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _config(tokens: list[str]) -> tuple[Toml, ...]:
    """The TOML file named by --config, if any; unknown keys in it are wrong usage."""
    for i, token in enumerate(tokens):
        name, _, value = token.partition("=")
        if name == "--config":
            path = Path(value or next(iter(tokens[i + 1 : i + 2]), ""))
            if not path.is_file():
                raise OptionError(f"--config {path}: no such file")
            return (Toml(path, must_exist=True),)
    return ()


def _default_output(model: Path, what: str = "pruned") -> Path:
    return Path(f"{model.stem}-{what}.onnx")


@contextlib.contextmanager
def _listener(*, quiet: bool) -> Iterator[Listener]:
    if quiet:
        yield Listener()
        return
    with RichListener(_err()) as listener:
        yield listener


def _out() -> Console:
    return Console()


def _err() -> Console:
    return Console(stderr=True)


if __name__ == "__main__":
    sys.exit(main())
