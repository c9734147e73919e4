"""Models run in turn from core to core, and the turns that count.

A core shares caches with others, and on a machine in a cloud with what no system tells: a model of 0.5 ms then takes
half as long again for seconds at a time, and a smaller one less so. Of the turns on several cores the fastest are those
that nothing disturbed; ratios of medians over all of them depend on the neighbors.

Undisturbed turns take the same time. Where the fastest do not, there are none, and which turns are the fastest is
chance: on a virtual machine whose host runs more of them than it has cores, ratios of the fastest quarter differed
between processes by up to twice as much as those of all turns. There, what is typical counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.engine import pinning
from onnx_mdp.runtime.base import Session
from onnx_mdp.runtime.timing import alternate

_PLACES = 4  # cores, or sets of as many as a session has threads
_FASTEST = 0.25  # of the turns count
_ALIKE = 0.03  # between the slowest of these and the fastest, beyond which all turns count
_LUCKY = 0.03  # of the turns may be faster than that
_LEAST = 12  # turns of all places together

Samples = NDArray[np.float64]


def turns(sessions: Sequence[Session], threads: int, seconds: float) -> Samples:
    """Turns of bound sessions on several cores, about `seconds` in all: milliseconds of shape (model, turn, clock).

    The clocks are wall time and the session's own.
    """
    with pinning.moved_back():
        found, places = [], pinning.places(threads, _PLACES)
        for place in places:
            pinning.move(place)
            found.append(np.array(alternate(sessions, seconds / len(places), _LEAST // len(places))))
    return np.concatenate(found, axis=1)


def counted(samples: Samples, clock: int) -> Samples:
    """The turns that count by a clock: the fastest ones where these take the same time, else all.

    All models of a turn are taken together, so that none is favored.
    """
    logs = np.log(np.maximum(samples[:, :, clock], 1e-9)).mean(axis=0)
    count = max(round(_FASTEST * len(logs)), _LEAST // 2)
    order = np.argsort(logs, kind="stable")[:count]
    undisturbed = logs[order[-1]] - np.quantile(logs, _LUCKY) <= _ALIKE
    return samples[:, order] if undisturbed else samples
