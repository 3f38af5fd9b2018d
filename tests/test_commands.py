"""The commands as a user meets them: what they print, compare and measure, and mistakes."""

import pytest
from commands import NARROW, SMALL, records, refuse, run, succeed


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


def test_tiny_shakespeare(shared_data, tmp_path):
  """A real file: the prompt is kept and no mask is left."""
  workdir = tmp_path / 'run'
  succeed(
    'train',
    '--config=configs/epsilon_hybrid.py:tiny',
    f'--workdir={workdir}',
    f'--config.data.source={shared_data / "tinyshakespeare" / "input.txt"}',
    '--config.train.steps=2',
    *NARROW,
  )
  succeed('evaluate', f'--workdir={workdir}')
  succeed('sample', f'--workdir={workdir}', '--prompt=ROMEO:', '--steps=8')
  for sample in records(workdir / 'samples.jsonl'):
    assert sample['text'].startswith('ROMEO:')
    assert max(sample['token_ids']) < 2048
