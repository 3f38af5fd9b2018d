#!/usr/bin/env bash
# Trains with N processes on one machine, joined over loopback: what a cluster does, without one.
#
#   bash launch/local_multiprocess.sh 2 --config=configs/epsilon_hybrid.py:tiny [flags of train]
#
# Process 0 has the terminal, the others write process_I.log into the work directory. GPUs are
# shared out evenly. When one fails, the others are killed after KILL_AFTER seconds (10). PYTHON is
# an interpreter to use instead of .venv's. DRY_RUN=1 prints what would be run.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

[[ ${1-} =~ ^[1-9][0-9]*$ ]] ||
  fail "say how many processes: bash launch/local_multiprocess.sh 2 --config=..."
count=$1
shift

workdir=runs/local_multiprocess
for flag; do
  [[ $flag != --workdir=* ]] || workdir=${flag#--workdir=}
done
logs=${workdir/#\~/$HOME} # as `train` reads it

gpus=()
if [ "${JAX_PLATFORMS-}" = cpu ]; then
  :
elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then # without a driver it complains, on stdout
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader | grep -x '[0-9]*')
fi
share=$((${#gpus[@]} / count))
((share * count == ${#gpus[@]})) ||
  fail "${#gpus[@]} GPUs cannot be shared out evenly to $count processes"

if [ -z "${PYTHON-}" ]; then
  [ -n "${DRY_RUN-}" ] || prepare_env
  PYTHON=.venv/bin/python
fi
((share)) || tune_cpu

until # one on which nothing listens, below those that the system gives to clients
  port=$((20000 + RANDOM % 10000))
  ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
do :; done

running=() # process ids
signal_all() {
  local pid
  for pid in "${running[@]}"; do kill "-$1" -- "-$pid" 2>/dev/null || true; done
}
trap 'signal_all TERM' TERM
trap 'signal_all INT' INT

train() { # train I [its flags]
  local first=$(($1 * share))
  if ((share)); then
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:first:share}")
    export CUDA_VISIBLE_DEVICES
  fi
  local step=("$PYTHON" -m ardiff_jax.train --workdir="$workdir" "${@:2}"
    --coordinator="127.0.0.1:$port" --num_processes="$count" --process_id="$1")
  if [ -n "${DRY_RUN-}" ]; then
    echo "${gpus:+CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES }${step[*]@Q}"
  else
    exec "${step[@]}" </dev/null
  fi
}
if [ -n "${DRY_RUN-}" ]; then
  for ((i = 0; i < count; i++)); do train "$i" "$@"; done
  exit
fi
mkdir -p "$logs"
set -m # a process group for each: Ctrl-C reaches it through us alone, not twice
for ((i = 0; i < count; i++)); do
  if ((i == 0)); then train "$i" "$@" & else train "$i" "$@" >>"$logs/process_$i.log" 2>&1 & fi
  running[i]=$!
done
set +m
((count == 1)) || echo "processes 1 to $((count - 1)) write $logs/process_I.log" >&2

exec 3>&2 2>/dev/null # bash itself has a line for each process that is killed
status=0
while ((${#running[@]})); do
  sleep 0.1 || true # `wait -n` would lose a process that is killed
  for i in "${!running[@]}"; do
    pid=${running[i]} code=0
    if kill -0 "$pid" 2>/dev/null; then continue; fi
    unset "running[i]"
    wait "$pid" || code=$?
    if ((code && !status)); then
      status=$code deadline=$((SECONDS + ${KILL_AFTER:-10}))
      where="its messages are above"
      ((i == 0)) || where="see $logs/process_$i.log"
      echo "error: $HOSTNAME, process $i of $count: ended with status $code, so all end;" \
        "$where" >&3
    fi
  done
  # The others wait for it for ever, inside a collective, where no other signal is heard.
  ((status == 0 || SECONDS < deadline)) || signal_all KILL
done
exit "$status"
