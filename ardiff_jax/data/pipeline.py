"""Batches of packed rows: endless and shuffled for training, once and in order to evaluate."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from ardiff_jax.data.packing import Packed

Batch = dict[str, np.ndarray]


def train_batches(
  packed: Packed,
  *,
  batch_size: int,
  seed: int,
  part: np.ndarray | None = None,
) -> grain.IterDataset:
  """Returns endless batches, a function of the seed alone; every epoch is shuffled anew.

  All processes together see exactly the batches of one: which rows of the text make the batch is
  drawn for all, then each process reads its own. So the iterator's state, of `get_state` and
  `set_state`, is the same in all of them, and whatever their number.

  Args:
    packed: the rows, N of length L; N may be less than `batch_size`.
    batch_size: rows in the batch of all processes together, B.
    seed: of the shuffling.
    part: int[b], places in the batch that are read here; None for all.

  Returns:
    Elements are {"tokens": int32[b, L], "loss_mask": bool[b, L]}.
  """
  part = np.arange(batch_size) if part is None else part
  return (
    grain.MapDataset.range(len(packed))
    .seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .map(lambda rows: _stack([packed[int(row)] for row in rows[part]]))
    .to_iter_dataset(grain.ReadOptions(num_threads=0))  # A row is a copy: threads only cost.
  )


def eval_batches(
  packed: Packed, *, batch_size: int, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
  """Yields rows once, in order, as {"tokens": int32[B, L], "loss_mask": bool[B, L]}.

  The last batch is filled up with copies of its last row whose loss mask is all False.

  Args:
    packed: the rows.
    batch_size: B.
    rows: which of them; None for all.
  """
  rows = range(len(packed)) if rows is None else rows
  for start in range(0, len(rows), batch_size):
    items = [packed[int(row)] for row in rows[start : start + batch_size]]
    count = len(items)
    items += [items[-1]] * (batch_size - count)
    batch = _stack(items)
    batch['loss_mask'][count:] = False
    yield batch


def _stack(items: Sequence[Batch]) -> Batch:
  return {name: np.stack([item[name] for item in items]) for name in items[0]}
