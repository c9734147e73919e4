"""Opens the engine that a run measures with."""

from __future__ import annotations

from importlib.util import find_spec

from onnx_mdp.engine.base import Engine
from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.errors import RuntimeBackendError
from onnx_mdp.runtime.base import Fingerprint, RuntimeSpec


def open_engine(spec: RuntimeSpec, cluster: str | None = None, like: Fingerprint | None = None) -> Engine:
    """A worker process on this machine, or the workers of a Dask cluster that are like each other.

    Args:
        spec: the runtime to measure on.
        cluster: address of a Dask scheduler.
        like: of a cluster, the fingerprint to prefer.

    Raises:
        OptionError, RuntimeBackendError: the runtime or the cluster does not exist or is not installed.
    """
    if cluster is None:
        return LocalEngine(spec)
    if find_spec("distributed") is None:
        raise RuntimeBackendError(f"--cluster {cluster}: needs dask: pip install 'onnx-mdp[cluster]'")
    from onnx_mdp.engine.dask import DaskEngine

    return DaskEngine(cluster, spec, like)
