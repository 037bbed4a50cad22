# What train_performance_1p.sh, train_full_1p.sh and train_full_8p.sh share: arguments, environment,
# one process a device, the result lines and files. They set, and then call `train "$@"`:
#
#   DATA_DIR, MODEL_DIR   see their tops
#   devices               devices that train together
#   kind                  perf or acc, the end of the case's name
#   recipe                array of flags of amoeba_net.py
#
# Sourced by bash; not to be run.
set -uo pipefail

network=AmoebaNet-D_for_TensorFlow
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$scripts")

usage() {
  cat <<HELP
Usage: bash $(basename "$0") --data_path=DIR [options] [-- flags of amoeba_net.py]

With DATA_DIR and MODEL_DIR set at the top of the script it needs no option. Training resumes from
the checkpoint in the model directory, if there is one.

  --data_path=DIR        TFRecord files of ImageNet; overrides DATA_DIR
  --output_path=DIR      checkpoints, logs and results.json; overrides MODEL_DIR;
                         default: $scripts/output/<device>/ckpt; to measure the speed
                         .../performance, which is emptied first
  --batch_size=N         images a step on each device (64)
  --train_epochs=N       epochs to train
  --train_steps=N        global step to train to; overrides the epochs
  --precision_mode=MODE  see amoeba_net.py --helpshort
  --profiling=True       write a profile to output/<device>/profiling
  --over_dump=True       dump operators that overflow to output/<device>/overflow_dump
  --data_dump_flag=True  dump tensors to output/<device>/data_dump
  --data_dump_step=STEPS only in these steps, like 0|5-10
  --autotune=True        tune operators
  --bind_core=True       several devices: each process on its own part of the cores
  -h, --help             this text

ASCEND_DEVICE_ID in the environment chooses the device of a single one; 0 if unset.
HELP
}

fail() {
  echo "[Error] $*"
  exit 1
}

# Whether an argument's value is true: is_true NAME VALUE.
is_true() {
  case $2 in
    True | true | 1) return 0 ;;
    False | false | 0 | "") return 1 ;;
    *) fail "--$1=$2: expected True or False" ;;
  esac
}

parse_arguments() {
  batch_size=64 bind_core='' profiling='' over_dump='' data_dump_flag='' data_dump_step=''
  autotune='' train_epochs='' train_steps='' precision_mode='' extra=()
  while (($#)); do
    local value=${1#*=}
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
        local name=${1%%=*}
        printf -v "${name#--}" %s "$value"
        ;;
      *)
        usage >&2
        fail "unknown argument $1"
        ;;
    esac
    shift
  done
}

check_arguments() {
  [[ -n ${DATA_DIR:-} ]] || fail 'para "data_path" must be config'
  [[ -d $DATA_DIR ]] || fail "data_path: there is no directory $DATA_DIR"
  [[ $batch_size =~ ^[1-9][0-9]*$ ]] || fail "--batch_size=$batch_size: expected a number above 0"
  if is_true over_dump "$over_dump" && is_true data_dump_flag "$data_dump_flag"; then
    fail "--over_dump and --data_dump_flag: the adapter does one or the other"
  fi
}

# Sets `python`: the repository's own, else that of the image.
find_python() {
  python=$root/.venv/bin/python
  [[ -x $python ]] && return
  python=$(command -v python3.7 || command -v python3 || command -v python) ||
    fail "no Python found: run scripts/setup_env.sh"
}

has_npu() {
  [[ " ${extra[*]:-} " == *" --accelerator=npu "* ]] || compgen -G '/dev/davinci[0-9]*' >/dev/null
}

# Sets `flags`: those of amoeba_net.py that are the same on every device.
collect_flags() {
  flags=(
    --data_dir="$DATA_DIR" --model_dir="$MODEL_DIR" --train_batch_size="$((batch_size * devices))"
    --num_cells=6 --image_size=224 --lr=2.56 --lr_decay_value=0.88 --lr_warmup_epochs=0.35
    --iterations_per_loop=1251 "${recipe[@]}"
  )
  [[ -n $train_epochs ]] && flags+=(--num_epochs="$train_epochs")
  [[ -n $train_steps ]] && flags+=(--train_steps="$train_steps")
  [[ -n $precision_mode ]] && flags+=(--precision_mode="$precision_mode")
  is_true autotune "$autotune" && flags+=(--aoe_mode=2)
}

# Sets `device_flags`: those with a directory of the device's own.
collect_device_flags() {
  local directory=$scripts/output/$1
  device_flags=()
  is_true profiling "$profiling" && device_flags+=(--profile_dir="$directory/profiling")
  is_true over_dump "$over_dump" &&
    device_flags+=(--dump_dir="$directory/overflow_dump" --dump_debug=all)
  if is_true data_dump_flag "$data_dump_flag"; then
    device_flags+=(--dump_dir="$directory/data_dump")
    [[ -n $data_dump_step ]] && device_flags+=(--dump_step="$data_dump_step")
  fi
}

# Starts the process of one device: start_rank RANK DEVICE. Adds to `pids`.
start_rank() {
  local bind=() ranks=() log=$scripts/output/$2/train_$2.log
  mkdir -p "$(dirname "$log")" || exit
  collect_device_flags "$2"
  if ((processes > 1)) && is_true bind_core "$bind_core"; then
    local cores=$(($(nproc) / processes))
    ((cores)) && bind=(taskset -c "$(($1 * cores))-$(($1 * cores + cores - 1))")
  fi
  # Where a chief collects the devices (CM_ variables) there are no ranks in the environment.
  [[ -n ${CM_WORKER_SIZE:-} ]] || ranks=(RANK_SIZE="$processes" RANK_ID="$1")
  env ${ranks[@]+"${ranks[@]}"} ASCEND_DEVICE_ID="$2" \
    ${bind[@]+"${bind[@]}"} "$python" "$root/amoeba_net.py" "${flags[@]}" \
    ${device_flags[@]+"${device_flags[@]}"} ${extra[@]+"${extra[@]}"} >"$log" 2>&1 &
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

# The rank table of several devices, made of the server's own settings unless the caller names one.
prepare_rank_table() {
  ((processes > 1)) && [[ -z ${RANK_TABLE_FILE:-} ]] && [[ -z ${CM_WORKER_SIZE:-} ]] || return 0
  export RANK_TABLE_FILE=$scripts/output/rank_table_${processes}p.json
  mkdir -p "$scripts/output" &&
    "$python" "$scripts/make_rank_table.py" --devices="$processes" --output="$RANK_TABLE_FILE" || exit
}

notice() {
  if grep -q 'The model has been compiled on the Ascend AI processor' "$1"; then
    echo '------------------ INFO NOTICE START ------------------'
    echo 'INFO: this training used the Ascend NPU.'
    echo '------------------ INFO NOTICE END ------------------'
  else
    echo '------------------ ERROR NOTICE START ------------------'
    echo 'ERROR: this training did not use the Ascend NPU; the figures are of another device.'
    echo '------------------ ERROR NOTICE END ------------------'
  fi
}

train() {
  parse_arguments "$@"
  check_arguments
  find_python
  # Away from the NPU one process trains with the images of all devices together.
  processes=$devices
  has_npu || processes=1
  local first=0 rank status started=$SECONDS start_time
  start_time=$(date +%s)
  ((devices == 1)) && first=${ASCEND_DEVICE_ID:-0}
  if [[ -z ${MODEL_DIR:-} && $kind == perf ]]; then
    MODEL_DIR=$scripts/output/$first/performance
    rm -rf "$MODEL_DIR" # A training that is complete would not be measured again.
  fi
  MODEL_DIR=${MODEL_DIR:-$scripts/output/$first/ckpt}
  export JOB_ID=${JOB_ID:-10087}
  collect_flags
  prepare_rank_table
  local directory=$scripts/output/$first case_batch=$((batch_size * devices / processes))
  local case_name=${network}_bs${case_batch}_${processes}p_$kind
  rm -f "$directory/$case_name.log" "$directory/train_${case_name}_loss.txt"

  pids=() stopped=0
  trap stop_ranks TERM INT
  for ((rank = 0; rank < processes; rank++)); do
    start_rank "$rank" "$((first + rank))"
  done
  wait_for_ranks
  status=$?
  if ((status == 75)); then
    echo "Training was stopped by a signal and saved; the same command goes on from there."
    exit 75
  fi
  if ((status)); then
    tail -n 20 "$directory/train_$first.log" >&2
    echo "[Error] training ended with status $status; see $scripts/output/*/train_*.log" >&2
    exit "$status"
  fi

  notice "$directory/train_$first.log"
  "$python" "$scripts/modelzoo_report.py" --model_dir="$MODEL_DIR" --output_dir="$directory" \
    --network="$network" --case_name="$case_name" --rank_size="$processes" \
    --batch_size="$case_batch" --start="$start_time" --seconds="$((SECONDS - started))"
}
