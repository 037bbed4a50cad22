#!/usr/bin/env bash
# Makes .venv beside this repository's code: a Python with TensorFlow and the other requirements.
#
#   bash scripts/setup_env.sh        then use .venv/bin/python
#
# TensorFlow 2.15, the faster one, if there is a Python 3.11, 3.10 or 3.9, otherwise TensorFlow 1.15
# on Python 3.7. An environment that is there keeps its release.
# Quick when nothing has changed. Environment variables:
#   RUNTIME=1.15 or 2.15             chooses the release of TensorFlow
#   PYTHON=/path/to/python           chooses the interpreter
#   GPU=1                            installs CUDA's libraries too (TensorFlow 2.15)
#   VENV=DIRECTORY                   makes the environment there instead
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
venv=${venv%"${venv##*[!/]}"} # Without slashes at the end, which would hide that it is a link.
PATH=$PATH:${HOME:-}/.local/bin # Where uv is after its installation.
runtime=${RUNTIME:-}
needs="TensorFlow 1.15 needs Python 3.7, TensorFlow 2.15 needs 3.9, 3.10 or 3.11"
gpu=${GPU:-}

fail() {
  echo "setup_env.sh: $*" >&2
  exit 1
}

# Prints the interpreter's version (3.7) if it can make virtual environments.
version_of() {
  "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Prints the release of TensorFlow for a version of Python; nothing if there is none.
runtime_of() {
  case $1 in
    3.7) [[ $(uname -m) == x86_64 ]] && echo 1.15 ;;
    3.9 | 3.10 | 3.11) echo 2.15 ;;
  esac
  return 0
}

# Whether an interpreter is one for the chosen release, or for any if none is chosen.
fits() {
  local found
  found=$(runtime_of "$(version_of "$1")")
  [[ -n $found && (-z $runtime || $found == "$runtime") ]]
}

# Prints the first fitting interpreter of a version: on PATH, in pyenv, of uv.
find_version() {
  local candidate
  for candidate in "python$1" python3 python; do
    [[ $(version_of "$candidate") == "$1" ]] && command -v "$candidate" && return
  done
  for candidate in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    [[ $(version_of "$candidate") == "$1" ]] && echo "$candidate" && return
  done
  if command -v uv >/dev/null && candidate=$(uv python find "$1" 2>/dev/null); then
    [[ $(version_of "$candidate") == "$1" ]] && echo "$candidate" && return
  fi
  return 1
}

# Prints a fitting interpreter: one that is there, or one that uv or conda installs.
find_python() {
  local version candidate wanted=3.11
  for version in 3.11 3.10 3.9 3.7; do
    candidate=$(find_version "$version") && fits "$candidate" && echo "$candidate" && return
  done
  [[ $runtime == 1.15 ]] && wanted=3.7
  if command -v uv >/dev/null && uv python install -q "$wanted" >&2; then
    find_version "$wanted" && return
  fi
  if command -v conda >/dev/null; then
    candidate=$root/.venv-conda
    conda create -y -q -p "$candidate" "python=$wanted" >&2 || true
    fits "$candidate/bin/python" && echo "$candidate/bin/python" && return
  fi
  local python3=
  command -v python3 >/dev/null && python3=" python3 on PATH is $(python3 -V 2>&1)."
  cat >&2 <<HELP
setup_env.sh: no Python found that TensorFlow ${runtime:-1.15 or 2.15} runs on:
$needs, with venv (Debian: apt-get install python3-venv).$python3
Install one with one of
  curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv python install $wanted
  pyenv install $wanted
  conda create -n amoeba_net python=$wanted
or name an interpreter: PYTHON=/path/to/python$wanted bash scripts/setup_env.sh
HELP
  return 1
}

# Checks the variables that the user has set.
check() {
  [[ -z $runtime || $runtime == 1.15 || $runtime == 2.15 ]] \
    || fail "RUNTIME=$runtime: expected 1.15 or 2.15, the release of TensorFlow."
  [[ -z $gpu || $gpu == 0 || $gpu == 1 ]] || fail "GPU=$gpu: expected 1, or 0 for the CPU only."
  if [[ $runtime == 1.15 && $(uname -m) != x86_64 ]]; then
    fail "RUNTIME=1.15: TensorFlow 1.15 has no packages for $(uname -m). Use RUNTIME=2.15; on an" \
      "Ascend server use the vendor's image, which has it (docs/docker.md)."
  fi
  if [[ $gpu == 1 ]]; then
    [[ $runtime != 1.15 ]] || fail "GPU=1 needs RUNTIME=2.15: TensorFlow 1.15 knows no GPU newer than Turing."
    runtime=2.15
  fi
  if [[ -n ${PYTHON:-} ]] && ! fits "$PYTHON"; then
    local found
    found=$(version_of "$PYTHON" || true)
    fail "PYTHON=$PYTHON is ${found:+Python }${found:-not a Python with venv}:" \
      "$needs${runtime:+ (RUNTIME=$runtime)}."
  fi
}

# Whether the environment that is there can stay.
is_kept() {
  fits "$venv/bin/python" || return 1
  [[ -z ${PYTHON:-} || $(version_of "$venv/bin/python") == $(version_of "$PYTHON") ]]
}

# Checks that what is installed there can be run: extension modules cannot, where programs cannot.
check_runs() {
  local probe=$venv/.probe
  echo '#!/bin/sh' >"$probe"
  chmod +x "$probe"
  "$probe" 2>/dev/null || fail "$venv is on a file system that runs no programs (noexec):" \
    "make the environment elsewhere, with VENV=/another/directory."
  rm "$probe"
}

main() {
  check
  local python packages wanted
  if ! is_kept; then
    if [[ -L $venv || (! -e $venv/pyvenv.cfg && -n $(ls -A "$venv" 2>/dev/null)) ]]; then
      fail "$venv is a link, or has other files than an environment's: it would be emptied. Move it" \
        "away, or name another directory with VENV=."
    fi
    python=${PYTHON:-$(find_python)} || exit 1
    echo "Creating $venv with $python"
    "$python" -m venv --clear "$venv"
  fi
  runtime=$(runtime_of "$(version_of "$venv/bin/python")")
  echo "TensorFlow $runtime on $("$venv/bin/python" -V 2>&1), in $venv"

  packages=(-r "$root/requirements.txt")
  [[ $runtime == 2.15 ]] && packages=(-r "$root/requirements-2.15.txt")
  [[ $gpu == 1 ]] && packages+=("tensorflow[and-cuda]==2.15.1")
  wanted=$(cat "$root"/requirements-{common,constraints}.txt "${packages[1]}" | cksum)${packages[2]:-}
  # CUDA's libraries come last: what has them has what is wanted without them, too.
  [[ $(cat "$venv/.requirements" 2>/dev/null) == "$wanted"* ]] && return
  check_runs
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
  # Older ones, like those of Python 3.7.5, do not know the packages' platforms.
  "$venv/bin/python" -m pip install --disable-pip-version-check -q "pip>=20.3"
  echo "Installing ${packages[1]##*/} into $venv (about a minute, about 2 GB)"
  "$venv/bin/python" -m pip install --disable-pip-version-check -q "${packages[@]}"
  echo "$wanted" >"$venv/.requirements"
}

# One set-up at a time: two scripts started together must not install into the same environment.
mkdir -p "$(dirname "$venv")" 2>/dev/null || true
if command -v flock >/dev/null && ! { exec 9>"$venv.lock" && flock 9; } 2>/dev/null; then
  echo "setup_env.sh: $venv.lock cannot be locked: see to it that no other set-up runs." >&2
fi
main
exec 9>&-
