#!/usr/bin/env bash
# Every check and test, from a fresh checkout: makes an environment, installs, lints, types, tests.
# Slower suites have markers of their own: tools/test.sh -m real (the models in ../shared/real), -m zoo (../shared/zoo),
# -m slow (thousands of random networks, a model over 2 GB).
# TEST_WORKERS is the number of processes the tests run in (2 unless told); 0 runs them in one.
set -euo pipefail
source "$(dirname "$0")/environment.sh" test torch
ruff check .
ruff format --check .
mypy
python -m pytest -q -n "${TEST_WORKERS:-2}" --dist worksteal "$@"
