# Sourced by the other scripts: a virtual environment in .venv with the package and the named extra, made once.
# Reuses it while setup.cfg and pyproject.toml are unchanged. PYTHON names the interpreter (3.11 or newer).
# A second argument `torch` adds PyTorch of the version below: the build for CPUs where the package index has one under
# that name, which takes a fraction of the space, else the index's own. TORCH_INDEX names another index for it alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=${1:-test}
with=${2:-}
torch=2.13.0
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON" >&2; exit 1; }
stamp=.venv/installed-$extra-$with${with:+-$torch-}$(cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
  if [ "$with" = torch ]; then
    install=(.venv/bin/python -m pip install --quiet --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"})
    "${install[@]}" "torch==$torch+cpu" 2>/dev/null || "${install[@]}" "torch==$torch"
  fi
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
