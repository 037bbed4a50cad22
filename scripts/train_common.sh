# shellcheck shell=bash
# What the ModelZoo's training scripts share: arguments, environment, one process per device, result
# lines and files. Each script sets DATA_DIR and MODEL_DIR and calls `train KIND DEVICES "$@"`:
# KIND is perf or acc, as in the case's name, and DEVICES is how many devices train together.
#
# To be sourced, by bash 4.2 or newer.
set -uo pipefail

scripts=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$scripts")
network=AmoebaNet-D_for_TensorFlow output=$scripts/output
# The ModelZoo's harness starts the scripts through test/, looks for their output there, and knows
# the network by the name of its entry in the ModelZoo.
if [[ $(dirname "$0") -ef $root/test ]]; then
  network=AmoebaNet-D_ID2073_for_TensorFlow output=$root/test/output
fi
device_files='/dev/davinci[0-9]*'

usage() {
  cat <<HELP
Usage: bash $(basename "$0") --data_path=DIR [options] [-- flags of amoeba_net.py]

With DATA_DIR and MODEL_DIR set at the top of the script it needs no option. Training resumes from
the checkpoint in the model directory, if there is one. Unknown options are ignored, with a warning.

  --data_path=DIR        TFRecord files of ImageNet; overrides DATA_DIR
  --output_path=DIR      checkpoints, logs and results.json; overrides MODEL_DIR;
                         default: $output/<device>/ckpt; to measure the speed
                         .../performance, which is emptied first
  --batch_size=N         images a step on each device (64)
  --train_epochs=N       epochs to train
  --train_steps=N        global step to train to; overrides the epochs
  --precision_mode=MODE  see amoeba_net.py --helpshort
  --profiling=True       write a profile to output/<device>/profiling
  --over_dump=True       dump operators that overflow to output/<device>/overflow_dump
  --data_dump_flag=True  dump tensors to output/<device>/data_dump
  --data_dump_step=STEPS only in these steps, like '0|5-10', in quotes
  --autotune=True        tune operators
  --bind_core=True       several devices: each process on its own part of the cores
  -h, --help             this text

Environment:
  ASCEND_DEVICE_ID       the device, where one trains alone (0)
  PYTHON                 the first interpreter to try; then .venv, python3.7, python3 and python,
                         but for the NPU .venv is the last.
                         For the NPU the first that has the Ascend adapter is taken
  HCCL_CONNECT_TIMEOUT, HCCL_EXEC_TIMEOUT
                         seconds that devices wait for each other (1800, 1836)
HELP
}

fail() {
  echo "[Error] $*"
  exit 1
}

parse_arguments() {
  batch_size=64 bind_core='' profiling='' over_dump='' data_dump_flag='' data_dump_step=''
  autotune='' train_epochs='' train_steps='' precision_mode='' extra=()
  while (($#)); do
    local name=${1%%=*} value=${1#*=}
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --)
        shift
        extra=("$@")
        return
        ;;
      --data_path=*) DATA_DIR=$value ;;
      --output_path=*) MODEL_DIR=$value ;;
      --batch_size=* | --train_epochs=* | --train_steps=* | --precision_mode=* | --profiling=* | \
        --over_dump=* | --data_dump_flag=* | --data_dump_step=* | --autotune=* | --bind_core=*)
        printf -v "${name#--}" %s "$value"
        ;;
      --profiling | --over_dump | --data_dump_flag | --autotune | --bind_core)
        printf -v "${name#--}" True
        ;;
      *) echo "[Warning] unknown argument $1: it is ignored" >&2 ;;
    esac
    shift
  done
}

check_arguments() {
  [[ -n ${DATA_DIR:-} ]] || fail 'para "data_path" must be config'
  [[ -d $DATA_DIR ]] || fail "data_path: there is no directory $DATA_DIR"
  [[ $batch_size =~ ^[1-9][0-9]*$ ]] || fail "--batch_size=$batch_size: expected a number above 0"
  local name
  for name in profiling over_dump data_dump_flag autotune bind_core; do
    check_switch "$name"
  done
  if [[ $over_dump && $data_dump_flag ]]; then
    fail "--over_dump and --data_dump_flag: the adapter does one or the other"
  fi
}

# Checks an argument that is True or False, and makes False the empty string: check_switch NAME.
check_switch() {
  case ${!1} in
    True | true | 1) ;;
    False | false | 0 | "") printf -v "$1" %s '' ;; # An empty format sets nothing in bash 4.2.
    *) fail "--$1=${!1}: expected True or False" ;;
  esac
}

# Whether to train on the NPU: as --accelerator says, else if there is one.
wants_npu() {
  local flag last='' accelerator=auto
  for flag in ${extra[@]+"${extra[@]}"}; do
    [[ $flag =~ ^--?accelerator=(.*)$ ]] && accelerator=${BASH_REMATCH[1]}
    [[ $last =~ ^--?accelerator$ ]] && accelerator=$flag
    last=$flag
  done
  case $accelerator in
    npu) return 0 ;;
    auto) compgen -G "$device_files" >/dev/null ;;
    *) return 1 ;;
  esac
}

# Sets `python`. For the NPU it must have the Ascend adapter. The project's own .venv then comes last:
# it sees an adapter that PYTHONPATH names, but may have a TensorFlow that does not fit it.
find_python() {
  local candidate candidates=(python3.7 python3 python)
  if [[ $on_npu ]]; then
    candidates+=("$root/.venv/bin/python")
  else
    candidates=("$root/.venv/bin/python" "${candidates[@]}")
  fi
  if [[ -n ${PYTHON:-} ]]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: there is no such program"
    candidates=("$PYTHON" "${candidates[@]}")
  fi
  for candidate in "${candidates[@]}"; do
    python=$(command -v "$candidate") || continue
    [[ $on_npu ]] || return 0
    if has_adapter; then
      echo "Python with the Ascend adapter: $python"
      return
    fi
  done
  [[ $on_npu ]] || fail "no Python found: run scripts/setup_env.sh"
  fail "training on the NPU needs a Python with TensorFlow and the Ascend adapter (npu_bridge or" \
    "npu_device), and none of ${candidates[*]} has them: source the set_env.sh of CANN, name the" \
    "interpreter with PYTHON=, or train without the NPU with -- --accelerator=cpu"
}

# Looks for the packages without importing them, and not in the current directory.
has_adapter() {
  "$python" - 2>/dev/null <<'PROGRAM'
import sys
from importlib.util import find_spec

sys.path[:] = [directory for directory in sys.path if directory]
sys.exit(not (find_spec("tensorflow") and (find_spec("npu_bridge") or find_spec("npu_device"))))
PROGRAM
}

# Sets `python`, `processes`, and the first and the last device.
choose_devices() {
  on_npu=''
  wants_npu && on_npu=1
  find_python
  # Away from the NPU one process trains with the images of all devices together.
  processes=${on_npu:+$devices}
  processes=${processes:-1}
  first=0
  ((devices == 1)) && first=${ASCEND_DEVICE_ID:-0}
  [[ $first =~ ^(0|[1-9][0-9]*)$ ]] || fail "ASCEND_DEVICE_ID=$first: expected a device's number"
  last=$((first + processes - 1))
}

prepare_model_dir() {
  if [[ -z ${MODEL_DIR:-} && $kind == perf ]]; then
    MODEL_DIR=$output/$first/performance
    rm -rf "$MODEL_DIR" # A training that is complete would not be measured again.
  fi
  MODEL_DIR=${MODEL_DIR:-$output/$first/ckpt}
}

prepare_environment() {
  export JOB_ID=${JOB_ID:-10087}
  # HCCL connects the devices anew for each round of training and by default gives up after 120
  # seconds, while another rank may still be evaluating its share; half an hour is enough. Its other
  # time-out, of a collective, is only 600 seconds by default in older releases; HCCL rounds it down
  # to a multiple of 68. When a process ends the others are stopped, so that longer time-outs would
  # only delay the error where one hangs.
  export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-1800}
  export HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-1836}
  # The adapter's line by which `notice` knows that the NPU was used is one of level 0.
  [[ $on_npu ]] && export TF_CPP_MIN_LOG_LEVEL=0
  prepare_rank_table
}

# The rank table of several devices, made of the server's own settings unless the caller names one.
prepare_rank_table() {
  if ((processes == 1)) || [[ ${CM_WORKER_SIZE:-} ]]; then
    unset RANK_TABLE_FILE # Of another training in this shell; not legal beside the CM_ variables.
    return
  fi
  [[ -z ${RANK_TABLE_FILE:-} ]] || return 0
  export RANK_TABLE_FILE=$output/rank_table_${processes}p.json
  mkdir -p "$output" && "$python" "$scripts/make_rank_table.py" --devices="$processes" \
    --output="$RANK_TABLE_FILE" || exit
}

# Sets `cores` to the numbers of the cores that this process may run on.
list_cores() {
  local ranges range core
  IFS=, read -r -a ranges <<<"$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)"
  cores=()
  for range in "${ranges[@]}"; do
    for ((core = ${range%-*}; core <= ${range#*-}; core++)); do
      cores+=("$core")
    done
  done
}

# Sets `cores`, and how many of them each process is bound to: 0 for none.
share_cores() {
  cores_each=0
  [[ $bind_core ]] && ((processes > 1)) || return 0
  list_cores
  cores_each=$((${#cores[@]} / processes))
  ((cores_each)) ||
    echo "[Warning] --bind_core: ${#cores[@]} cores for $processes processes, so none is bound" >&2
}

# Sets `flags`: those of amoeba_net.py that are the same on every device.
collect_flags() {
  flags=(
    --data_dir="$DATA_DIR" --model_dir="$MODEL_DIR" --train_batch_size="$((batch_size * devices))"
    --num_cells=6 --image_size=224 --lr=2.56 --lr_decay_value=0.88 --lr_warmup_epochs=0.35
    --iterations_per_loop=1251
  )
  if [[ $kind == perf ]]; then
    flags+=(--mode=train --num_epochs=1 --num_train_images=20000 --num_eval_images=1000)
  else
    flags+=(--mode=train_and_eval --num_epochs=35)
  fi
  [[ $train_epochs ]] && flags+=(--num_epochs="$train_epochs")
  [[ $train_steps ]] && flags+=(--train_steps="$train_steps")
  [[ $precision_mode ]] && flags+=(--precision_mode="$precision_mode")
  [[ $autotune ]] && flags+=(--aoe_mode=2)
}

# Sets `device_flags`: those with a directory of the device's own.
collect_device_flags() {
  local directory=$output/$1
  device_flags=()
  [[ $profiling ]] && device_flags+=(--profile_dir="$directory/profiling")
  [[ $over_dump ]] && device_flags+=(--dump_dir="$directory/overflow_dump" --dump_debug=all)
  if [[ $data_dump_flag ]]; then
    device_flags+=(--dump_dir="$directory/data_dump")
    [[ $data_dump_step ]] && device_flags+=(--dump_step="$data_dump_step")
  fi
}

# Starts the process of one device: start_rank RANK DEVICE. Adds to `pids`.
start_rank() {
  local bind=() log=$output/$2/train_$2.log
  mkdir -p "$(dirname "$log")" || exit
  [[ ! -s $log ]] || mv -f "$log" "$log.old" # It may say why the training ended before.
  collect_device_flags "$2"
  ((cores_each)) &&
    bind=(taskset -c "$(IFS=, && echo "${cores[*]:$1*cores_each:cores_each}")")
  # Not with `env`, which takes a program with = in its path for a variable.
  (
    # Where a chief collects the devices (CM_ variables) there are no ranks in the environment.
    [[ -n ${CM_WORKER_SIZE:-} ]] || export RANK_SIZE="$processes" RANK_ID="$1"
    export ASCEND_DEVICE_ID="$2"
    exec ${bind[@]+"${bind[@]}"} "$python" "$root/amoeba_net.py" "${flags[@]}" \
      ${device_flags[@]+"${device_flags[@]}"} ${extra[@]+"${extra[@]}"}
  ) >"$log" 2>&1 &
  pids+=($!)
  echo "Rank $1 of $processes: process $!, log $log"
}

# Asks all processes to end: the first time after their step, with a checkpoint; then at once.
stop_ranks() {
  stopped=1
  kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null
}

# Waits for all processes; when one ends before its time, stops the others, which would wait for it
# forever: at once if it failed. Returns the status of the first.
wait_for_ranks() {
  local result=0 status pid running=("${pids[@]}") left
  while ((${#running[@]})); do
    left=()
    for pid in "${running[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        left+=("$pid")
        continue
      fi
      wait "$pid"
      status=$?
      if ((status && !result)); then
        result=$status
        if ((status != 75)); then
          stop_ranks
          sleep 1
          stop_ranks
        elif ((!stopped)); then
          stop_ranks
        fi
      fi
    done
    running=(${left[@]+"${left[@]}"})
    ((${#running[@]})) && sleep 1
  done
  return "$result"
}

# Ends the script if training did not: check_status STATUS.
check_status() {
  if (($1 == 75)); then
    echo "Training was stopped by a signal and saved; the same command goes on from there."
    exit 75
  fi
  if (($1)); then
    tail -n 20 "$output/$first/train_$first.log" >&2
    echo "[Error] training ended with status $1; see $output/*/train_*.log" >&2
    exit "$1"
  fi
}

notice() {
  if grep -q 'The model has been compiled on the Ascend AI processor' "$1"; then
    echo '------------------ INFO NOTICE START ------------------'
    echo 'INFO: this training used the Ascend NPU.'
    echo '------------------ INFO NOTICE END ------------------'
  elif grep -q 'Rank [0-9]* of [0-9]*, Ascend adapter' "$1"; then # Up to r1.6.0.
    echo '------------------ INFO NOTICE START ------------------'
    echo 'INFO: this training used the Ascend adapter. Its log does not say that the model was compiled;'
    echo 'INFO: up to r1.6.0 it never does.'
    echo '------------------ INFO NOTICE END ------------------'
  else
    echo '------------------ ERROR NOTICE START ------------------'
    echo 'ERROR: this training did not use the Ascend NPU; the figures are of another device.'
    echo '------------------ ERROR NOTICE END ------------------'
  fi
}

# Trains and reports: train KIND DEVICES ARGUMENT...
train() {
  kind=$1 devices=$2
  parse_arguments "${@:3}"
  check_arguments
  choose_devices
  prepare_model_dir
  prepare_environment
  collect_flags
  share_cores
  local rank device started=$SECONDS start_time case_name
  local case_batch=$((batch_size * devices / processes))
  start_time=$(date +%s)
  case_name=${network}${bind_core:+_bindcore}_bs${case_batch}_${processes}p_$kind
  for device in "$first" "$last"; do
    rm -f "$output/$device/$case_name.log" "$output/$device/train_${case_name}_loss.txt"
  done

  pids=() stopped=0
  trap stop_ranks TERM INT
  for ((rank = 0; rank < processes; rank++)); do
    start_rank "$rank" "$((first + rank))"
  done
  wait_for_ranks
  check_status $?
  notice "$output/$first/train_$first.log"
  # Other entries of the ModelZoo leave their files with the last device, where their loop ends.
  "$python" "$scripts/modelzoo_report.py" --model_dir="$MODEL_DIR" \
    --output_dir="$output/$first" --output_dir="$output/$last" \
    --network="$network" --case_name="$case_name" --rank_size="$processes" \
    --batch_size="$case_batch" --start="$start_time" --seconds="$((SECONDS - started))"
}
