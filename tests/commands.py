"""Running the commands: as a user does, or in forks, which save the seconds of a start."""

import atexit
import functools
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import forked
from conftest import ROOT

_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload(
  [  # by no means of the commands' own modules, which define flags; none of these uses a device
    *('ardiff_jax.report', 'ardiff_jax.training.loop', 'ardiff_jax.model', 'ardiff_jax.refinement'),
    *('ardiff_jax.checkpoints.convert', 'scipy.stats', 'clu.parameter_overview', 'tensorboardX'),
  ]
)

NARROW = [
  '--config.model.model_dim=32',
  '--config.model.num_layers=1',
  '--config.model.num_heads=2',
]
SMALL = [
  *NARROW,
  '--config.tokenizer.kind=byte',
  '--config.data.length=32',
  '--config.train.batch_size=8',
  '--config.train.log_every=1',
  '--config.train.eval_every=1000',
  '--config.eval.train_sequences=8',
  '--config.eval.batch_size=8',
]


def command(name, *arguments):
  return [sys.executable, '-m', f'ardiff_jax.{name}', *map(str, arguments)]


class Fork:
  """A command or script that runs in a fork, with the part of subprocess.Popen that tests use."""

  def __init__(self, name, *arguments, env=None, devices=1):
    self._folder = pathlib.Path(tempfile.mkdtemp(prefix='command_'))
    atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
    files = [self._folder / stream for stream in ('stdout', 'stderr')]
    for file in files:
      file.touch()
    settings = str(ROOT), os.environ | (env or {}), devices, *map(str, files)
    args = name, [str(x) for x in arguments], *settings
    self._process = _FORKS.Process(target=forked.run, args=args)
    self._process.start()

  @property
  def returncode(self):
    return self._process.exitcode

  def poll(self):
    return self._process.exitcode

  def send_signal(self, number):
    os.kill(self._process.pid, number)

  def kill(self):
    self._process.kill()

  def communicate(self, timeout=None):
    self._process.join(timeout)
    if self._process.exitcode is None:
      raise subprocess.TimeoutExpired(self._process.name, timeout)
    return tuple((self._folder / stream).read_text() for stream in ('stdout', 'stderr'))


def run(name, *arguments, env=None):
  """Runs a command in a fork to its end; returns its status and what it printed."""
  fork = Fork(name, *arguments, env=env)
  stdout, stderr = fork.communicate()
  return subprocess.CompletedProcess(command(name, *arguments), fork.returncode, stdout, stderr)


def run_alone(name, *arguments):
  """Runs a command in a process of its own, as a user does."""
  return subprocess.run(command(name, *arguments), cwd=ROOT, capture_output=True, text=True)


def succeed(name, *arguments, run=run):
  result = run(name, *arguments)
  assert result.returncode == 0, result.stderr
  assert 'Traceback' not in result.stderr
  return result


succeed_alone = functools.partial(succeed, run=run_alone)


def records(path):
  """Returns the records of a JSON-lines file; texts in it may hold any other end of a line."""
  return [json.loads(line) for line in path.read_text().split('\n')[:-1]]


def losses(workdir):
  """Returns the loss of each step that was logged."""
  found = records(workdir / 'metrics.jsonl')
  return {record['step']: record['loss'] for record in found if record['split'] == 'train'}


def refuse(name, *arguments):
  """Runs what must end with status 2 and a plain line."""
  result = run(name, *arguments)
  assert result.returncode == 2, result.stderr
  assert result.stderr.startswith('error: ') and len(result.stderr.splitlines()) <= 2
  assert result.stdout == ''
  return result
