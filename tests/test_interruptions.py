"""Kills, signals and a full disk: nothing is lost, and a run goes on as if nothing had been."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from commands import SMALL, Fork, command, losses, succeed
from conftest import ROOT

import ardiff_jax
from ardiff_jax import workdir


def test_killed_and_resumed_equals_uninterrupted(text_file, tmp_path):
  flags = [
    '--config=configs/epsilon_hybrid.py:tiny',
    *SMALL,
    f'--config.data.source={text_file}',
    '--config.train.steps=40',
    '--config.train.checkpoint_every=10',
  ]
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  succeed('train', *flags, f'--workdir={whole}')

  process = Fork('train', *flags, f'--workdir={parts}')
  while not (parts / 'checkpoints' / '20').exists() and process.poll() is None:
    time.sleep(0.001)
  process.kill()
  process.communicate()
  resumed = succeed('train', *flags, f'--workdir={parts}')
  if process.returncode == -signal.SIGKILL:  # not already done: a fast machine wins the race
    assert 'resumed from step' in resumed.stderr
  assert losses(parts) == losses(whole)
  assert list(losses(whole)) == list(range(1, 41))


@pytest.mark.parametrize('kills', [6, pytest.param(20, marks=pytest.mark.full)])
@pytest.mark.parametrize('in_background, intervals', [(False, 1), (True, 2)])
def test_kills_at_random_moments_lose_nothing(in_background, intervals, kills, text_file, tmp_path):
  """Half are asked to end and half are not, at any moment: starting, training, saving, ending.

  No step is lost beyond the interval between saves; in the background, a save is written while the
  next interval runs, and waited for before the next save.
  """
  every, steps, directory = 25, 5000, tmp_path / 'run'
  flags = [
    '--config=configs/epsilon_hybrid.py:tiny',
    *SMALL,
    f'--config.data.source={text_file}',
    f'--config.train.steps={steps}',
    f'--config.train.checkpoint_every={every}',
    f'--config.train.save_in_background={in_background}',
    '--config.train.eval_every=100000',
    f'--workdir={directory}',
  ]
  moments, seen, number_before, cut_short = random.Random(0), {}, None, 0
  half_written = lambda: [*directory.glob('checkpoints/*.orbax-checkpoint-tmp*')]  # noqa: E731

  def logged():
    found = workdir.read_lines(directory / 'metrics.jsonl')  # but a line cut off by a kill
    return {record['step']: record['loss'] for record in found}

  for kill in range(kills):
    number = (signal.SIGKILL, signal.SIGTERM)[kill % 2]
    process = Fork('train', *flags)
    reached = max(seen, default=0)
    saved = max(
      (int(x.name) for x in directory.glob('checkpoints/*') if x.name.isdecimal()), default=0
    )
    if kill % 5:  # else while it starts
      while max(logged(), default=0) <= reached:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    if kill % 4 == 2:  # in the middle of a save
      while not half_written():
        assert process.poll() is None, process.communicate()
    else:
      time.sleep(moments.uniform(0.0, 0.7))
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode in (0, -number), stderr
    cut_short += bool(half_written())
    assert 'Traceback' not in stderr
    if max(logged(), default=0) > reached:  # it came to train
      resumed = int((re.search(r'resumed from step (\d+)', stderr) or [0, 0])[1])
      assert resumed >= saved
      most = intervals * every if number_before == signal.SIGKILL else 0
      assert reached - resumed <= most
    now = logged()
    assert list(now) == list(range(1, len(now) + 1))
    assert all(now[step] == seen[step] for step in now.keys() & seen.keys())  # the same batches
    # asked in time, it saved the step it was at
    seen, number_before = now, signal.SIGTERM if process.returncode == 0 else signal.SIGKILL
  assert len(seen) > 2 * every and cut_short > 0


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(number, text_file, tmp_path):
  flags = [
    '--config=configs/ar.py:tiny',
    *SMALL,
    f'--config.data.source={text_file}',
    '--config.train.steps=100000',
    '--config.train.checkpoint_every=100000',
    f'--workdir={tmp_path / "run"}',
  ]
  process = Fork('train', *flags)
  metrics = tmp_path / 'run' / 'metrics.jsonl'
  while not (metrics.exists() and metrics.read_text().count('\n') > 3):
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(number)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 0, stderr
  assert f'{number.name}: saved step' in stderr and 'Traceback' not in stderr
  assert not (tmp_path / 'run' / 'done').exists()
  step = max(losses(tmp_path / 'run'))
  assert [p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()] == [str(step)]


def test_a_full_disk_is_said_plainly_and_costs_nothing_saved(text_file, tmp_path):
  """A limit on the size of files stands for the disk: the config fits, a checkpoint does not."""
  flags = [
    '--config=configs/ar.py:tiny',
    *SMALL,
    f'--config.data.source={text_file}',
    f'--workdir={tmp_path / "run"}',
    '--config.train.steps=4',
    '--config.train.checkpoint_every=2',
  ]
  succeed('train', *flags)
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '4')
  (tmp_path / 'run' / 'done').unlink()
  limited = 'ulimit -f 20; exec "$@"'  # in KiB
  env = os.environ | {'JAX_COMPILATION_CACHE_DIR': ''}  # it writes larger files
  failed = subprocess.run(
    ['bash', '-c', limited, 'bash', *command('train', *flags)],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
  )
  assert failed.returncode == 1, failed.stderr  # launchers try again
  folder, host = tmp_path / 'run' / 'checkpoints', socket.gethostname()
  assert f'error: saving checkpoint 4 in {folder} failed on {host}: ' in failed.stderr
  assert ardiff_jax.load(tmp_path / 'run').step == 2
  assert 'resumed from step 2' in succeed('train', *flags).stderr
  assert list(losses(tmp_path / 'run')) == [1, 2, 3, 4]
