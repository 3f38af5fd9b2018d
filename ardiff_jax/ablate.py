"""Runs a sweep: trains its models, measures what it asks of them, and makes a page of it.

  python -m ardiff_jax.ablate --sweep=configs/sweeps/gate.py --workdir=runs/gate_sweep
    [--sweep.common.data.source=FILE] [--sweep.models.NAME.workdir=DIR] [--sweep.seeds='(0,1)']
    [--only=METHOD]

Run again with the same --workdir, it goes on where it stopped: finished models and figures are
kept, failed ones tried again. Writes results.jsonl, results.csv, results.md and results.html, of
which the last two say by what commands, commit and machine they came about.
"""

import sys

from absl import flags
from ml_collections import config_flags

from ardiff_jax import cli

_SWEEP = config_flags.DEFINE_config_file(
  'sweep', help_string='Sweep file, e.g. configs/sweeps/gate.py.'
)
_ONLY = flags.DEFINE_multi_string(
  'only', [], 'A method to train and measure, and no others; may be repeated.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the sweep; resumed if it exists.')


def main() -> None:
  sweep = cli.read_config(_SWEEP, 'configs/sweeps/gate.py')
  workdir = cli.read_workdir(_WORKDIR)

  from ardiff_jax.ablation import results  # after the flags are known to be good
  from ardiff_jax.ablation import sweep as sweep_lib

  complete = sweep_lib.run(sweep, workdir, _ONLY.value)
  if (workdir / 'results.jsonl').exists():
    print(results.write(workdir))
  if not complete:
    print('some of it is missing: run the same command again', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  cli.run(main)
