#!/usr/bin/env bash
# Trains on a GKE cluster that xpk made: what gke_jobset.yaml does by hand, through its queue.
#
#   export PROJECT=mine ZONE=us-east5-b CLUSTER=my-cluster ACCELERATOR_TYPE=v5litepod-64
#   export IMAGE=us-docker.pkg.dev/mine/images/ardiff_jax NUM_SLICES=2    # see gke_jobset.yaml
#   bash launch/xpk.sh my-run -- --config=configs/epsilon_hybrid.py --workdir=gs://...
#
# --dry_run before the name prints what would be run.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

dry_run=""
if [ "${1-}" = --dry_run ]; then
  dry_run=1
  shift
fi
name=${1-}
[ "${2-}" = -- ] || fail "say a name, and flags of train: bash launch/xpk.sh NAME -- --config=..."
shift 2
for variable in CLUSTER ACCELERATOR_TYPE IMAGE; do
  [ -n "${!variable-}" ] || fail "$variable is not set; launch/xpk.sh begins with an example"
done

# exec: xpk sends SIGTERM to the shell that its command runs in. It restarts what ends with 127 or
# more, as in_pod.sh does when the pod is taken away, and gives up at what a mistake ends with.
run xpk workload create --workload="$name" --cluster="$CLUSTER" \
  ${PROJECT:+--project="$PROJECT"} ${ZONE:+--zone="$ZONE"} \
  --tpu-type="$ACCELERATOR_TYPE" --num-slices="${NUM_SLICES:-1}" --docker-image="$IMAGE" \
  --max-restarts=50 --termination-grace-period-seconds=120 \
  --command="exec bash launch/in_pod.sh python -m ardiff_jax.train --distributed ${*@Q}"
