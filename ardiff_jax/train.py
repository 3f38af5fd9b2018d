"""Trains a model.

  python -m ardiff_jax.train --config=configs/epsilon_hybrid.py:tiny --workdir=DIR

Run again with the same --workdir, it goes on where it stopped. On several machines, run the same in
each with --distributed (Slurm, GKE, TPU), or with --coordinator=HOST:PORT --num_processes=N
--process_id=I.

  python -m ardiff_jax.train --config=configs/epsilon_hybrid.py:7b --config.mesh.fsdp=64
    --compile_only --topology=v5p:4x4x4

Says what a step needs on devices that need not be there: memory, FLOPs, collectives.
"""

import sys

from absl import flags

from ardiff_jax import cli
from ardiff_jax.errors import UserError

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run; resumed if it exists.')

_PROFILE = flags.DEFINE_string(
  'profile', None, 'START:STOP, the first and the last step to trace, into WORKDIR/profile.'
)

_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Join the processes of the Slurm job, GKE job or TPU slice this is in.'
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of the first process.')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: which this is.')

_COMPILE_ONLY = flags.DEFINE_bool(
  'compile_only', False, 'Compile the step, print what it needs, and train nothing.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', '', "Devices to compile for: cpu:8, v5e:4x4, ...; '' for those present."
)


def main() -> None:
  config = cli.read_config(_CONFIG)
  if _TOPOLOGY.value and not _COMPILE_ONLY.value:
    raise UserError('--topology says what to compile for: it goes with --compile_only')
  if _COMPILE_ONLY.value:
    from ardiff_jax.training import compile_only

    print(compile_only.format_report(compile_only.compile_step(config, _TOPOLOGY.value)))
    return
  workdir = cli.read_workdir(_WORKDIR)
  where = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  if any(x is not None for x in where):
    if None in where:
      raise UserError('--coordinator, --num_processes and --process_id go together')
    if not 0 <= _PROCESS_ID.value < _NUM_PROCESSES.value:
      raise UserError(
        f'--process_id={_PROCESS_ID.value} must be from 0 to {_NUM_PROCESSES.value - 1}: '
        f'--num_processes={_NUM_PROCESSES.value}'
      )

  from ardiff_jax import processes, report  # after the flags are known to be good
  from ardiff_jax.training import loop, profiling

  profile = None if _PROFILE.value is None else profiling.parse_steps(_PROFILE.value)
  if _DISTRIBUTED.value or where[0]:
    processes.join(*where)
  try:
    done = loop.train(config, workdir, profile)
  except loop.TrainingDiverged as error:
    print(f'error: {processes.name()}{error}', file=sys.stderr)
    processes.leave(1)
  if done and processes.is_first():
    report.write(workdir)


if __name__ == '__main__':
  cli.run(main)
