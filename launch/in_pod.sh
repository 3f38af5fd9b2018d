#!/usr/bin/env bash
# Runs a command in a pod: `bash launch/in_pod.sh python -m ardiff_jax.train --distributed ...`.
# To Kubernetes a container that ends with 0 is done for good. One that saved because its pod is
# taken away is not: it ends with 143 here, so that the job is restarted and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh

pass_on TERM "$@"
[ -z "$told" ] || exit 143
