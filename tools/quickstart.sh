#!/usr/bin/env bash
# From a fresh checkout to a pruned model: makes an environment, installs, prunes a bundled model end to end.
set -euo pipefail
source "$(dirname "$0")/environment.sh" test
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
show() { printf '\n$ %s\n' "$*"; "$@"; }
show onnx-mdp inspect models/digits_vit.onnx
show onnx-mdp prune models/digits_vit.onnx --latency 70% --inputs models/digits_calibration.npz \
  -o "$out/pruned.onnx" --plan "$out/plan.json" --report "$out/report.json"
show onnx-mdp bench models/digits_vit.onnx "$out/pruned.onnx"
show python tools/evaluate.py models/digits_vit.onnx "$out/pruned.onnx"
