#!/usr/bin/env bash
# Sets everything up and trains a small AmoebaNet-D on real images, on any machine, in minutes:
#
#   bash scripts/quickstart.sh [SEED [flags of amoeba_net.py]]
#
# The data are scikit-learn's 1,797 handwritten digits. Everything goes to quickstart_run/; a second
# start with the same seed (default 1) finds the finished training and evaluates it once more.
set -euo pipefail

seed=${1:-1}
[[ $seed =~ ^[0-9]+$ ]] || { echo "usage: bash scripts/quickstart.sh [SEED [flags]], SEED a whole number" >&2; exit 2; }
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
data=$root/quickstart_run/digits
model=$root/quickstart_run/seed_$seed
venv=${VENV:-$root/.venv}
python=$venv/bin/python

bash "$root/scripts/setup_env.sh"
"$python" "$root/scripts/make_digits.py" "$data"

"$python" "$root/amoeba_net.py" --flagfile="$root/scripts/quickstart.flags" \
  --data_dir="$data" --model_dir="$model" --report_dir="$model/report" --random_seed="$seed" "${@:2}" &
training=$!
# Passes signals on, and the training's status: 75 when it has stopped in order and can go on.
trap 'kill -TERM "$training" 2>/dev/null || true' TERM INT
while true; do
  status=0
  wait "$training" || status=$?
  kill -0 "$training" 2>/dev/null || break
done
((status == 0)) || exit "$status"
[[ " ${*:2}" =~ \ --?(mode|model_dir|report_dir)(=|\ |$) ]] && exit  # Nothing is where it says.

"$python" - "$model/results.json" <<'REPORT'
import json, sys
result = [r for r in json.load(open(sys.argv[1])) if r["kind"] == "eval"][-1]
metrics = result["metrics"]
print(f"""
AmoebaNet-D, {result['global_step']} steps: {metrics['top_1_accuracy']:.4f} of the {metrics['images']} held-out digits are right (top-1).""")
REPORT
cat <<NEXT
Report:      $model/report/report.html
All figures: $model/results.json
Picture:     $model/curves.png
Curves:      $(printf '%q --logdir %q' "$venv/bin/tensorboard" "$root/quickstart_run")
NEXT
