"""Readable tables of what a command found or did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_mdp.quantities import metric_text
from onnx_mdp.report.facts import Report

_MOST_CUT = 8
_MOST_LOCKING = 10


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> Table:
    """A plain table; the last `numbers` columns are right-aligned."""
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        result.add_column(column, justify="right" if i >= len(columns) - numbers else "left", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def summary(report: Report, path: str) -> RenderableType:
    """What `prune` did."""
    latency, parameters, size = report.latency, report.parameters, report.bytes
    rows = [
        ("latency", _ms(latency.dense_ms), _ms(latency.pruned_ms), _percent(latency.ratio)),
        ("parameters", f"{parameters['dense']:,}", f"{parameters['pruned']:,}", _share(parameters)),
        ("size", _bytes(size["dense"]), _bytes(size["pruned"]), _share(size)),
    ]
    main = table("", ("", "dense", "pruned", "left"), rows, numbers=3)
    lines = [
        f"budget: {_budget(report)}",
        *map(_limit, report.limits),
        *map(_also, report.also),
        f"device: {report.device}",
    ]
    lines += _lossless(report.lossless)
    lines += _recovered(report.recovery)
    lines += _accuracy(report.accuracy)
    removed = [block["name"] for block in report.blocks if block["removed"]]
    lines.append(f"removed blocks: {len(removed)} of {len(report.blocks)}{': ' if removed else ''}{_few(removed)}")
    lines.append(
        f"proof: equals the masked original to {report.proof['max_relative_error']:.1e} "
        f"(allowed {report.proof['tolerance']:g}) on {report.proof['input_sets']} input sets"
    )
    lines += _approximated(report.approximation)
    if report.lut:
        asked = report.lut["measured"] + report.lut["reused"]
        reused = f"{100 * report.lut['reused'] / max(asked, 1):.0f}%"
        lines.append(f"latency table: {asked} entries, {reused} of them known before")
    if report.solve:
        solve = report.solve
        damage = f"damage {solve.objective:.3g} {solve.unit}"
        lines.append(f"program: {solve.status}, {damage}, gap {solve.gap:.1e}, {solve.seconds:.1f} s in {solve.solver}")
    lines.append(f"time: {sum(report.seconds.values()):.1f} s")
    parts: list[RenderableType] = [main, Text("\n".join(lines))]
    if cut := _most_cut(report.groups):
        parts.append(table("\nmost cut groups", ("group", "kind", "units", "kept"), cut, numbers=2))
    parts.append(Text(f"written: {path}"))
    return Group(*parts)


def _budget(report: Report) -> str:
    latency = report.latency
    if report.options.get("max_drop") is not None:
        plans = f"{len(report.steps)} plan{'s' * (len(report.steps) != 1)}"
        return f"{report.budget}, the fastest within it of {plans} measured"
    if latency.budget_ms is None:
        return f"{report.budget} (a uniform cut, no budget)"
    used = latency.pruned_ms / latency.budget_ms
    rounds = f"{latency.rounds} round{'s' * (latency.rounds != 1)}"
    predicted = ""
    if latency.predicted_ms and latency.deviation_ms:
        predicted = f", predicted {latency.predicted_ms:.3g} ± {_ms(latency.deviation_ms)}"
    return f"{report.budget} = {_ms(latency.budget_ms)}, used {_percent(used)} after {rounds}{predicted}"


def _limit(limit: dict[str, Any]) -> str:
    most, used = limit["most"], limit["used"]
    share = f" ({_percent(used / most)})" if most else ""
    return f"limit: {limit['option']} = {most:,.0f}, used {used:,.0f}{share}"


def _lossless(found: Mapping[str, Any]) -> list[str]:
    """What was rewritten before anything was cut."""
    saved, total = found.get("macs_saved", 0), found.get("macs_total", 0)
    share = f"{_count(abs(saved))} of {_count(total)} MACs ({_percent(abs(saved) / max(total, 1))})"
    made = []
    if moved := found.get("moved"):
        moves = _few([f"{one['name']} before {one['operators']} operators" for one in moved])
        made.append(f"moved {moves}")
    if convolved := found.get("convolved"):
        made.append(f"shortcuts as convolutions: {_few([one['name'] for one in convolved])}")
    return [f"lossless: {'; '.join(made)}: {'saves' if saved >= 0 else 'adds'} {share}"] if made else []


def _recovered(found: Mapping[str, Any]) -> list[str]:
    """What fitting the weights anew did to the outputs."""
    if not found or not found["kept"]:
        return []
    fitted = sum(layer["ridge"] is not None for layer in found["layers"])
    moved = f"{found['unit']} {found['before']:.3g} became {found['after']:.3g} on {found['inputs']} held-out inputs"
    return [f"recovered: {moved}, {fitted} layers fitted anew"]


def _approximated(found: Mapping[str, Any]) -> list[str]:
    """What the proof does not say: the original that is masked takes its statistics over what stays."""
    if not found:
        return []
    groups = f"{len(found['groups'])} normalized group{'s' * (len(found['groups']) != 1)} cut: {_few(found['groups'])}"
    error = f"{found['unit']} {found['error']:.3g} on {found['inputs']} {found['which']} inputs"
    return [
        f"approximate: {groups}; the masked original takes statistics over the units that stay, "
        f"the model's own function is approximated: {error}"
    ]


def _accuracy(found: Mapping[str, Any]) -> list[str]:
    """What became of the accuracy, and what tells."""
    if not found:
        return []
    dense, pruned = (metric_text(found[name], found["dense"]) for name in ("dense", "pruned"))
    inputs = "" if found["inputs"] is None else f" on {found['inputs']} held-out inputs"
    if not found["held_out"]:
        inputs = f" on {found['inputs']} calibration inputs, which the result is fitted to"
    return [f"accuracy: {dense} became {pruned} ({found['metric']}{inputs})"]


def _also(found: dict[str, Any]) -> str:
    text = f"{_ms(found['dense_ms'])} became {_ms(found['pruned_ms'])} ({_percent(found['ratio'])})"
    used = f"{_percent(found['spent'])} of {_ms(found['budget_ms'])}"
    return f"{found['option'].removeprefix('--')}: {text}, used {used}, on {found['device']}"


def _most_cut(groups: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    cut = sorted((g for g in groups if 0 < g["kept"] < g["units"]), key=lambda g: (g["kept"] / g["units"], g["name"]))
    return [(g["name"], g["kind"], str(g["units"]), str(g["kept"])) for g in cut[:_MOST_CUT]]


def anatomy(found: dict[str, Any]) -> RenderableType:
    """What `inspect` found."""
    groups = [(g["name"], g["kind"], str(g["units"]), str(len(g["members"]))) for g in found["groups"]]
    blocks = [(b["name"], b["entry"], str(b["nodes"])) for b in found["blocks"]]
    locked = [(e["name"], str(e["units"]), "; ".join(e["reasons"][:2])) for e in found["locked"]]
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in found["inputs"].items())
    head = f"{found['model']}: {found['parameters']:,} parameters, input {inputs}"
    parts: list[RenderableType] = [
        Text("\n".join([head, *_lossless(found["lossless"]), _prunable(found["prunable"])])),
        table("\ngroups", ("group", "kind", "units", "weights"), groups, numbers=2),
        table("removable blocks", ("block", "from", "nodes"), blocks, numbers=1),
        table("locked", ("weight", "units", "why"), locked),
        *_locked_by(found["locked_by"], found["prunable"]["parameters_total"]),
    ]
    if streams := [(s["name"], str(s["units"]), _becomes(s)) for s in found["streams"]]:
        parts.insert(2, table("streams (--streams)", ("weight", "units", "what becomes of it"), streams))
    if unknown := found["unknown_operators"]:
        shown = ", ".join(f"{op} ({count})" for op, count in unknown.items())
        parts.append(Text(f"operators without a rule, left alone with all they touch: {shown}"))
    return Group(*parts)


def _becomes(stream: dict[str, Any]) -> str:
    if stream["rotates"]:
        return "with --inputs, it is rotated to its principal directions and then cut"
    if stream["selects"]:
        return f"with --inputs, units of it are selected (normalized); it is not rotated: {stream['reason']}"
    return f"it is not cut: {stream['reason']}"


def _prunable(share: dict[str, Any]) -> str:
    parameters = f"{share['parameters']:,} parameters ({_percent(share['parameters_share'])})"
    macs = f"{_count(share['macs'])} of {_count(share['macs_total'])} MACs ({_percent(share['macs_share'])})"
    return f"prunable: {parameters}, {macs}"


def _locked_by(reasons: list[dict[str, Any]], total: int) -> list[RenderableType]:
    """What keeps parameters out of every group."""
    rows = [
        (r["reason"], r["example"], str(r["dimensions"]), f"{r['parameters']:,}", _percent(r["parameters"] / total))
        for r in reasons[:_MOST_LOCKING]
    ]
    if not rows:
        return []
    title = "what locks the rest (a weight counts under each of its reasons)"
    more = len(reasons) - len(rows)
    shown = table(title, ("why", "for example", "dimensions", "parameters", "of all"), rows, numbers=3)
    return [shown, *([Text(f"and {more} more reasons (--json)")] if more else [])]


def comparison(rows: Sequence[Any]) -> RenderableType:
    """What `bench` measured."""
    shown = [
        (
            row.model,
            _ms(row.wall_ms),
            _ms(row.cpu_ms),
            _percent(row.spread),
            f"{row.ratio:.3f}",
            f"{row.parameters:,}",
            _bytes(row.size),
        )
        for row in rows
    ]
    columns = ("model", "wall", "CPU", "spread", "ratio", "parameters", "size")
    return table("", columns, shown, numbers=6)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _share(pair: dict[str, int]) -> str:
    return _percent(pair["pruned"] / max(pair["dense"], 1))


def _count(number: int) -> str:
    """A count at three digits, such as 41.3 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
