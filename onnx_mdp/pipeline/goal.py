"""What `prune` is asked to reach, read from its options."""

from __future__ import annotations

from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import OptionError
from onnx_mdp.quantities import Drop, LatencyBudget, parse_drop, parse_latency, parse_share


def asked_of(options: PruneOptions) -> tuple[LatencyBudget | None, float | None, Drop | None]:
    """The budget, the ratio or the drop of accuracy, exactly one of which must be given.

    Raises:
        OptionError: there is none or more than one, or it cannot be had with another option.
    """
    if sum(goal is not None for goal in (options.latency, options.ratio, options.max_drop)) != 1:
        raise OptionError(
            "give either --latency (such as 4ms or 70%), --ratio (such as 50%) or --max-drop (such as 1%)"
        )
    if options.latency is not None:
        return parse_latency(options.latency), None, None
    if options.ratio is not None:
        return None, parse_share(options.ratio, "--ratio"), None
    if options.lut_device is not None:
        raise OptionError(
            f"--lut-device {options.lut_device}: --max-drop {options.max_drop} measures every plan; give --latency"
        )
    return None, None, parse_drop(options.max_drop or "")
