"""Prints the seed of the random networks, so that a failure can be met again."""

from __future__ import annotations

import pytest

from tests.random_networks.seed import SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to run the same examples again."""
    terminalreporter.write_line(f"random networks: ONNX_MDP_SEED={SEED}")
