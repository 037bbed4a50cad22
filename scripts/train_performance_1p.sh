#!/usr/bin/env bash
# Measures the speed of training on one device: 1 epoch of 20,000 images.
#
#   bash train_performance_1p.sh                      with these two set
#   bash train_performance_1p.sh --data_path=DIR      or with arguments; --help lists them
DATA_DIR=
MODEL_DIR=

# The root and test/ have links to the scripts; a link that an editor made a file finds them too.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
for scripts in "$here" "$here/scripts" "$here/../scripts"; do
  [[ -f $scripts/train_common.sh ]] && break
done
# shellcheck source=scripts/train_common.sh
source "$scripts/train_common.sh" || exit
train perf 1 "$@"
