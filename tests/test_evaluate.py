"""The command evaluate: the same figures every time and at every batch size, and generated text."""

import json
import re

import numpy as np
import pytest
from commands import records, refuse, succeed
from conftest import small_config
from untrained import one_device, untrained

from ardiff_jax import evaluate
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import sets, tables


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Returns a function: the work directory of a method, with random parameters, on sums."""
  folder = tmp_path_factory.mktemp('runs')

  def of(name, tens=1):
    run = folder / f'{name}-{tens}'
    if not run.exists():
      text = folder / f'sums-{tens}.txt'
      lines = (f'{i} plus {j} is {i + j}.\n' for i in range(20 * tens) for j in range(20))
      text.write_text(''.join(lines))
      untrained(small_config(name, text), run)
    return run

  return of


@pytest.fixture(scope='module', autouse=True)
def of_one_device():
  with one_device():
    yield


def whole_only(name):
  return pytest.param(name, marks=pytest.mark.full)


# one of each way to a likelihood; the others go one of these ways, by other noise or rows
@pytest.mark.parametrize(
  'name',
  [
    *('ar', 'sedd', 'bd3lm', 'gamma_hybrid', 'a3', 'slide'),
    *map(whole_only, ('mdlm', 'epsilon_hybrid', 'adapt')),
  ],
)
def test_bounds_do_not_depend_on_the_batch_size(name, made):
  one, many, again = (
    evaluate.evaluate(made(name), ['valid'], settings=evaluate.Settings(batch_size=size))[0]
    for size in (1, 8, 8)
  )
  assert many == again
  np.testing.assert_allclose(one['nll_per_token'], many['nll_per_token'], rtol=1e-5)
  np.testing.assert_allclose(one['stderr'], many['stderr'], rtol=1e-3)
  assert one['tokens'] == many['tokens'] and one['tokens'] % 32  # the last row is part of one


def test_what_a_file_of_ones_own_is_taken_to_be_stands_beside_its_figure():
  record = dict(kind='exact', stderr=None, tokens=9, tokenizer='byte', bytes=9, law='')
  record |= dict(perplexity=2.0, nll_per_token=0.7, process='', bits_per_byte=1.0, baselines={})
  printed = [
    tables.of_likelihoods([record | {'data': data, 'note': sets.note(data)}]).splitlines()[1]
    for data in ('pubmed:a.txt', 'ag_news:a.csv', 'a.txt')
  ]
  assert 'tokens of scientific_papers stay as is' in printed[0]
  assert printed[1] == '  read as rows of class, title and description, whose entities are undone'
  assert printed[2].startswith('  exact')


def test_commands_score_items_alike_every_time(made, tmp_path):
  """Choices and gaps by their flags, at batches of one and of many; a set of text twice."""
  run = made('mdlm')
  chosen, gaps, text = (tmp_path / name for name in ('chosen.jsonl', 'gaps.jsonl', 'text.txt'))
  right = [
    {'query': f'{i} plus {i} is', 'choices': [f'{2 * i}.', f'{i}.'], 'gold': 0} for i in range(4)
  ]
  chosen.write_text(
    ''.join(json.dumps(x) + '\n' for x in [*right, right[0] | {'query': 'so ' * 20}])
  )
  words = [{'text': f'{i} plus 2 is {i + 2}'} for i in range(5)] + [{'text': 'so ' * 20}]
  gaps.write_text(''.join(json.dumps(x) + '\n' for x in words))
  text.write_text('3 plus 4 is 7.\n' * 9)
  command = lambda *flags: succeed('evaluate', f'--workdir={run}', *flags).stdout  # noqa: E731
  skip = f'--choices={chosen}', '--too_long=skip', '--rows=3'
  table = command(*skip, '--batch_size=1')
  few = command(*skip, '--batch_size=1', '--max_items=2')
  settings = evaluate.Settings(rows=3, batch_size=8)
  evaluate.choose(run, [str(chosen)], too_long='skip', settings=settings)
  first, two, again = records(run / 'choices.jsonl')
  assert first == again and table.strip() == tables.of_choices([again]).strip() != few.strip()
  assert (first['items'], first['too_long'], first['samples'], two['items']) == (4, 1, 3, 2)
  cut = f'--infill={gaps}', '--too_long=cut'
  table = command(*cut, '--batch_size=1')
  command(*cut, '--sampler=remdm_cap', '--steps=2', '--temperature=0.5', '--max_items=3')
  command(*cut, '--hyperschedule=block,width=8,num_levels=2')
  evaluate.fill(run, [str(gaps)], too_long='cut', temperature=0.0, batch_size=8)
  first, other, block, again = records(run / 'infilling.jsonl')
  assert first == again and table.strip() == tables.of_infilling([again]).strip()
  assert (first['items'], first['cut'], other['items']) == (6, 1, 3)
  assert (other['sampler'], other['temperature']) == ('remdm_cap', 0.5) != first['sampler']
  assert block['hyperschedule'] == 'block(length=32, width=8, num_levels=2)'
  command(f'--data={text}')
  evaluate.evaluate(run, [str(text)])
  one, same = records(run / 'eval.jsonl')[-2:]
  assert one == same and one['data'] == str(text)


def test_samples_are_judged_beside_real_text(made, tmp_path):
  """A judge of bytes reads what a model of bytes wrote, and loops are told from text."""
  model, judge = made('mdlm', tens=15), made('ar')
  out = tmp_path / 'samples.jsonl'
  arguments = f'--workdir={model}', f'--samples={out}', f'--judge={judge}'
  succeed('sample', f'--workdir={model}', '--num_samples=12', '--steps=8', f'--out={out}')
  table = succeed('evaluate', *arguments).stdout
  (record,) = records(model / 'judged.jsonl')
  assert record['texts'] == 12 and record['length'] == 32 and record['dtype'] == 'float32'
  assert record['mauve'] is None and 'at least 100' in record['refused']
  assert record['judge_perplexity'] == pytest.approx(np.exp(record['judge_nats']))
  assert record['real_judge_nats'] > 0 and record['controls'] == {}
  (one,), (many,), (again,) = (
    evaluate.judge(model, [str(out)], judge, batch_size=size) for size in (1, 16, 16)
  )
  assert many == again
  for name in ('judge_nats', 'stderr', 'real_judge_nats', 'entropy'):
    assert one[name] == pytest.approx(many[name], rel=1e-5)
  for said in ('network in float32', 'at least 100', f'{record["judge_perplexity"]:.3f}'):
    assert said in table

  loop = {'text': '1 ' * 16, 'token_ids': list(b'1 ' * 16), 'sampler': 'none'}
  out.write_text((json.dumps(loop) + '\n') * 120)
  assert 'beware: ' in succeed('evaluate', *arguments).stdout
  looped = records(model / 'judged.jsonl')[-1]
  assert looped['mauve'] < 0.1 and looped['mauve_texts'] == 120
  assert looped['mauve_shuffled'] > looped['mauve']
  assert looped['entropy'] < 1 < looped['real_entropy']
  assert looped['distinct_1'] < 0.01 and looped['self_bleu'] == 1.0 > looped['real_self_bleu']


def test_another_tokenizer_is_refused_unless_asked_for(made, tmp_path):
  model, judge = made('mdlm'), tmp_path / 'judge'
  config = small_config('ar', model.parent / 'sums-1.txt')
  config.tokenizer.update(kind='sentencepiece', vocab_size=300)
  untrained(config, judge)
  out = tmp_path / 'samples.jsonl'
  lines = [{'text': '1 plus 2 is 3.\n', 'token_ids': list(b'1 plus 2 is 3.\n')}] * 3
  out.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(UserError, match='another tokenizer'):
    evaluate.judge(model, [str(out)], judge)
  command = f'--workdir={model}', f'--samples={out}', f'--judge={judge}'
  assert '--retokenise' in refuse('evaluate', *command).stderr
  (record,) = evaluate.judge(model, [str(out)], judge, retokenise=True)
  assert record['retokenised'] and 1 < record['length'] < 15
  with pytest.raises(UserError, match='is not autoregressive'):
    evaluate.judge(model, [str(out)], model)
  other, short = tmp_path / 'other.txt', tmp_path / 'short.txt'
  other.write_text('zz zz zz\n' * 30)
  short.write_text('1 plus')
  (beside,) = evaluate.judge(model, [str(out)], made('ar'), str(other))
  assert beside['real'] == str(other) and beside['real_entropy'] < record['real_entropy']
  with pytest.raises(UserError, match='shorter than two texts of 15 tokens'):
    evaluate.judge(model, [str(out)], made('ar'), str(short))


def test_mistakes_are_refused(made, tmp_path):
  model, judge = made('mdlm'), made('ar')
  out, empty = tmp_path / 'samples.jsonl', tmp_path / 'empty.txt'
  empty.touch()
  long = tmp_path / 'long.jsonl'
  long.write_text(json.dumps({'text': 'a word ' * 20}) + '\n')
  uneven = [{'text': 'a', 'token_ids': [97]}, {'text': 'ab', 'token_ids': [97, 98]}]
  out.write_text(''.join(json.dumps(line) + '\n' for line in uneven))
  mixed, begun, foreign = (tmp_path / f'{name}.jsonl' for name in ('mixed', 'begun', 'foreign'))
  line = {'text': 'abcd', 'token_ids': list(b'abcd')}
  for path, other in (
    (mixed, {'temperature': 0.5}),
    (begun, {'prompt': 'ab'}),
    (foreign, {'token_ids': [2000, 1, 2, 3]}),
  ):
    path.write_text(''.join(json.dumps(x) + '\n' for x in (line, line | other)))
  for arguments, message in (
    (['--data=wikitxt'], 'Did you mean wikitext'),
    ([f'--samples={out}'], 'go together'),
    ([f'--samples={out}', f'--judge={judge}', '--data=valid,lambada'], 'one --data'),
    ([f'--samples={out}', f'--judge={judge}', '--rows=2'], '--rows goes with --choices, not'),
    ([f'--infill={long}', f'--choices={long}'], 'one of'),
  ):
    assert message in refuse('evaluate', f'--workdir={model}', *arguments).stderr
  score, fill, judged = evaluate.evaluate, evaluate.fill, evaluate.judge
  for call, arguments, message in (
    (score, (['wikitext'], tmp_path), '--data_dir of evaluate, names the folder'),
    (score, ([f'{tmp_path}/nowhere.txt'],), 'neither a text file nor a known set'),
    (score, ([str(empty)],), 'is empty'),
    (fill, ([str(long)],), "begins 'a word a word a word a word a word a wor' has 139 tokens"),
    (fill, ([str(empty)],), 'is empty'),
    (judged, ([str(out)], judge), 'texts of 1 to 2 tokens'),
    (judged, ([str(mixed)], judge), 'several kinds (temperature)'),
    (judged, ([str(begun)], judge), 'given in part'),
    (judged, ([str(foreign)], judge), 'not of the tokenizer'),
    (judged, ([f'{tmp_path}/none.jsonl'], judge), 'does not exist'),
    (judged, ([str(long)], judge), 'holds no samples'),
  ):
    with pytest.raises(UserError, match=re.escape(message)):
      call(model, *arguments)
