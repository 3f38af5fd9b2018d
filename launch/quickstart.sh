#!/usr/bin/env bash
# From nothing to a trained model, samples and a report, in about ten minutes on two CPU cores.
# Run it again to go on training where it stopped; evaluation and samples are made anew.
set -euo pipefail
trap 'exit 130' INT TERM # a command that was interrupted saves and exits with 0
cd "$(dirname "$0")/.."
source launch/env.sh
prepare_env
tune_cpu

workdir=runs/quickstart
python=.venv/bin/python
$python -m ardiff_jax.train --config=configs/epsilon_hybrid.py:tiny --workdir=$workdir
$python -m ardiff_jax.evaluate --workdir=$workdir
$python -m ardiff_jax.sample --workdir=$workdir --num_samples=4 --prompt='def '
echo "The report: $workdir/report.html"
