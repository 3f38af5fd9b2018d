"""Infilling: files, rows, and how near a text comes."""

import gzip
import json

import numpy as np
import pytest
from conftest import DATA, small_config
from untrained import one_device

from ardiff_jax import evaluate
from ardiff_jax.data.tokenizers import ByteTokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import infilling, tables
from ardiff_jax.evaluation.infilling import Item
from ardiff_jax.training.loop import train

BYTES = ByteTokenizer('byte', {})
RECORDS = [
  {'prefix': 'One ', 'middle': 'and', 'suffix': ' one.'},
  {'prompt': 'def f():\n', 'canonical_solution': '  return 1\n', 'suffix': ''},
  {'text': 'So it came to the last word.\n'},
]


@pytest.fixture(scope='module', autouse=True)
def of_one_device():
  with one_device():
    yield


def write(path, records):
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return path


def test_all_forms_are_read_gzipped_or_not(tmp_path):
  path = write(tmp_path / 'items.jsonl', RECORDS)
  items = infilling.read(path)
  assert items == [
    Item('One ', 'and', ' one.'),
    Item('def f():\n', '  return 1\n', ''),
    Item('So it came to the last', ' word.', ''),
  ]
  line = json.dumps(RECORDS[0] | {'middle': 'a\u2028b'}, ensure_ascii=False)
  (tmp_path / 'odd.jsonl').write_text('\ufeff' + line + '\r\n')  # a separator that JSON allows
  assert infilling.read(tmp_path / 'odd.jsonl')[0].middle == 'a\u2028b'
  zipped = tmp_path / 'items.jsonl.gz'
  zipped.write_bytes(gzip.compress(path.read_bytes()))
  assert infilling.read(zipped) == items


@pytest.mark.parametrize(
  'line, message',
  [
    ('{"prefix": "a", "middle": "b"}', "line 2 is not an infilling: .*KeyError 'suffix'"),
    ('{"prefix": "a", "middle": " ", "suffix": "c"}', 'line 2 .*a middle, and something around'),
    ('{"prefix": "", "middle": "b", "suffix": ""}', 'line 2 .*a middle, and something around'),
    ('{"prefix": "a", "middle": 3, "suffix": "c"}', 'line 2 .*must be text'),
    ('{"text": "word"}', 'line 2 .*a middle, and something around'),
    ('[]', 'line 2 is not an infilling'),
    ('{', 'line 2 is not an infilling'),
  ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
  path = write(tmp_path / 'items.jsonl', RECORDS[:1])
  path.write_text(path.read_text() + line + '\n')
  with pytest.raises(UserError, match=message):
    infilling.read(path)


def test_bad_files_are_named(tmp_path):
  with pytest.raises(UserError, match=r'nowhere\.jsonl cannot be read'):
    infilling.read(tmp_path / 'nowhere.jsonl')
  with pytest.raises(UserError, match=r'items\.jsonl is empty'):
    infilling.read(write(tmp_path / 'items.jsonl', []))
  broken, whole = tmp_path / 'items.jsonl.gz', gzip.compress(bytes(range(256)) * 9)
  for damaged in (whole[:-9], whole[:20] + b'\xff\xff' + whole[22:]):
    broken.write_bytes(damaged)
    with pytest.raises(UserError, match=r'items\.jsonl\.gz cannot be read'):
      infilling.read(broken)


def shown(row, where):
  return bytes(x for x in row[where].tolist() if x < 256).decode()


def test_rows_leave_the_middle_out(tmp_path):
  rows = infilling.encode(infilling.read(write(tmp_path / 'items.jsonl', RECORDS)), BYTES, 32)
  assert rows.cut == 0
  for item, row, hole in zip(*rows[:3], strict=True):
    assert shown(row, hole) == item.middle
    assert shown(row, ~hole) == item.prefix + item.suffix
    assert (row[len(''.join(item)) :] == BYTES.eos_id).all()


def test_too_long_items_are_refused_left_out_or_cut():
  items = [Item('before ', 'it', ' after'), Item('a', 'b', 'c'), Item('', 'far too long', 'x')]
  with pytest.raises(UserError, match=r"begins 'before it after' has 15 tokens, .* 10: .*cut"):
    infilling.encode(items, BYTES, 10)
  rows = infilling.encode(items, BYTES, 10, 'skip')
  assert rows.items == items[1:2] and rows.cut == 0
  rows = infilling.encode(items, BYTES, 10, 'cut')
  assert rows.items == items[:2] and rows.cut == 1
  assert shown(rows.tokens[0], rows.tokens[0] < 256) == 'ore it aft'
  assert shown(rows.tokens[0], rows.hole[0]) == 'it'
  rows = infilling.encode(items, BYTES, 6, 'cut')
  assert shown(rows.tokens[0], rows.tokens[0] < 256) == 'e it a'
  with pytest.raises(UserError, match='no item fits'):
    infilling.encode(items[2:], BYTES, 10, 'cut')


def test_score_is_one_for_the_same_words_and_nothing_for_others():
  figures = infilling.score(
    ['the cat sat', ' on the mat', 'a dog'], ['the cat sat ', 'on a mat', 'no match']
  )
  np.testing.assert_array_equal(figures['exact'], [1, 0, 0])
  np.testing.assert_array_equal(infilling.score(['  x = 1\n'], ['x = 1'])['exact'], [0])  # is code
  np.testing.assert_allclose(figures['rouge1'], [1, 2 / 3, 0])
  np.testing.assert_allclose(figures['rouge2'], [1, 0, 0])
  np.testing.assert_allclose(figures['rougeL'], [1, 2 / 3, 0])


def test_public_files_are_read():
  folder = DATA / 'code_infilling'
  if not folder.is_dir() or not (DATA / 'lambada').is_dir():
    pytest.skip(f'no code_infilling and lambada in {DATA}')
  items = infilling.read(folder / 'HumanEval-SingleLineInfilling.jsonl.gz')
  assert len(items) == 1033 and all(item.middle.endswith('\n') for item in items)
  items = infilling.read(DATA / 'lambada' / 'lambada_test.jsonl')
  assert len(items) == 5153
  assert items[0].prefix.endswith("I don't care about") and items[0].middle == ' signs'


@pytest.mark.parametrize('name', ['ar', 'mdlm'])
def test_a_model_that_knows_the_text_fills_it_in(name, tmp_path, text_file):
  """A word of sums as in its training text, in the middle, and the last one as of LAMBADA."""
  config = small_config(name, text_file, steps=120, learning_rate=3e-3, eval_every=120)
  config.train.checkpoint_every = 120
  config.eval.num_samples = 8  # as where choices are taught: the programs are the same
  train(config, tmp_path / 'run')
  path = write(
    tmp_path / 'sums.jsonl',
    [
      {'prefix': f'{i} plus {j}', 'middle': ' is', 'suffix': f' {i + j}.'}
      for i in (1, 2)
      for j in (3, 4)
    ],
  )
  first, second = (
    evaluate.fill(tmp_path / 'run', [str(path)], temperature=0.0, batch_size=size)[0]
    for size in (1, 3)
  )
  assert first['exact'] >= 0.5 and first['items'] == 4
  table = tables.of_infilling([first])
  assert '| sums.jsonl | 4 | 0 | ' in table and 'of LAMBADA its last-word accuracy' in table
  assert first == second
  assert len((tmp_path / 'run' / 'infilling.jsonl').read_text().splitlines()) == 2
  if name == 'ar':  # so few updates teach the other no word without those behind it
    texts = [{'text': f'{i} plus {j} is'} for i in (1, 2) for j in (13, 14)]
    last = write(tmp_path / 'last.jsonl', texts)
    (record,) = evaluate.fill(tmp_path / 'run', [str(last)], temperature=0.0, batch_size=3)
    assert record['exact'] >= 0.5 and record['items'] == 4
