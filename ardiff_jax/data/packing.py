"""Packing: documents to one stream of tokens, cut in rows of equal length."""

import array
import dataclasses
import sys
import time
from collections.abc import Sequence

import numpy as np

from ardiff_jax.data import tokenizers

_PART_CHARS = 1 << 16  # Encoding a whole book at once costs gigabytes in sentencepiece.
_REPORT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Packed:
  """All tokens of a split, each document followed by eos, read in rows of L.

  Where L does not divide the stream the last row starts earlier, so that it is full too: the
  tokens it shares with the row before are context, and its loss mask counts only the rest. Every
  token is counted once, and no row has padding.

  Attributes:
    stream: uint16[num_tokens] where all ids fit, else int32.
    length: L.
    num_bytes: UTF-8 bytes of the documents, eos not counted.
  """

  stream: np.ndarray
  length: int
  num_bytes: int

  def __len__(self) -> int:
    """Returns N, the number of rows."""
    return -(-len(self.stream) // self.length)

  def __getitem__(self, row: int) -> dict[str, np.ndarray]:
    """Returns {'tokens': int32[L], 'loss_mask': bool[L]} of `row` in 0..N-1."""
    if not 0 <= row < len(self):
      raise IndexError(f'row {row} is not in 0..{len(self) - 1}')
    start = min(row * self.length, len(self.stream) - self.length)
    place_L = np.arange(start, start + self.length)
    return {
      'tokens': self.stream[start : start + self.length].astype(np.int32),
      'loss_mask': place_L >= row * self.length,
    }

  def spread(self, count: int) -> np.ndarray:
    """Returns int32[N, L], at most so many full rows, evenly spread and none twice."""
    full = max(1, len(self.stream) // self.length)
    rows = np.unique(np.linspace(0, full - 1, min(count, full)).astype(int))
    return np.stack([self[int(row)]['tokens'] for row in rows])


def pack(
  documents: Sequence[str],
  tokenizer: tokenizers.Tokenizer,
  length: int,
  progress: str | None = None,
) -> Packed:
  """Encodes `documents` into rows of `length`; no token is lost.

  Args:
    documents: the text; each is followed by eos.
    tokenizer: gives the ids.
    length: tokens a row, L; a stream that is shorter makes one short row.
    progress: what to call the work in lines on standard error, one every few seconds;
      None keeps quiet.
  """
  stream = array.array('H' if tokenizer.vocab_size <= 1 << 16 else 'i')
  num_bytes = 0
  next_report = time.monotonic() + _REPORT_SECONDS
  for done, document in enumerate(documents):
    for part in tokenizers.split_text(document, _PART_CHARS):
      stream.extend(tokenizer.encode(part))
      num_bytes += len(part.encode())
      if progress is not None and time.monotonic() >= next_report:
        next_report = time.monotonic() + _REPORT_SECONDS
        print(
          f'{progress}: document {done + 1} of {len(documents)}, '
          f'{num_bytes / 1e6:.1f} MB, {len(stream) / 1e6:.1f} M tokens',
          file=sys.stderr,
          flush=True,
        )
    stream.append(tokenizer.eos_id)
  length = min(length, len(stream))
  return Packed(np.frombuffer(stream, dtype=stream.typecode), length, num_bytes)
