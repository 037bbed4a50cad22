#!/usr/bin/env bash
# Trains on eight devices of one server: 35 epochs, with an evaluation after each.
#
#   bash train_full_8p.sh                      with these two set
#   bash train_full_8p.sh --data_path=DIR      or with arguments; --help lists them
DATA_DIR=
MODEL_DIR=

devices=8
kind=acc
recipe=(--mode=train_and_eval --num_epochs=35)

# The repository's root has links to the scripts; a link that an editor made a file finds them too.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
[[ -f $here/train_common.sh ]] || here=$here/scripts
source "$here/train_common.sh"
train "$@"
