#!/usr/bin/env bash
# Measures the speed of training on one device: 1 epoch of 20,000 images.
#
#   bash train_performance_1p.sh                      with these two set
#   bash train_performance_1p.sh --data_path=DIR      or with arguments; --help lists them
DATA_DIR=
MODEL_DIR=

devices=1
kind=perf
recipe=(--mode=train --num_epochs=1 --num_train_images=20000 --num_eval_images=1000)

# The repository's root has links to the scripts; a link that an editor made a file finds them too.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
[[ -f $here/train_common.sh ]] || here=$here/scripts
source "$here/train_common.sh"
train "$@"
