#!/usr/bin/env bash
# Trains on eight devices of one server: 35 epochs, with an evaluation after each.
#
#   bash train_full_8p.sh                      with these two set
#   bash train_full_8p.sh --data_path=DIR      or with arguments; --help lists them
DATA_DIR=
MODEL_DIR=

# The root and test/ have links to the scripts; a link that an editor made a file finds them too.
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
for scripts in "$here" "$here/scripts" "$here/../scripts"; do
  [[ -f $scripts/train_common.sh ]] && break
done
# shellcheck source=scripts/train_common.sh
source "$scripts/train_common.sh" || exit
train acc 8 "$@"
