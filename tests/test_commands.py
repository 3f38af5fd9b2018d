"""The commands as a user meets them: every config end to end, kills, mistakes."""

import json
import random
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import ROOT

import ardiff_jax
from ardiff_jax import workdir
from tests.commands import ENV, command, records, refuse, run, succeed

SMALL = [
  '--config.tokenizer.kind=byte',
  '--config.data.length=32',
  '--config.model.model_dim=32',
  '--config.model.num_layers=1',
  '--config.model.num_heads=2',
  '--config.train.batch_size=8',
  '--config.train.log_every=1',
  '--config.train.eval_every=1000',
  '--config.eval.train_sequences=8',
  '--config.eval.batch_size=8',
]


def losses(workdir):
  return {r['step']: r['loss'] for r in records(workdir / 'metrics.jsonl') if r['split'] == 'train'}


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    *('ar', 'mdlm', 'epsilon_hybrid', 'slide', 'sedd', 'gamma_hybrid', 'bd3lm', 'a3', 'adapt'),
    'draft_refine',  # its rows have no bits per byte
  ],
)
def test_every_config_trains_evaluates_and_samples(name, text_file, tmp_path):
  """Two steps of the shipped tiny config, through all commands, with a trained vocabulary."""
  workdir = tmp_path / 'run'
  trained = succeed(
    'train',
    f'--config=configs/{name}.py:tiny',
    f'--workdir={workdir}',
    f'--config.data.source={text_file}',
    '--config.tokenizer.vocab_size=300',
    '--config.train.steps=2',
  )
  assert 'Total:' in trained.stderr and trained.stdout == ''
  assert set(losses(workdir)) == {2}
  assert (workdir / 'report.html').exists()
  assert list((workdir / 'tensorboard').iterdir())

  table = succeed('evaluate', f'--workdir={workdir}', f'--data=valid,{text_file}').stdout
  assert 'token unigram' in table
  valid, file = records(workdir / 'eval.jsonl')
  assert valid['kind'] == ('exact' if name in ('ar', 'a3') else 'bound')
  assert file['data'] == str(text_file) and file['bytes'] == len(text_file.read_bytes())
  for record in (valid, file):
    assert record['bits_per_byte'] > 0 and record['stderr'] > 0
    assert {'tokens', 'nll_per_token', 'perplexity', 'process', 'hyperschedule'} <= set(record)
    assert set(record['baselines']) == {
      *('byte unigram', 'byte bigram', 'byte trigram', 'token unigram')
    }

  if name == 'mdlm':
    one_at_a_time = [
      succeed('evaluate', f'--workdir={workdir}', '--rows=all', f'--hyperschedule={schedule}')
      for schedule in ('block,width=1,num_levels=1', 'autoregressive')
    ]
    assert all('exact, of absorbing' in result.stdout for result in one_at_a_time)
    block, left_to_right = records(workdir / 'eval.jsonl')[-2:]
    assert block['kind'] == left_to_right['kind'] == 'exact'
    assert block['nll_per_token'] == pytest.approx(left_to_right['nll_per_token'], rel=1e-6)
  if name == 'a3':
    for schedule in ('shuffled,width=4,seed=1', 'strided,width=8', 'block,width=4,num_levels=1'):
      succeed('evaluate', f'--workdir={workdir}', f'--hyperschedule={schedule}')
      assert records(workdir / 'eval.jsonl')[-1]['kind'] == 'exact'
  if name == 'epsilon_hybrid':
    succeed('evaluate', f'--workdir={workdir}', '--process=own')
    own = records(workdir / 'eval.jsonl')[-1]
    assert own['process'] == 'ε-hybrid (ε = 0.01)' and own['nll_per_token'] > 0

  printed = succeed(
    'sample', f'--workdir={workdir}', '--prompt=1 plus', '--num_samples=2', '--steps=4'
  ).stdout
  samples = records(workdir / 'samples.jsonl')
  vocab_size = json.loads((workdir / 'config.json').read_text())['tokenizer']['vocab_size']
  assert len(samples) == 2
  for sample in samples:
    assert sample['text'].startswith('1 plus')
    assert sample['text'].replace('\r\n', '\n').replace('\r', '\n') in printed  # as a pipe reads it
    assert len(sample['token_ids']) == 128 and max(sample['token_ids']) < vocab_size
    assert sample['network_calls'] > 0 and sample['seconds'] > 0
  assert 'this model' in (workdir / 'report.html').read_text()

  if name not in ('ar', 'epsilon_hybrid'):  # one exact, one bound
    return
  model = ardiff_jax.load(workdir)
  again = model.sample(num_samples=1, prompt='1 plus', steps=4, seed=0)[0]
  assert again.token_ids == samples[0]['token_ids']
  bound = model.bound('1 plus 2 is 3.\n')
  assert bound.kind == valid['kind'] and bound.nats > 0 and bound.tokens > 0


@pytest.mark.slow
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

  process = subprocess.Popen(
    command('train', *flags, f'--workdir={parts}'), cwd=ROOT, env=ENV, stderr=subprocess.DEVNULL
  )
  while not (parts / 'checkpoints' / '20').exists() and process.poll() is None:
    time.sleep(0.001)
  process.kill()
  process.wait()
  resumed = succeed('train', *flags, f'--workdir={parts}')
  if process.returncode == -signal.SIGKILL:  # not already done: a fast machine wins the race
    assert 'resumed from step' in resumed.stderr
  assert losses(parts) == losses(whole)
  assert list(losses(whole)) == list(range(1, 41))


@pytest.mark.slow
@pytest.mark.parametrize('in_background, intervals', [(False, 1), (True, 2)])
def test_twenty_kills_at_random_moments_lose_nothing(in_background, intervals, text_file, tmp_path):
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

  for kill in range(20):
    number = (signal.SIGKILL, signal.SIGTERM)[kill % 2]
    process = subprocess.Popen(
      command('train', *flags), cwd=ROOT, env=ENV, stderr=subprocess.PIPE, text=True
    )
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
  assert len(seen) > 100 and cut_short > 0


@pytest.mark.slow
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
  process = subprocess.Popen(
    command('train', *flags), cwd=ROOT, env=ENV, stderr=subprocess.PIPE, text=True
  )
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


@pytest.mark.slow
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
  env = ENV | {'JAX_COMPILATION_CACHE_DIR': ''}  # it writes larger files
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


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['train'], '--config is missing'),
    (['train', '--config=configs/ar.py:tiny'], '--workdir is missing'),
    (['train', '--config=configs/none.py', '--workdir=w'], 'configs/none.py'),
    (['train', '--config=configs/ar.py:huge', '--workdir=w'], 'known: tiny'),
    (['train', '--config=configs/ar.py', '--config.train.stesp=3'], "did you mean 'steps'?"),
    (['train', '--config=configs/ar.py', '--config.train.steps=x'], 'steps=x'),
    (['train', '--config=configs/ar.py', '--workdri=w'], 'workdri'),
    (['train', '--config=configs/ar.py', 'extra'], "unexpected argument 'extra'"),
    (['evaluate', '--workdir=/nowhere'], 'no config.json'),
    (['evaluate', '--workdir=/nowhere', '--rows=none'], "must be 'all' or a number"),
    (['evaluate', '--workdir=/nowhere', '--data='], '--data is empty'),
    (['sample', '--workdir=/nowhere'], 'no config.json'),
    (['sample', '--workdir=/nowhere', '--num_samples=0'], 'num_samples'),
    (['sample', '--workdir=/nowhere', '--steps=0'], 'steps'),
    (['sample', '--workdir=/nowhere', '--temperature=-1'], 'temperature'),
    (['sample', '--workdir=/nowhere', '--banned=a,b'], 'must be token ids'),
    (['sample', '--workdir=/nowhere', '--out=/no/such/folder/x'], 'no folder'),
    (['sample', '--workdir=/nowhere', '--trace=/no/such/folder/x'], 'no folder'),
    (['compare', '--workdir=/nowhere'], '--judge is missing'),
    (['compare', '--workdir=/nowhere', '--judge=/nowhere', '--steps=0'], '--steps must be'),
    (['compare', '--workdir=/nowhere', '--judge=/nowhere', '--corrupted=1'], 'inside (0, 1)'),
    (['bench', 'coffee', '--config=configs/ar.py'], 'train_step, sampler'),
    (['bench', 'sampler', '--config=configs/latent_refiner.py:tiny'], 'no samplers'),
  ],
)
def test_mistakes_end_with_status_2_and_a_plain_line(arguments, message):
  assert message in refuse(*arguments).stderr


@pytest.mark.slow
def test_samples_of_every_kind_and_what_cannot_be_sampled(text_file, tmp_path):
  workdir, trace = tmp_path / 'run', tmp_path / 'trace.html'
  flags = [*SMALL, f'--config.data.source={text_file}', '--config.train.steps=1']
  succeed('train', '--config=configs/epsilon_hybrid.py:tiny', f'--workdir={workdir}', *flags)
  told = succeed(
    'sample',
    f'--workdir={workdir}',
    '--infill=1 plus [[3]] is',
    '--sampler=remdm_cap',
    '--eta=0.2',
    '--steps=3',
    '--top_p=0.9',
    '--batch_size=2',
    '--num_samples=3',
    f'--trace={trace}',
  )
  assert told.stdout.count('1 plus ') == 3 and 'sample 3/3' in told.stderr
  assert trace.read_text().count('class="ardiff-player"') == 3
  for record in records(workdir / 'samples.jsonl'):
    assert record['reveal_step'][7:10] != [-1] * 3 and record['entropy'] >= 0.0
  for flag, message in (
    ('--prompt=' + 'x' * 40, 'the prompt has 40 tokens and the text 32'),
    ('--infill=a [[40]]', 'its gaps are longer than 32 tokens'),
    ('--infill=a [[b]]', 'must hold a number of tokens'),
    ('--sampler=magic', 'unknown sampler'),
    ('--banned=999', 'banned has [999], but tokens go from 0 to 256'),
  ):
    result = run('sample', f'--workdir={workdir}', flag)
    assert result.returncode == 2 and result.stdout == ''
    assert message in result.stderr and result.stderr.startswith('error: ')
  assert len(records(workdir / 'samples.jsonl')) == 3


@pytest.mark.slow
def test_samplers_are_compared(text_file, tmp_path):
  """Every figure is there with its error; a judge of another kind or vocabulary is refused."""
  flags = [*SMALL, f'--config.data.source={text_file}', '--config.train.steps=1']
  for name in ('epsilon_hybrid', 'ar'):
    succeed('train', f'--config=configs/{name}.py:tiny', f'--workdir={tmp_path / name}', *flags)
  workdir, judge = tmp_path / 'epsilon_hybrid', tmp_path / 'ar'
  settings = ['--samplers=ancestral,acs', '--steps=2,4', '--seeds=2', '--num_samples=2']
  result = succeed('compare', f'--workdir={workdir}', f'--judge={judge}', *settings)
  *table, blank, precision = result.stdout.splitlines()
  assert (blank, precision) == ('', 'Network in float32; draws in float32.')
  rows = [line.split('|') for line in table]
  assert [(row[1].strip(), int(row[2])) for row in rows[2:]] == [
    *(('ancestral', 2), ('ancestral', 4), ('acs', 2), ('acs', 4))
  ]
  assert len({len(row) for row in rows}) == 1
  for record in records(workdir / 'compare.jsonl'):
    assert record['judge_nats'] > 0 and record['entropy'] > 0 and 0 < record['distinct_3'] <= 1
    assert 0 <= record['self_bleu'] <= 1 and 0 <= record['repetition'] <= 1
    assert record['network_calls'] > 0 and record['tokens_per_second'] > 0
    assert set(record['stderr']) <= set(record)
    if record['sampler'] == 'ancestral':
      assert record['redraws'] == record['fixed'] == record['harmed'] == 0
  refused = run('compare', f'--workdir={workdir}', f'--judge={workdir}', *settings)
  assert refused.returncode == 2 and 'the judge is not autoregressive' in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
  'benchmark, config, ratio, rate',
  [
    ('train_step', 'epsilon_hybrid', 'ratio', 'tokens/s'),
    ('sampler', 'epsilon_hybrid', 'uncached, ms a call', 'uncached, tokens/s'),
    ('sampler', 'bd3lm', 'cached : uncached', 'cached, tokens/s'),
    ('attention', 'bd3lm', 'doubled : plain', 'doubled, temporary MiB'),
  ],
)
def test_bench_prints_a_table_of_ratios(benchmark, config, ratio, rate):
  small = [f'--config=configs/{config}.py:tiny', *SMALL, '--config.sampling.steps=4']
  result = succeed('bench', benchmark, *small, '--repeats=2', '--vocab_size=50')
  table = dict(line.split('  ', 1) for line in result.stdout.splitlines())
  assert float(table[ratio].replace(',', '')) > 0.0
  assert float(table[rate].replace(',', '')) > 0.0
  assert float(table['matrix product GFLOP/s'].replace(',', '')) > 0


@pytest.mark.slow
def test_tiny_shakespeare(shared_data, tmp_path):
  """A real file: the prompt is kept and no mask is left."""
  workdir = tmp_path / 'run'
  succeed(
    'train',
    '--config=configs/epsilon_hybrid.py:tiny',
    f'--workdir={workdir}',
    f'--config.data.source={shared_data / "tinyshakespeare" / "input.txt"}',
    '--config.train.steps=2',
  )
  succeed('evaluate', f'--workdir={workdir}')
  succeed('sample', f'--workdir={workdir}', '--prompt=ROMEO:', '--steps=8')
  for sample in records(workdir / 'samples.jsonl'):
    assert sample['text'].startswith('ROMEO:')
    assert max(sample['token_ids']) < 2048
