"""Trains a model.

  python -m ardiff_jax.train --config=configs/epsilon_hybrid.py:tiny --workdir=DIR

Run again with the same --workdir, it goes on where it stopped.
"""

import sys

from absl import flags

from ardiff_jax import cli

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run; resumed if it exists.')


def main() -> None:
  config = cli.read_config(_CONFIG)
  workdir = cli.read_workdir(_WORKDIR)

  from ardiff_jax import report  # after the flags are known to be good
  from ardiff_jax.training import loop

  try:
    done = loop.train(config, workdir)
  except loop.TrainingDiverged as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)
  if done:
    report.write(workdir)


if __name__ == '__main__':
  cli.run(main)
