"""Opens the latency table of a run: this device's rows, or by name those of another."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from onnx_mdp.errors import LutError, OptionError
from onnx_mdp.latency.library import hardware_of, named_device
from onnx_mdp.latency.lut import LatencyTable, LutFile, default_path
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.runtime.base import Fingerprint


def check_table(lut: Path | None, device: Fingerprint, listener: Listener) -> None:
    """Refuse a file made on other machines, unless its device is asked for by name.

    Other versions of the runtime or numbers of threads on the same processor are measured beside what is there.

    Raises:
        LutError: the file has rows, but all of them of other machines.
    """
    if lut is None or not lut.is_file():
        return
    with closing(LutFile(lut)) as file:
        known = file.devices()
    if not known or str(device) in known:
        return
    if hardware_of(str(device)) not in {hardware_of(other) for other in known}:
        raise LutError(
            f"--lut {lut}: has rows of {'; '.join(known)}, but none of this device, {device}; plan for one of those "
            f"with --lut-device {known[0]!r}, or measure into another --lut and join the two with onnx-mdp lut merge"
        )
    listener.note(f"{lut} has rows of {'; '.join(known)}, but none of {device}: they are measured now")


def borrow_table(lut: Path | None, device: str) -> LatencyTable:
    """The rows of a device by its name, or a part of it that fits no other; nothing is written.

    Raises:
        LutError: the file cannot be read, or has no such device.
    """
    path = lut or default_path()
    with closing(LutFile(path)) as file:
        name = named_device(device, file.devices(), f"{path}: --lut-device")
    return LatencyTable(path, name, create=False)


def check_borrowing(lut_device: str | None, cluster: str | None) -> None:
    """Options that exclude each other.

    Raises:
        OptionError: they are given together.
    """
    if lut_device is not None and cluster is not None:
        raise OptionError(
            f"--lut-device {lut_device} plans from a table without measuring, --cluster {cluster} measures; give one"
        )
