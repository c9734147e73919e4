"""Every exported architecture: its streams are rotated and cut exactly, and what cannot be is named.

A quick part of the collection beside the checkout runs always, all of it with `bash tools/test.sh -m zoo`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from onnx_mdp.runtime.base import Array, Runtime
from tests.streams.proof import prove_streams, turned_model
from tests.zoo.test_exporters import parameters
from tests.zoo.variants import ZOO, zoo_model, zoo_models

GOLDEN = Path(__file__).parent.parent / "golden" / "streams.txt"


def zoo_feeds(model: Any, seed: int) -> dict[str, Array]:
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


@pytest.mark.parametrize("name", parameters(zoo_models()))
def test_streams_of_the_collection(name: str, runtime: Runtime) -> None:
    model = zoo_model(name)
    sets = [zoo_feeds(model, seed) for seed in (1, 2)]
    turned = turned_model(model, sets, runtime)
    turns = Counter(f"{stream.width} turns" for stream in turned.streams.values() if not stream.linear)
    stays = Counter(f"{fixed.factor.size} stays: {fixed.freeze.kind}" for fixed in turned.fixed)
    text = "; ".join(f"{count} x {what}" for what, count in sorted((turns + stays).items()))
    assert text == golden().get(name, "")
    if turned.streams:
        prove_streams(model, sets, runtime, turned=turned)
