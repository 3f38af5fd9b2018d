"""Batches of packed rows: endless and shuffled for training, once and in order to evaluate."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from ardiff_jax.data.packing import Packed
from ardiff_jax.errors import UserError

Batch = dict[str, np.ndarray]


def train_batches(
  packed: Packed,
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns endless batches, a function of the seed alone; every epoch is shuffled anew.

  All processes together see exactly the batches of one: the global batch is formed first,
  then each takes its own consecutive rows of it. The iterator has `get_state` and
  `set_state` and goes into `grain.checkpoint.CheckpointSave`.

  Args:
    packed: the rows, N of length L; N may be less than `batch_size`.
    batch_size: rows in the batch of all processes together, B.
    seed: of the shuffling.
    process_index: which process this is.
    process_count: how many there are, P.

  Returns:
    Elements are {"tokens": int32[B/P, L], "loss_mask": bool[B/P, L]}.

  Raises:
    UserError: `batch_size` cannot be divided among the processes.
  """
  if batch_size % process_count:
    raise UserError(
      f'The batch size {batch_size} cannot be divided among {process_count} processes: '
      f'make it a multiple of {process_count}.'
    )
  share = batch_size // process_count
  mine = slice(process_index * share, (process_index + 1) * share)
  return (
    grain.MapDataset.source(packed)
    .seed(seed)
    .shuffle()
    .repeat()
    .batch(batch_size)
    .map(lambda batch: {name: value[mine] for name, value in batch.items()})
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
    batch = {name: np.stack([item[name] for item in items]) for name in items[0]}
    batch['loss_mask'][count:] = False
    yield batch
