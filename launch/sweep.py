"""Trains the models of a sweep somewhere else than `ablate` would: side by side on a cluster.

  python launch/sweep.py --sweep=configs/sweeps/gate.py --workdir=DIR --via=local|slurm|tpu|gke
    [--options='--nodes=4'] [--dry_run]

From the repository's root. `python -m ardiff_jax.ablate` with the same --sweep and --workdir finds
the models done and measures them. What another model needs comes first:

  local   one after the other; --options has none
  slurm   jobs that depend on each other; --options go to sbatch
  tpu     one after the other on the slice that --options names; see tpu_pod.sh
  gke     those that can begin; run it again when they are done, for the next; see xpk.sh

What is being trained already is not trained twice when this runs again: Slurm lets a job of
the same name wait, a TPU and GKE refuse it.
"""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # installed or not

from ardiff_jax import cli
from ardiff_jax.ablation import sweep as sweep_lib
from ardiff_jax.errors import UserError

_SWEEP = config_flags.DEFINE_config_file(
  'sweep', help_string='Sweep file, e.g. configs/sweeps/gate.py.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the sweep; what is done stays done.')
_VIA = flags.DEFINE_enum('via', 'local', ['local', 'slurm', 'tpu', 'gke'], 'Where to train.')
_OPTIONS = flags.DEFINE_string('options', '', 'Options of sbatch, or the name of the TPU.')
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Print the commands and run none.')


def main() -> None:
  sweep, workdir = cli.read_config(_SWEEP, 'configs/sweeps/gate.py'), cli.read_workdir(_WORKDIR)
  options = shlex.split(_OPTIONS.value)
  if _VIA.value in ('local', 'gke') and options:
    raise UserError(f'--via={_VIA.value} has no --options')
  if _VIA.value == 'tpu' and len(options) != 1:
    raise UserError('--via=tpu wants the name of the TPU: --options=NAME')
  sweep_lib.check(sweep)
  missing = [x for x in sweep_lib.trainings(sweep, workdir) if not x.done]
  commands = {x.workdir: train_flags(x) for x in missing}  # all are good before the first one runs
  if not _DRY_RUN.value:
    sweep_lib.begin(sweep, workdir)
  if _VIA.value == 'slurm':
    submit_jobs(missing, commands, options)
  elif _VIA.value == 'gke':
    submit_ready(missing, commands)
  else:
    run_in_order(missing, commands, options)


def train_flags(training: sweep_lib.Training) -> list[str]:
  """Returns the flags of `train` that mean a training.

  Raises:
    UserError: a value that no flag can have, such as None.
  """
  before = dict(_fields(sweep_lib.read_config(training.file)))
  changed = {k: x for k, x in _fields(training.config) if repr(x) != repr(before[k])}
  overrides = [
    f'--config.{key}={value if isinstance(value, str) else repr(value)}'
    for key, value in changed.items()
  ]
  try:
    meant = dict(_fields(_parsed([f'--config={training.file}', *overrides])))
  except Exception as error:  # absl and ml_collections raise whatever their parsers do
    raise _unsayable(training, changed) from error
  wrong = [key for key, value in changed.items() if repr(meant[key]) != repr(value)]
  if wrong:
    raise _unsayable(training, wrong)
  return [f'--config={training.file}', f'--workdir={training.workdir}', *overrides]


def run_in_order(missing: list, commands: dict, options: list[str]) -> None:
  """Runs one training after the other, here or on a TPU; ends with the first that fails."""
  prefix = [os.environ.get('PYTHON', sys.executable), '-m', 'ardiff_jax.train']
  if options:
    prefix = ['bash', 'launch/tpu_pod.sh', 'train', *options, '--']
  for training in missing:
    command = [*prefix, *commands[training.workdir]]
    print(shlex.join(command), flush=True)
    if _DRY_RUN.value:
      continue
    process = subprocess.Popen(command)
    # It saves when it is told to stop, which takes a while: it is told, and waited for.
    signal.signal(signal.SIGTERM, lambda number, _, process=process: process.send_signal(number))
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells it, too
    status = process.wait()
    if status:
      sys.exit(status if status > 0 else 128 - status)
    if not training.done:
      print(f'{training.name} was interrupted: the same command goes on', file=sys.stderr)
      sys.exit(1)


def submit_jobs(missing: list, commands: dict, options: list[str]) -> None:
  """Submits a Slurm job for each training, which waits for those that it needs."""
  ids = {}
  for training in missing:
    after = ['singleton', *(f'afterok:{ids[need]}' for need in training.needs if need in ids)]
    name = _job_name(training)
    command = ['sbatch', '--parsable', f'--job-name={name}', f'--dependency={",".join(after)}']
    command += ['--kill-on-invalid-dep=yes', *options, 'launch/slurm.sbatch']
    command += commands[training.workdir]
    print(shlex.join(command), flush=True)
    ids[training.workdir] = f'<{name}>'
    if not _DRY_RUN.value:
      done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
      if done.returncode:
        sys.exit(done.returncode)
      ids[training.workdir] = done.stdout.strip().partition(';')[0]  # then the cluster's name


def submit_ready(missing: list, commands: dict) -> None:
  """Submits to GKE what needs nothing that is missing, and says what has to wait."""
  status, waiting = 0, 0
  for training in missing:
    command = ['bash', 'launch/xpk.sh', _job_name(training), '--', *commands[training.workdir]]
    if any(need in commands for need in training.needs):
      print(f'# later: {shlex.join(command)}')
      waiting += 1
    else:
      print(shlex.join(command), flush=True)
      if not _DRY_RUN.value:  # what runs already is refused, which keeps no other from it
        status = subprocess.run(command).returncode or status
  if waiting:
    print(f'{waiting} wait for these: run this again when they are done', file=sys.stderr)
  sys.exit(status)


def _fields(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def _parsed(arguments: list[str]) -> ConfigDict:
  """Returns the config as `train` would read it."""
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=arguments)
  values(['train', *arguments])
  return config.value


def _unsayable(training: sweep_lib.Training, keys) -> UserError:
  return UserError(
    f'model {training.name!r} of the sweep has a value that no flag can have, among '
    f'{", ".join(keys)}: train it with `ablate`'
  )


def _job_name(training: sweep_lib.Training) -> str:
  """Returns a name of its own, the same every time, that Kubernetes and Slurm allow."""
  plain = re.sub('[^a-z0-9]+', '-', training.workdir.name.lower()).strip('-')
  return f'ardiff-{plain[:23].strip("-")}-{zlib.crc32(str(training.workdir).encode()):08x}'


if __name__ == '__main__':
  cli.run(main)
