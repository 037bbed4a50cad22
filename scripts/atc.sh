#!/usr/bin/env bash
# Makes an offline model for Ascend inference cards of an exported one; needs CANN's atc.
#
#   bash atc.sh [BATCH_SIZE [SOC_VERSION]]
#
# An export with --export_format=frozen_graph or onnx has a copy of this script beside the model,
# with the settings that belong to it.
set -euo pipefail
image_size=224
output=amoeba_net
model=frozen_graph.pb
framework=3
input_format=NHWC

if ! command -v atc >/dev/null; then
  echo "${BASH_SOURCE[0]##*/}: there is no atc on PATH: source CANN's set_env.sh first." >&2
  exit 1
fi
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
batch=${1:-64}
atc --model="$model" --framework="$framework" --output="${output}_bs$batch" \
  --soc_version="${2:-Ascend310}" --input_format="$input_format" \
  --input_shape="input:$batch,$image_size,$image_size,3" --out_nodes="predictions:0" \
  --output_type=FP32
