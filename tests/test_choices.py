"""Multiple choice: files, rows, and who is right."""

import json

import numpy as np
import pytest
from conftest import small_config
from untrained import one_device

import ardiff_jax
from ardiff_jax import evaluate
from ardiff_jax.data.tokenizers import ByteTokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import choices, tables
from ardiff_jax.evaluation.choices import Item
from ardiff_jax.training.loop import train

BYTES = ByteTokenizer('byte', {})
RECORDS = [
  {'query': 'One and one', 'choices': ['is two.', 'is three.', 'is one.'], 'gold': 0},
  {'ctx': 'He sat', 'label': 1, 'endings': ['up the sky.', 'down.']},
  {
    'context_options': ['The cat ate so the cat', 'The cat ate so the mouse'],
    'continuation': 'was full.',
    'gold': 0,
  },
]


@pytest.fixture(scope='module', autouse=True)
def of_one_device():
  with one_device():
    yield


def write(path, records):
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return path


def test_all_forms_are_read(tmp_path):
  items = choices.read(write(tmp_path / 'items.jsonl', RECORDS))
  assert items[0] == Item(('One and one',) * 3, ('is two.', 'is three.', 'is one.'), 0)
  assert items[1] == Item(('He sat',) * 2, ('up the sky.', 'down.'), 1)
  assert items[2].contexts[1].endswith('mouse') and items[2].choices == ('was full.',) * 2


@pytest.mark.parametrize(
  'name, count, sizes',
  [
    ('hellaswag/hellaswag_val', 10_042, {4}),
    ('multiple_choice/piqa', 1838, {2}),
    ('multiple_choice/siqa', 1954, {2}),
    ('multiple_choice/arc_easy', 2376, {4}),
    ('multiple_choice/winogrande', 1267, {2}),
  ],
)
def test_public_files_are_read(name, count, sizes, shared_data):
  items = choices.read(shared_data / f'{name}.jsonl')
  assert len(items) == count and {len(item.choices) for item in items} == sizes


@pytest.mark.parametrize(
  'line, message',
  [
    ('{"query": "a", "choices": ["b", "c"]}', "line 2 .*KeyError 'gold'"),
    ('{"query": "a", "choices": ["b", "c"], "gold": "2"}', r'line 2 .*2 is not in 0\.\.1'),
    ('{"query": "a", "choices": ["b"], "gold": 0}', 'line 2 .*at least two'),
    ('{"query": "a", "choices": ["b", 3], "gold": 0}', 'line 2 .*all of them text'),
    ('["a"]', 'line 2 is not a multiple choice'),
    ('no json', 'line 2 is not a multiple choice'),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
  path = write(tmp_path / 'items.jsonl', RECORDS[:1])
  path.write_text(path.read_text() + line + '\n')
  with pytest.raises(UserError, match=message):
    choices.read(path)


def test_missing_and_empty_files_are_named(tmp_path):
  with pytest.raises(UserError, match=r'nowhere\.jsonl cannot be read'):
    choices.read(tmp_path / 'nowhere.jsonl')
  with pytest.raises(UserError, match='is empty'):
    choices.read(write(tmp_path / 'items.jsonl', []))


def test_rows_count_the_choice_and_give_the_rest(tmp_path):
  items = choices.read(write(tmp_path / 'items.jsonl', RECORDS))
  rows = choices.encode(items, BYTES, 40)
  assert len(rows.tokens) == 7 and rows.items == items
  texts = [
    bytes(row[counted].tolist()).decode()
    for row, counted in zip(rows.tokens, rows.counted, strict=True)
  ]
  assert texts == [
    ' is two.',
    ' is three.',
    ' is one.',
    ' up the sky.',
    ' down.',
    *[' was full.'] * 2,
  ]
  assert (rows.tokens[3, len('He sat up the sky.') :] == BYTES.eos_id).all()
  short = choices.encode(items, BYTES, 20, 'skip')
  assert [item.choices[0] for item in short.items] == ['up the sky.']
  with pytest.raises(UserError, match='no item fits'):
    choices.encode(items, BYTES, 5, 'skip')
  with pytest.raises(UserError, match=r"begins 'One and one' has 21 tokens, .* 20: .*skip"):
    choices.encode(items, BYTES, 20)


def test_cut_rows_lack_the_beginning_of_the_context(tmp_path):
  items = choices.read(write(tmp_path / 'items.jsonl', RECORDS))
  rows = choices.encode(items, BYTES, 20, 'cut')
  whole = choices.encode(items, BYTES, 40)
  assert rows.items == items and rows.cut == 2 and whole.cut == 0
  np.testing.assert_array_equal(rows.numbers, [0, 0, 0, 1, 1, 2, 2])
  dropped = []
  for row, counted, full, marked in zip(*rows[1:3], *whole[1:3], strict=True):
    assert (row[counted] == full[marked]).all()
    ours, theirs = (bytes(x[x < 256].tolist()) for x in (row, full))
    assert theirs.endswith(ours)
    dropped.append(len(theirs) - len(ours))
  assert dropped == [1, 1, 1, 0, 0, 14, 14]  # as much of each choice of an item


def test_score_counts_the_least_nats_and_shares_ties():
  items = [
    Item(('a',) * 2, ('long choice', 'b'), 0),
    Item(('a',) * 2, ('b', 'c'), 0),
    Item(('a',) * 4, ('b', 'c', 'd', 'e'), 3),
  ]
  score = choices.score(items, np.array([5.0, 3.0, 1.0, 1.0, 4.0, 3.0, 2.0, 1.0]))
  np.testing.assert_allclose(score.accuracy, (0 + 0.5 + 1) / 3)
  np.testing.assert_allclose(score.accuracy_per_byte, (1 + 0.5 + 1) / 3)
  np.testing.assert_allclose(score.chance, (1 / 2 + 1 / 2 + 1 / 4) / 3)
  np.testing.assert_allclose(score.stderr, np.std([0, 0.5, 1], ddof=1) / 3**0.5)


@pytest.mark.parametrize('name', ['ar', 'mdlm', 'a3'])
def test_a_model_that_knows_the_text_chooses_it(name, tmp_path, text_file):
  """Sums as in its training text against letters that are not in it."""
  config = small_config(name, text_file, steps=120, learning_rate=3e-3, eval_every=120)
  config.train.checkpoint_every = 120
  config.eval.num_samples = 8
  train(config, tmp_path / 'run')
  records = [
    {'query': f'{i} plus {j}', 'choices': ['#@ %!', f'is {i + j}.'], 'gold': 1}
    for i in range(4)
    for j in range(4)
  ]
  path = write(tmp_path / 'sums.jsonl', [*records, RECORDS[2]])
  rows = evaluate.Settings(rows=8)
  (record,) = evaluate.choose(tmp_path / 'run', [str(path)], too_long='skip', settings=rows)
  assert record['items'] == 16 and record['too_long'] == 1 and record['chance'] == 0.5
  assert record['accuracy'] > 0.8
  (few,) = evaluate.choose(tmp_path / 'run', [str(path)], max_items=4, settings=rows)
  assert few['items'] == 4
  assert '| sums.jsonl | 4 | 0 |' in tables.of_choices([few])
  assert len((tmp_path / 'run' / 'choices.jsonl').read_text().splitlines()) == 2

  model = ardiff_jax.load(tmp_path / 'run')
  rows = choices.encode(choices.read(path), model.tokenizer, 32, 'skip')
  nats = [
    model.sequence_nats(rows.tokens, rows.counted, num_samples=8, seed=0, batch_size=size)
    for size in (1, 8)
  ]
  np.testing.assert_allclose(*nats, rtol=1e-5)
  same, all_counted = rows.tokens[[0] * 8], np.ones((8, 32), bool)
  for numbers, alike in (([3] * 8, True), ([*range(8)], name != 'mdlm')):
    one, *others = model.sequence_nats(
      same, all_counted, num_samples=8, seed=0, numbers=np.array(numbers)
    )
    assert all((one == other) == alike for other in others)
