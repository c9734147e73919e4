"""Making the streams of the model at hand cuttable, and what of that a plan file holds."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_mdp.errors import OptionError, PlanError
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.save import write_bytes, write_text
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.pipeline.stages import seeded_inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.streams.turn import Bases, Turned, turn

STREAMS = ("auto", "rotate", "keep")
_SAMPLES = 256  # inputs to take directions from: each has as many rows as it has tokens


def check_streams(name: str) -> None:
    """Fail early on what streams cannot be done to.

    Raises:
        OptionError: it is none of `STREAMS`.
    """
    if name not in STREAMS:
        raise OptionError(f"--streams {name}: choose from {', '.join(STREAMS)}")


def are_opened(streams: str, *, has_inputs: bool) -> bool:
    """Whether normalized streams are made cuttable, by the option `--streams`."""
    return streams == "rotate" or (streams == "auto" and has_inputs)


def open_streams(
    network: Network, runtime: Runtime, inputs: Inputs | None, seed: int, *, refits: bool, rotates: bool
) -> Turned | None:
    """The network with its normalized streams made cuttable; None where none can be.

    With `rotates`, those that can are rotated to their directions over inputs.
    """
    if inputs is None:
        inputs = seeded_inputs(network, _SAMPLES, seed)
    few = inputs.take(0, max(_SAMPLES, inputs.batch))
    found = turn(network, runtime, few, refits=refits, rotates=rotates)
    return found if found.streams or found.selected else None


def turned_again(network: Network, runtime: Runtime, bases: Bases, selected: Collection[str]) -> Turned | None:
    """The network as a plan was made for: in its bases, and with these normalizations spelled out."""
    if not bases and not selected:
        return None
    return turn(network, runtime, bases, rotates=bool(bases), selects=selected)


def write_plans(plans: Mapping[Path, Mapping[str, Any]], bases: Bases, beside: Path) -> None:
    """Write plans, and beside them the bases of the streams that their indices are in, if they have any."""
    for path, plan in plans.items():
        write_text(path, json.dumps({**plan, "bases": beside.name} if bases else plan))
    if not bases:
        return
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, basis in bases.items():
            values = io.BytesIO()
            np.save(values, basis)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), values.getvalue())  # dated alike: the same bytes each time
    write_bytes(beside, packed.getvalue())


def read_bases(path: Path, plan: Mapping[str, Any]) -> Bases:
    """The bases that a plan's indices are in; none where it rotates nothing.

    Raises:
        PlanError: the file that the plan names is not there, or holds something else.
    """
    if not plan.get("streams"):
        return {}
    file = path.parent / str(plan.get("bases", ""))
    try:
        with np.load(file) as found:
            bases = {name: found[name] for name in plan["streams"]}
    except (OSError, KeyError, ValueError) as error:
        raise PlanError(f"{file}: no bases of the plan's streams ({error}); they are written beside {path}") from error
    return bases
