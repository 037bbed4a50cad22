#!/usr/bin/env bash
# Sets everything up, checks the style and runs all tests; arguments go to pytest:
#
#   bash scripts/run_tests.sh
#   bash scripts/run_tests.sh network_utils_test.py -k drop_path
#
# The variables that scripts/setup_env.sh takes choose the environment: RUNTIME=2.15 VENV=.venv-2.15
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
bash scripts/setup_env.sh
bin=${VENV:-.venv}/bin
unset RUNTIME VENV  # Of this environment, not of those that tests make.

"$bin/ruff" check .
"$bin/ruff" format --check .

# One process per core; a single file runs in this process, as starting others takes longer.
named=0
for argument in "$@"; do
  if [[ -f ${argument%%::*} ]]; then
    named=$((named + 1))
  fi
done
workers=(-n auto --dist loadgroup)
if ((named == 1)); then
  workers=(-n 0)
fi

export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
exec "$bin/python" -m pytest "${workers[@]}" "$@"
