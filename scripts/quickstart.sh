#!/usr/bin/env bash
# Sets everything up and trains a small AmoebaNet-D on real images, on any machine, in minutes:
#
#   bash scripts/quickstart.sh [SEED]
#
# The data are scikit-learn's 1,797 handwritten digits. Everything goes to quickstart_run/; a second
# start with the same seed (default 1) finds the finished training and evaluates it once more.
set -euo pipefail

seed=${1:-1}
[[ $seed =~ ^[0-9]+$ ]] || { echo "usage: bash scripts/quickstart.sh [SEED], a whole number" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=$root/quickstart_run/digits
model=$root/quickstart_run/seed_$seed
python=$root/.venv/bin/python

bash "$root/scripts/setup_env.sh"
"$python" "$root/scripts/make_digits.py" "$data"

# The published optimizer and learning rate on half of the depth and a sixteenth of the width. No
# random crops, flips and colours, which make digits unreadable.
"$python" "$root/amoeba_net.py" \
  --mode=train_and_eval --data_dir="$data" --model_dir="$model" --random_seed="$seed" \
  --num_cells=3 --reduction_size=16 --stem_reduction_size=16 --image_size=64 \
  --use_aux_head=False --augment=False \
  --num_epochs=12 --num_epochs_per_eval=12 --train_batch_size=64 --eval_batch_size=60 \
  --lr=2.56 --lr_decay_value=0.75 --lr_warmup_epochs=1 --weight_decay=0.0005

"$python" - "$model/results.json" <<'REPORT'
import json, sys
result = [r for r in json.load(open(sys.argv[1])) if r["kind"] == "eval"][-1]
metrics = result["metrics"]
print(f"""
AmoebaNet-D, {result['global_step']} steps: {metrics['top_1_accuracy']:.4f} of the {metrics['images']} held-out digits are right (top-1).""")
REPORT
cat <<NEXT
All figures: $model/results.json
Curves:      $root/.venv/bin/tensorboard --logdir $root/quickstart_run
NEXT
