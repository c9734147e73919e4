"""The `onnx-mdp lut` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.console import Console, RenderableType

from onnx_mdp.lut_config import LutExportOptions, LutGcOptions, LutMergeOptions, LutShowOptions

_HELP = """List, share and clean up latency tables.

What is measured on one device is worth a file to all that are alike: tables are keyed by the device's fingerprint
(runtime and version, processor, threads). FILE is by default the user's own table, in the cache folder.
"""

app = App(name="lut", help=_HELP, help_format="markdown")


@app.command
def show(file: Path | None = None, /, *, options: LutShowOptions = LutShowOptions()) -> None:
    """List the devices of a table; with --device or --match their entries, the slowest first.

    Args:
        file: A LUT file, or what was exported from one.
    """
    from onnx_mdp.pipeline import lut
    from onnx_mdp.report.lut import shown

    found = lut.show(file, options)
    _print(found, None if options.json else shown(found))


@app.command
def merge(file: Path, /, *others: Path, options: LutMergeOptions = LutMergeOptions()) -> None:
    """Put the rows of tables into one.

    Of rows of one region on one device the newest stays, but a failed measurement never replaces one that succeeded.
    Rows whose checksum does not agree are counted and left out.

    Args:
        file: A LUT file, or what was exported from one.
        others: More of them.
    """
    from onnx_mdp.pipeline import lut
    from onnx_mdp.report.lut import merged

    found = lut.merge((file, *others), options)
    _print(found, None if options.json else merged(found))


@app.command
def export(file: Path | None = None, /, *, options: LutExportOptions) -> None:
    """Write a table as JSON or CSV, or a device's as a LUT file of its own; `lut merge` reads all of them back.

    Args:
        file: A LUT file.
    """
    from onnx_mdp.pipeline import lut

    count = lut.export(file, options)
    _print({}, f"written: {options.output} ({count} rows)")


@app.command
def gc(file: Path | None = None, /, *, options: LutGcOptions = LutGcOptions()) -> None:
    """Drop damaged and failed rows, as asked also old ones and those of other versions, and shrink the file.

    Args:
        file: A LUT file.
    """
    from onnx_mdp.pipeline import lut
    from onnx_mdp.report.lut import collected

    found = lut.gc(file, options)
    _print(found, None if options.json else collected(found))


def _print(found: dict[str, Any], text: RenderableType | None) -> None:
    if text is None:
        print(json.dumps(found, indent=1))
    else:
        Console().print(text, highlight=False, soft_wrap=isinstance(text, str))
