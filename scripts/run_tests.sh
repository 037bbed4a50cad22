#!/usr/bin/env bash
# Sets everything up, checks the style and runs all tests; arguments go to pytest:
#
#   bash scripts/run_tests.sh
#   bash scripts/run_tests.sh network_utils_test.py -k drop_path
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup_env.sh"
cd "$root"

.venv/bin/ruff check .
.venv/bin/ruff format --check .

# One TensorFlow thread pool a worker: the tests build graphs more than they compute.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
exec .venv/bin/python -m pytest -n auto --dist loadgroup "$@"
