#!/usr/bin/env bash
# Trains on one slice of Cloud TPU VMs, of any number of workers; several slices: gke_jobset.yaml.
#
#   export PROJECT=mine ZONE=us-east5-b ACCELERATOR_TYPE=v6e-256    # or v5litepod-64, v5p-128, ...
#   bash launch/tpu_pod.sh create my-pod        # queues for it; SPOT=1: cheap, may be taken away
#   bash launch/tpu_pod.sh status my-pod        # until it says ACTIVE
#   bash launch/tpu_pod.sh setup my-pod         # this working tree and its packages, on all workers
#   bash launch/tpu_pod.sh train my-pod -- --config=configs/epsilon_hybrid.py --workdir=gs://...
#   bash launch/tpu_pod.sh logs my-pod          # of worker 0, again
#   bash launch/tpu_pod.sh stop my-pod          # it saves and ends
#   bash launch/tpu_pod.sh delete my-pod
#
# The work directory and the text must lie where all workers see them. Training goes on when the
# connection breaks. After a preemption: delete, create, setup and train again; it resumes. gcloud
# reaches all workers at once with a key it has been shown: `ssh-add ~/.ssh/google_compute_engine`.
# --dry_run before the command prints what would be run. RUNTIME_VERSION is the VMs' software.
#
# shellcheck disable=SC2016 # what stands in single quotes is for the shells of the workers
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

dry_run=""
if [ "${1-}" = --dry_run ]; then
  dry_run=1
  shift
fi
command=${1-} name=${2-}
shift $(($# < 2 ? $# : 2))
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] ||
  fail "say which TPU: bash launch/tpu_pod.sh create|status|setup|train|logs|stop|delete NAME"
[ -n "${ZONE-}" ] || fail "ZONE is not set, e.g. ZONE=us-east5-b"
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

tpus() { # tpus GROUP COMMAND NAME [flags]
  run gcloud compute tpus "$1" "$2" "$3" "${where[@]}" "${@:4}"
}
on_workers() { # on_workers WHICH SHELL_COMMAND
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

case $command in
  create)
    [ -n "${ACCELERATOR_TYPE-}" ] || fail "ACCELERATOR_TYPE is not set, e.g. v6e-256"
    case $ACCELERATOR_TYPE in
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      *) runtime=tpu-ubuntu2204-base ;;
    esac
    tpus queued-resources create "$name" --node-id="$name" \
      --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="${RUNTIME_VERSION:-$runtime}" \
      ${SPOT:+--spot}
    ;;
  status)
    tpus queued-resources describe "$name" --format="value(state.state)"
    ;;
  setup)
    archive=ardiff_jax.tar.gz
    if [ -z "$dry_run" ]; then
      archive=$(mktemp -d)/$archive
      trap 'rm -r "$(dirname "$archive")"' EXIT
      git ls-files -z --cached --others --exclude-standard | tar -czf "$archive" --null -T -
    fi
    tpus tpu-vm scp "$archive" "$name:ardiff_jax.tar.gz" --worker=all
    # The images come with an older Python; a fresh VM is busy with upgrades for a while.
    on_workers all 'set -e
      mkdir -p ardiff_jax && tar -xzf ardiff_jax.tar.gz -C ardiff_jax
      if ! { command -v python3.11 || command -v python3.12; }; then
        sudo apt-get -o DPkg::Lock::Timeout=600 -q update
        sudo apt-get -o DPkg::Lock::Timeout=600 -qy install python3.11-venv
      fi
      cd ardiff_jax && source launch/env.sh
      prepare_env "$(sed -n "s/^jax>/jax[tpu]>/p" requirements.txt)"'
    ;;
  train)
    [ "${1-}" = -- ] || fail "flags of train stand behind --, e.g. train $name -- --config=..."
    shift
    on_workers all "cd ardiff_jax || exit
      if kill -0 \$(cat train.pid 2>/dev/null) 2>/dev/null; then
        echo 'error: a training runs here already: see logs, and stop it' >&2
        exit 2
      fi
      : >train.log
      nohup .venv/bin/python -m ardiff_jax.train --distributed ${*@Q} >>train.log 2>&1 </dev/null &
      echo \$! >train.pid
      tail --lines=+1 --follow --pid=\$(cat train.pid) train.log &
      wait \$(cat train.pid)"
    ;;
  logs)
    on_workers 0 'tail --lines=100 --follow --pid=$(cat ardiff_jax/train.pid) ardiff_jax/train.log'
    ;;
  stop)
    on_workers all 'kill $(cat ardiff_jax/train.pid)'
    ;;
  delete)
    tpus queued-resources delete "$name" --force --quiet
    ;;
  *)
    fail "unknown command '$command'; known: create, status, setup, train, logs, stop, delete"
    ;;
esac
