"""Every config end to end, by the commands."""

import json

import pytest
from commands import NARROW, losses, records, succeed, succeed_alone

import ardiff_jax

OTHERS = ('mdlm', 'epsilon_hybrid', 'slide', 'sedd', 'gamma_hybrid', 'bd3lm', 'a3', 'adapt')


@pytest.mark.parametrize(
  'name, flags, succeed',
  [
    pytest.param('ar', [], succeed_alone, id='ar, as shipped, in processes of their own'),
    *(pytest.param(name, NARROW, succeed, id=name) for name in OTHERS),
    pytest.param('draft_refine', NARROW, succeed, id='draft_refine'),  # has no bits per byte
    *(
      pytest.param(name, [], succeed, id=f'{name}, as shipped', marks=pytest.mark.full)
      for name in OTHERS
    ),
  ],
)
def test_every_config_trains_evaluates_and_samples(name, flags, succeed, text_file, tmp_path):
  """Two steps of the shipped tiny config through all commands, with a trained vocabulary."""
  workdir = tmp_path / 'run'
  trained = succeed(
    'train',
    f'--config=configs/{name}.py:tiny',
    f'--workdir={workdir}',
    f'--config.data.source={text_file}',
    '--config.tokenizer.vocab_size=300',
    '--config.train.steps=2',
    *flags,
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
