# Sourced by the other scripts: a virtual environment in .venv with the package and the named extra, made once.
# Reuses it while setup.cfg and pyproject.toml are unchanged. PYTHON names the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=${1:-test}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON" >&2; exit 1; }
stamp=.venv/installed-$extra-$(cat setup.cfg pyproject.toml | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
