"""Second moments of what sites read, over calibration inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_mdp.graph.network import Network
from onnx_mdp.statistics.gram import Gram
from onnx_mdp.statistics.positions import Positions, parts_of
from onnx_mdp.statistics.sites import Indices, Site, choose_picks
from onnx_mdp.statistics.streams import normalized_stream, row_weights
from onnx_mdp.statistics.walk import Walk


def collect(network: Network, walk: Walk, sites: Sequence[Site], samples: int, positions: Positions) -> dict[str, Gram]:
    """The moments of each site's rows, without targets, by the site's weight.

    Rows count by what they weigh in a normalized stream that the site's result goes into.
    """
    streams = {site.weight: normalized_stream(network, site) for site in sites}
    known = {name: positions.of(stream) if stream else None for name, stream in streams.items()}
    shapes = {site.weight: site.matrix(network.weights[site.weight]).shape for site in sites}
    grams = {name: Gram.empty(groups, columns, 0) for name, (groups, columns, _) in shapes.items()}
    picks: dict[str, Indices] = {}
    names = dict.fromkeys(name for site in sites for name in (site.x, site.y, streams[site.weight]) if name)
    for batch in walk.run(list(names)):
        for site in sites:
            if site.weight not in picks:
                count, parts = site.positions(batch[site.y].shape), parts_of(known[site.weight])
                picks[site.weight] = choose_picks(site, count, shapes[site.weight], samples, parts=parts)
            rows = site.rows(batch[site.x], picks[site.weight])
            stream = streams[site.weight]
            weights = row_weights(site, batch[stream], picks[site.weight], known[site.weight]) if stream else None
            grams[site.weight].add(rows, np.zeros((*rows.shape[:2], 0), np.float32), weights)
    return grams


def gram_bytes(network: Network, site: Site) -> int:
    """Memory that the moments of a site take."""
    groups, columns, _ = site.matrix(network.weights[site.weight]).shape
    return int(8 * groups * (columns + 1) ** 2)
