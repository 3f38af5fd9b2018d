"""Several processes over loopback train as one would; what befalls one is told to all."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from commands import Fork, records, refuse
from conftest import ROOT

from ardiff_jax import processes, workdir
from ardiff_jax.errors import UserError

SMALL = {
  'tokenizer.kind': 'byte',
  'data.length': 32,
  'model.model_dim': 32,
  'model.num_layers': 1,
  'model.num_heads': 2,
  'train.batch_size': 8,
  'train.steps': 6,
  'train.log_every': 1,
  'train.eval_every': 6,
  'train.checkpoint_every': 3,
  'eval.train_sequences': 16,
  'eval.batch_size': 8,
}
DOUBLED = {'objective.doubled': True, 'hyperschedule.name': 'block', 'hyperschedule.width': 8}


def free_port():
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    return listening.getsockname()[1]


def start(count, config, directory, *, devices=1, **settings):
  """Starts processes that train together; `devices` is how many each has."""
  settings = {'mesh.data': 1, 'mesh.fsdp': count * devices} | SMALL | settings
  port, started = free_port(), []
  for index in range(count):
    arguments = [f'--config=configs/{config}.py:tiny', f'--workdir={directory}']
    arguments += [f'--config.{key}={value}' for key, value in settings.items()]
    if count > 1:
      arguments += [f'--coordinator=127.0.0.1:{port}', f'--num_processes={count}']
      arguments += [f'--process_id={index}']
    started.append(Fork('train', *arguments, devices=devices))
  return started


def finish(started):
  """Waits for them; returns what each said, and asserts that all went well."""
  said = [process.communicate(timeout=300)[1] for process in started]
  assert [process.returncode for process in started] == [0] * len(started), said
  return said


def figures(directory):
  found = records(directory / 'metrics.jsonl')
  losses = [x['loss'] for x in found if x['split'] == 'train']
  return losses, [x['nll_per_token'] for x in found if x['split'] == 'valid']


@pytest.mark.parametrize(
  ('config', 'settings', 'count'),
  [
    ('ar', {}, 2),
    ('epsilon_hybrid', DOUBLED, 2),
    pytest.param('epsilon_hybrid', DOUBLED, 4, marks=pytest.mark.full),
    pytest.param('gamma_hybrid', {}, 2, marks=pytest.mark.full),
  ],
)
def test_processes_equal_one(config, settings, count, text_file, tmp_path):
  settings = settings | {'data.source': text_file}
  finish(start(1, config, tmp_path / 'one', devices=4, **settings))
  losses, likelihood = figures(tmp_path / 'one')
  assert len(losses) == 6 and len(likelihood) == 1
  directory = tmp_path / 'several'
  said = finish(start(count, config, directory, devices=4 // count, **settings))
  assert 'processes: 0 on' in said[0] and 'train 6/6' in said[0]
  assert 'train' not in said[1].replace('train text', '')  # the first speaks for all
  found = figures(directory)
  assert found[0] == pytest.approx(losses, rel=1e-5)
  assert found[1] == pytest.approx(likelihood, rel=1e-5)
  assert workdir.is_done(directory) and (directory / 'report.html').exists()


def test_a_signal_to_one_stops_all_and_one_goes_on(text_file, tmp_path):
  """Along `tensor` the processes have the same rows, of which one alone was asked to stop."""
  settings = {'data.source': text_file, 'train.steps': 150, 'train.eval_every': 1000}
  settings |= {'mesh.fsdp': 1, 'mesh.tensor': 2}
  finish(start(1, 'ar', tmp_path / 'whole', devices=2, **settings))
  started = start(2, 'ar', tmp_path / 'parts', **settings)
  metrics = tmp_path / 'parts' / 'metrics.jsonl'
  while not metrics.exists() or metrics.read_text().count('\n') < 3:
    time.sleep(0.005)
  started[1].send_signal(signal.SIGUSR1)
  said = finish(started)
  stopped = len(figures(tmp_path / 'parts')[0])
  assert 3 <= stopped < 150
  assert f'another process was stopped: saved step {stopped} of 150' in said[0]
  assert not workdir.is_done(tmp_path / 'parts')

  finish(start(1, 'ar', tmp_path / 'parts', devices=2, **settings))
  (losses, _), (whole, _) = figures(tmp_path / 'parts'), figures(tmp_path / 'whole')
  assert losses == pytest.approx(whole, rel=1e-5)


def test_a_damaged_checkpoint_is_passed_over_by_all(text_file, tmp_path):
  """All of it or only what one of them reads: none waits for another, or goes on from it."""
  finish(start(2, 'ar', tmp_path / 'run', **{'data.source': text_file}))
  before, _ = figures(tmp_path / 'run')
  for part, blamed in (('ocdbt.process_1/d/*', 1), ('*/d/*', 0)):
    directory = tmp_path / str(blamed)
    shutil.copytree(tmp_path / 'run', directory)
    for path in (directory / 'checkpoints' / '6').rglob(part):
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = finish(start(2, 'ar', directory, **{'data.source': text_file}))
    assert 'checkpoint 6 is damaged' in said[blamed] and 'resumed from step 3' in said[0]
    assert figures(directory)[0] == pytest.approx(before, rel=1e-5)


def assert_refused(started, said, *messages):
  """That all ended, and one at least of its own accord: the others may be ended by that."""
  assert all(process.returncode for process in started)
  refused = [index for index, process in enumerate(started) if process.returncode == 2]
  assert refused
  for index in refused:
    text = said[index]
    assert f'error: {socket.gethostname()}, process {index} of 2: ' in text
    assert all(message in text for message in messages) and 'Traceback' not in text


def test_a_file_that_is_gone_or_cut_short_is_named_with_the_host(text_file, tmp_path):
  shard = tmp_path / 'shard.txt'
  shard.write_text('Some more text.\n' * 100)
  started = start(2, 'ar', tmp_path / 'run', **{'data.source': f'{text_file},{shard}'})
  finish(started)
  shard.unlink()
  started = start(2, 'ar', tmp_path / 'run', **{'data.source': f'{text_file},{shard}'})
  said = [process.communicate(timeout=100)[1] for process in started]
  assert_refused(started, said, f'No text file or folder {shard}')
  shard.write_text('Some more text.\n' * 50)  # cut short
  started = start(2, 'ar', tmp_path / 'run', **{'data.source': f'{text_file},{shard}'})
  said = [process.communicate(timeout=100)[1] for process in started]
  assert_refused(started, said, 'another corpus', f'corpus.files.{shard}')
  shard.write_text('Some more text.\n' * 100)
  for process in start(2, 'ar', tmp_path / 'run', **{'data.source': f'{text_file},{shard}'}):
    stderr = process.communicate(timeout=100)[1]  # what was trained is whole
    assert process.returncode == 0 and 'damaged' not in stderr, stderr


def test_processes_with_different_texts_do_not_start():
  description = {'config': {'seed': 0}, 'tokenizer': {}, 'corpus': {'files': {'a.txt': '12'}}}
  other = json.loads(json.dumps(description))
  workdir.check_same_processes([description, other])
  other['corpus']['files']['a.txt'] = '13'
  with pytest.raises(UserError, match=r"process 1 .* corpus.*\n  corpus.files.a.txt: '12'"):
    workdir.check_same_processes([description, other])


def test_one_process_needs_no_others():
  assert processes.texts('wörld') == ['wörld']
  assert processes.any_of(True) and not processes.any_of(False)
  assert processes.name() == '' and processes.is_first()
  with pytest.raises(ZeroDivisionError):
    processes.first_does(lambda: 1 / 0)


def test_one_that_is_ended_while_it_starts_ends():
  program = f"""
import os, signal, time
from ardiff_jax import processes
processes.join('127.0.0.1:{free_port()}', 1, 0)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(1)
print('goes on')
"""
  ended = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True)
  assert ended.returncode == -signal.SIGTERM and not ended.stdout, ended.stderr


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--coordinator=127.0.0.1:1'], 'go together'),
    (['--coordinator=127.0.0.1:1', '--num_processes=2', '--process_id=2'], 'from 0 to 1'),
    (['--distributed'], 'could not be joined'),
  ],
)
def test_who_the_others_are_must_be_said(flags, message, tmp_path):
  refused = refuse('train', '--config=configs/ar.py:tiny', f'--workdir={tmp_path}', *flags)
  assert message in refused.stderr


def test_when_one_process_dies_the_launcher_ends_all_and_the_run_goes_on(text_file, tmp_path):
  flags = ['--config=configs/epsilon_hybrid.py:tiny', f'--workdir={tmp_path / "run"}']
  flags += [f'--config.{key}={value}' for key, value in SMALL.items()]
  flags += [f'--config.data.source={text_file}', '--config.mesh.data=1', '--config.mesh.fsdp=2']
  launcher = ['bash', 'launch/local_multiprocess.sh', '2', *flags]
  env = os.environ | {'PYTHON': sys.executable, 'KILL_AFTER': '1', 'JAX_PLATFORMS': 'cpu'}
  run = dict(cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
  endless = subprocess.Popen([*launcher, '--config.train.steps=100000'], **run)
  while not [*(tmp_path / 'run').glob('checkpoints/[0-9]')]:
    assert endless.poll() is None, endless.stderr.read()
    time.sleep(0.05)
  second = {f'--workdir={tmp_path / "run"}'.encode(), b'--process_id=1'}
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):  # it ended meanwhile
      if second <= {*path.read_bytes().split(b'\0')}:
        os.kill(int(path.parent.name), signal.SIGKILL)
  stderr = endless.communicate(timeout=60)[1]
  # the other one hears of it, too, and may be the first to be seen
  host = re.escape(socket.gethostname())
  first = re.search(
    rf'error: {host}, process (\d) of 2: ended with status (\d+), so all end', stderr
  )
  assert first and first.groups() in (('0', '1'), ('1', '137'))
  assert endless.returncode == int(first[2])
  reached = len(figures(tmp_path / 'run')[0])

  done = subprocess.Popen([*launcher, '--config.train.steps=100000'], **run)
  while len(figures(tmp_path / 'run')[0]) <= reached:
    assert done.poll() is None, done.stderr.read()
    time.sleep(0.05)
  done.terminate()
  stderr = done.communicate(timeout=60)[1]
  assert done.returncode == 0 and 'resumed from step' in stderr and 'saved step' in stderr
  found = records(tmp_path / 'run' / 'metrics.jsonl')
  steps = [record['step'] for record in found if record['split'] == 'train']
  assert steps == list(range(1, len(steps) + 1))
