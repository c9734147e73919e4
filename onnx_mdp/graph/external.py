"""A model as two files, a small message and its data, and what a runtime can load of a model of any size."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import onnx

from onnx_mdp.errors import OutputError
from onnx_mdp.graph.weights import is_large, raw, refer, stored_bytes, weight_bytes, with_weights

Loadable = onnx.ModelProto | Callable[[], onnx.ModelProto]

_DESCRIPTION = {"name", "data_type", "dims", "doc_string", "metadata_props"}  # of a weight: all but its data
_LEAST = 1024  # bytes: smaller weights stay in the message
_PAGE = 4096  # weights begin on a page, as ONNX asks, so that runtimes can map them


def write_data(model: onnx.ModelProto, file: IO[bytes]) -> dict[str, int]:
    """Write the data of a model one weight after the other; returns where in the file each of them begins."""
    offsets: dict[str, int] = {}
    end = 0
    for tensor in filter(_is_outside, model.graph.initializer):
        file.write(bytes(-end % _PAGE))
        offsets[tensor.name] = end + -end % _PAGE
        end = offsets[tensor.name] + stored_bytes(tensor)
        file.write(raw(tensor).data)
    return offsets


def with_data_at(model: onnx.ModelProto, location: str, offsets: Mapping[str, int]) -> onnx.ModelProto:
    """A copy of the model with its data in a file beside it."""

    def weights() -> Iterator[onnx.TensorProto]:
        for tensor in model.graph.initializer:
            if tensor.name not in offsets:
                yield tensor
                continue
            placed = onnx.TensorProto(**{f.name: v for f, v in tensor.ListFields() if f.name in _DESCRIPTION})
            refer(placed, location, offsets[tensor.name])
            yield placed

    return with_weights(model, weights())


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type != onnx.TensorProto.STRING and stored_bytes(tensor) >= _LEAST


@contextmanager
def loadable(model: Loadable) -> Iterator[str | bytes]:
    """What a runtime loads to run a model: its bytes, or if it is large the path of a temporary copy with its data.

    A model may be given as a function that makes it: a large one is then dropped before the runtime takes its own
    memory. The copy is gone at the end of the context; a session that is open by then keeps what it has mapped.

    Raises:
        OutputError: the disk is too full for the copy.
    """
    proto = model() if callable(model) else model
    if not is_large(proto):
        yield proto.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="onnx-mdp-", ignore_cleanup_errors=True) as name:
        path = Path(name) / "model.onnx"
        _write_copy(proto, path)
        del model, proto
        yield str(path)


def _write_copy(model: onnx.ModelProto, path: Path) -> None:
    needed, free = weight_bytes(model), shutil.disk_usage(path.parent).free
    try:
        if free < needed:
            raise OSError(0, f"{free / 1e9:.1f} GB are free", str(path))
        with path.with_name("model.data").open("wb") as file:
            offsets = write_data(model, file)
        path.write_bytes(with_data_at(model, "model.data", offsets).SerializeToString())
    except OSError as error:
        raise OutputError(
            f"{path.parent.parent}: no room for a temporary copy of {needed / 1e9:.1f} GB of weights "
            f"({error.strerror}); free some, or set TMPDIR to a folder on a larger disk"
        ) from error
