#!/usr/bin/env bash
# Makes .venv beside this repository's code: a Python 3.7 with the pinned requirements.
#
#   bash scripts/setup_env.sh        then use .venv/bin/python
#
# Quick when nothing has changed. PYTHON=/path/to/python3.7 chooses the interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
requirements=$root/requirements.txt

is_python37() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 7))' >/dev/null 2>&1
}

# Prints the first Python 3.7 found: $PYTHON, PATH, pyenv, uv, conda.
find_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    is_python37 "$PYTHON" && echo "$PYTHON" && return
    echo "setup_env.sh: PYTHON=$PYTHON is not a Python 3.7 with venv." >&2
    return 1
  fi
  for candidate in python3.7 python3 python; do
    is_python37 "$candidate" && command -v "$candidate" && return
  done
  for candidate in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7.*/bin/python; do
    is_python37 "$candidate" && echo "$candidate" && return
  done
  if command -v uv >/dev/null; then
    candidate=$(uv python find 3.7 2>/dev/null || { uv python install -q 3.7 >&2 && uv python find 3.7; } || true)
    [[ -n $candidate ]] && is_python37 "$candidate" && echo "$candidate" && return
  fi
  if command -v conda >/dev/null; then
    local environment=$root/.venv-conda
    [[ -x $environment/bin/python ]] || conda create -y -q -p "$environment" python=3.7 >&2 || true
    is_python37 "$environment/bin/python" && echo "$environment/bin/python" && return
  fi
  cat >&2 <<'HELP'
setup_env.sh: no Python 3.7 found on PATH, in pyenv, through uv or conda; TensorFlow 1.15 needs one.
Get it with one of
  curl -LsSf https://astral.sh/uv/install.sh | sh && uv python install 3.7
  pyenv install 3.7.16
  conda create -n py37 python=3.7
or name an interpreter: PYTHON=/path/to/python3.7 bash scripts/setup_env.sh
HELP
  return 1
}

main() {
  local stamp=$venv/.requirements wanted
  wanted=$(cksum <"$requirements")
  if [[ -f $stamp && $(cat "$stamp") == "$wanted" ]] && is_python37 "$venv/bin/python"; then
    return
  fi
  local python
  if ! is_python37 "$venv/bin/python"; then
    python=$(find_python)
    echo "Creating $venv with $python"
    "$python" -m venv --clear "$venv"
  fi
  echo "Installing requirements.txt into $venv (about a minute, about 1.5 GB)"
  "$venv/bin/python" -m pip install --disable-pip-version-check -q -r "$requirements"
  echo "$wanted" >"$stamp"
}

# One set-up at a time: two scripts started together must not install into each other's .venv.
exec 9>"$root/.setup_env.lock"
command -v flock >/dev/null && flock 9
main
exec 9>&-
