import json

import numpy as np
import pytest

from ardiff_jax.data import packing, pipeline, tokenizers

BYTE = tokenizers.ByteTokenizer('byte', {})
DOCUMENTS = [
  'first document\n',
  '',
  'zweites Dokument, größer\r\n' * 9,
  'third, with many words and lines\n\n' * 5000,
]


@pytest.fixture(scope='module')
def packed():
  """37 rows of 8 tokens; the last shares 3 with the one before."""
  text = ''.join(chr(33 + i % 90) for i in range(37 * 8 - 4))
  return packing.pack([text], BYTE, 8)


def stream_of(documents, tokenizer):
  return [i for text in documents for i in [*tokenizer.encode(text), tokenizer.eos_id]]


def test_no_token_is_lost(monkeypatch):
  monkeypatch.setattr(packing, '_PART_CHARS', 1000)
  packed = packing.pack(DOCUMENTS, BYTE, 128)
  stream = stream_of(DOCUMENTS, BYTE)
  assert packed.stream.dtype == np.uint16
  np.testing.assert_array_equal(packed.stream, stream)
  counted = [packed[row]['tokens'][packed[row]['loss_mask']] for row in range(len(packed))]
  np.testing.assert_array_equal(np.concatenate(counted), stream)
  assert packed.num_bytes == sum(len(text.encode()) for text in DOCUMENTS)


def test_every_document_ends_with_eos():
  packed = packing.pack(DOCUMENTS, BYTE, 64)
  ends = np.flatnonzero(packed.stream == BYTE.eos_id)
  np.testing.assert_array_equal(ends + 1, np.cumsum([len(x.encode()) + 1 for x in DOCUMENTS]))


def test_last_row_is_full_and_counts_only_what_is_new(packed):
  assert len(packed) == 37 and len(packed.stream) == 293
  last = packed[36]
  assert last['tokens'].dtype == np.int32 and last['loss_mask'].dtype == bool
  np.testing.assert_array_equal(last['tokens'], packed.stream[-8:])
  assert last['loss_mask'].tolist() == [False] * 3 + [True] * 5
  assert all(packed[row]['loss_mask'].all() for row in range(36))
  with pytest.raises(IndexError, match='37'):
    packed[37]


def test_large_vocabularies_take_int32():
  class Large(tokenizers.ByteTokenizer):
    vocab_size = 70_000
    eos_id = 69_999

  packed = packing.pack(['some text'], Large('large', {}), 4)
  assert packed.stream.dtype == np.int32
  assert packed[2]['tokens'].tolist() == [*b'ext', 69_999]


def test_text_shorter_than_a_row_makes_one_short_row():
  packed = packing.pack(['six...'], BYTE, 8)
  assert len(packed) == 1 and packed.length == 7
  assert packed[0]['tokens'].tolist() == [*b'six...', BYTE.eos_id]
  assert packed[0]['loss_mask'].all()


def test_progress_is_reported_only_when_work_is_long(monkeypatch, capsys):
  packing.pack(DOCUMENTS, BYTE, 8, progress='train text')
  assert capsys.readouterr().err == ''
  monkeypatch.setattr(packing, '_REPORT_SECONDS', 0.0)
  packing.pack(DOCUMENTS, BYTE, 8)
  assert capsys.readouterr().err == ''
  packing.pack(DOCUMENTS, BYTE, 8, progress='train text')
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('train text: document 1 of 4')


def take(dataset, count):
  iterator = iter(dataset)
  return [next(iterator) for _ in range(count)]


def assert_equal_batches(got, expected):
  assert len(got) == len(expected) > 0
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_array_equal(a['tokens'], b['tokens'])
    np.testing.assert_array_equal(a['loss_mask'], b['loss_mask'])


def test_every_row_once_an_epoch_in_another_order(packed):
  batches = take(pipeline.train_batches(packed, batch_size=2, seed=0), 37)
  assert batches[0]['tokens'].shape == batches[0]['loss_mask'].shape == (2, 8)
  assert batches[0]['tokens'].dtype == np.int32 and batches[0]['loss_mask'].dtype == bool
  rows = [tuple(row) for batch in batches for row in batch['tokens']]
  first, second = rows[:37], rows[37:]
  everything = sorted(tuple(packed[row]['tokens']) for row in range(37))
  assert sorted(first) == sorted(second) == everything
  assert first != second and first != everything
  assert sum(batch['loss_mask'].sum() for batch in batches) == 2 * len(packed.stream)


def test_seed_decides(packed):
  runs = [take(pipeline.train_batches(packed, batch_size=8, seed=s), 5) for s in (1, 1, 2)]
  assert_equal_batches(runs[0], runs[1])
  assert any((a['tokens'] != b['tokens']).any() for a, b in zip(runs[0], runs[2], strict=True))


@pytest.mark.parametrize('count', [2, 4])
def test_processes_together_equal_one(packed, count):
  whole = take(pipeline.train_batches(packed, batch_size=8, seed=3), 12)
  parts = np.split(np.arange(8), count)
  shares = [
    take(pipeline.train_batches(packed, batch_size=8, seed=3, part=part), 12) for part in parts
  ]
  joined = [
    {name: np.concatenate([x[name] for x in step]) for name in step[0]}
    for step in zip(*shares, strict=True)
  ]
  assert_equal_batches(joined, whole)


def test_processes_read_their_own_rows_alone(packed):
  class Counting:
    read = []  # noqa: RUF012

    def __len__(self):
      return len(packed)

    def __getitem__(self, row):
      self.read.append(row)
      return packed[row]

  next(iter(pipeline.train_batches(Counting(), batch_size=8, seed=3, part=np.array([2, 5]))))
  assert len(Counting.read) == 2


@pytest.mark.parametrize('stop', [0, 1, 9, 20])
def test_restored_state_continues_identically(packed, stop):
  dataset = pipeline.train_batches(packed, batch_size=4, seed=5)
  iterator = iter(dataset)
  for _ in range(stop):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))  # as a checkpoint holds it
  expected = [next(iterator) for _ in range(12)]
  restored = iter(dataset)
  restored.set_state(state)
  assert_equal_batches([next(restored) for _ in range(12)], expected)


def test_fewer_rows_than_a_batch_still_train(packed):
  batch = take(pipeline.train_batches(packed, batch_size=100, seed=0), 1)[0]
  assert batch['tokens'].shape == (100, 8)
  assert {tuple(row) for row in batch['tokens']} == {
    tuple(packed[row]['tokens']) for row in range(37)
  }


@pytest.mark.parametrize('batch_size', [1, 8, 37, 50])
def test_eval_covers_every_token_once_in_order(packed, batch_size):
  batches = list(pipeline.eval_batches(packed, batch_size=batch_size))
  assert len(batches) == -(-37 // batch_size)
  for batch in batches:
    assert batch['tokens'].shape == batch['loss_mask'].shape == (batch_size, 8)
    assert batch['tokens'].dtype == np.int32 and batch['loss_mask'].dtype == bool
  seen = np.concatenate([batch['tokens'][batch['loss_mask']] for batch in batches])
  np.testing.assert_array_equal(seen, packed.stream)
