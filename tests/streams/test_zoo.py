"""Every exported architecture: its streams are rotated and cut exactly, and what cannot be is named.

A quick part of the collection beside the checkout runs always, all of it with `bash tools/test.sh -m zoo`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from onnx_mdp.graph.network import read_network
from onnx_mdp.groups.couple import couple
from onnx_mdp.pipeline.stages import prepare
from onnx_mdp.runtime.base import Array, Runtime
from onnx_mdp.streams.find import find_streams
from onnx_mdp.streams.fold import own_operands
from onnx_mdp.streams.select import selectable
from tests.streams.proof import copy_of, prove_streams
from tests.zoo.test_exporters import parameters
from tests.zoo.variants import ZOO, zoo_model, zoo_models

GOLDEN = Path(__file__).parent.parent / "golden" / "streams.txt"


def zoo_feeds(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Seeded inputs that are valid for a model of the collection."""
    if str(ZOO) not in sys.path:
        sys.path.append(str(ZOO))
    from inflate import make_inputs

    feeds: dict[str, Array] = make_inputs(model, seed)
    return feeds


def golden() -> dict[str, str]:
    """What is known of the streams of each model that has any."""
    lines = [line.split(" | ") for line in GOLDEN.read_text().splitlines()]
    return dict(lines)


def described(model: onnx.ModelProto, feeds: dict[str, Array]) -> str:
    """How many normalized streams of each width can be rotated, and why others cannot; of some, units are selected."""
    network = prepare(copy_of(model), {name: values.shape for name, values in feeds.items()}, lossless=True).network
    own_operands(network.model)
    coupling = couple(read_network(network.model, network.inputs))
    (found, fixed), selects = find_streams(coupling), selectable(coupling)
    turns = Counter(f"{stream.width} turns" for stream in found if not stream.linear)
    stays = Counter(
        f"{stream.factor.size} {'selects' if stream.factor in selects else 'stays'}: {stream.freeze.kind}"
        for stream in fixed
    )
    return "; ".join(f"{count} x {what}" for what, count in sorted((turns + stays).items()))


@pytest.mark.parametrize("name", parameters(zoo_models()))
def test_streams_of_the_collection(name: str, runtime: Runtime) -> None:
    model = zoo_model(name)
    sets = [zoo_feeds(model, seed) for seed in (1, 2)]
    assert described(model, sets[0]) == golden().get(name, "")
    prove_streams(model, sets, runtime)
