"""n-gram baselines in bits per byte: how far counting alone gets on the text a model is scored on.

A byte model has 257 symbols, the bytes and an end symbol after each document, as a language model
sees an EOS after each document. A document starts in the context of two end symbols, whatever
stood before it. With n(·) the counts of the training text, N symbols in all, and T(·) how many
different symbols follow a context,

  p(c)     = (n(c) + 1) / (N + 257)                            add-one
  p(c|b)   = (n(bc) + T(b)·p(c)) / (n(b) + T(b))               Witten-Bell, p(c) where n(b) = 0
  p(c|ab)  = (n(abc) + T(ab)·p(c|b)) / (n(ab) + T(ab))         Witten-Bell, p(c|b) where n(ab) = 0

(Witten & Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), 1991,
method C, interpolated.)
"""

from collections.abc import Iterable, Iterator

import numpy as np

MAX_TRAIN_BYTES = 64_000_000
_NUM_SYMBOLS = 257
_END = 256
_PART_SYMBOLS = 1 << 20  # Worked on at once; long documents come in parts.


class ByteNgrams:
  """Byte unigram, bigram and trigram models of one text.

  Attributes:
    counts: int32[257, 257, 257], how often symbol c followed a, b: counts[a, b, c].
  """

  def __init__(self, counts: np.ndarray):
    self.counts = counts
    self._totals_AxB = counts.sum(axis=2)
    self._kinds_AxB = np.count_nonzero(counts, axis=2)
    bigrams_BxC = counts.sum(axis=0)
    unigrams_C = bigrams_BxC.sum(axis=0)
    self._unigram_C = (unigrams_C + 1) / (unigrams_C.sum() + _NUM_SYMBOLS)
    self._bigram_BxC = _witten_bell(
      bigrams_BxC,
      bigrams_BxC.sum(axis=1, keepdims=True),
      np.count_nonzero(bigrams_BxC, axis=1, keepdims=True),
      self._unigram_C,
    )

  def probs(self, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Returns float64[3, ...], p(c), p(c|b) and p(c|ab); arguments are int[...] in 0..256."""
    bigram = self._bigram_BxC[b, c]
    trigram = _witten_bell(
      self.counts[a, b, c], self._totals_AxB[a, b], self._kinds_AxB[a, b], bigram
    )
    return np.stack(np.broadcast_arrays(self._unigram_C[c], bigram, trigram))


def count_bytes(documents: Iterable[str]) -> ByteNgrams:
  """Returns the models of the first `MAX_TRAIN_BYTES` (64 MB) of the documents."""
  counts = np.zeros(_NUM_SYMBOLS**3, np.int32)
  for a, b, c in _trigrams(documents, MAX_TRAIN_BYTES):
    np.add.at(counts, (a * _NUM_SYMBOLS + b) * _NUM_SYMBOLS + c, 1)
  return ByteNgrams(counts.reshape((_NUM_SYMBOLS,) * 3))


def byte_ngram_bits(train: Iterable[str], text: Iterable[str]) -> dict[str, float]:
  """Returns the bits per byte of `text` under byte models of `train`.

  Args:
    train: documents to count; those after the first `MAX_TRAIN_BYTES` (64 MB) are not read.
    text: documents to score, at least one byte in all.

  Returns:
    'byte unigram', 'byte bigram' and 'byte trigram': the bits of all symbols, end symbols
    included, over the number of UTF-8 bytes, end symbols not counted.
  """
  model = count_bytes(train)
  bits_3 = np.zeros(3)
  num_bytes = 0
  for a, b, c in _trigrams(text):
    bits_3 -= np.log2(model.probs(a, b, c)).sum(axis=1)
    num_bytes += np.count_nonzero(c != _END)
  names = ('byte unigram', 'byte bigram', 'byte trigram')
  return dict(zip(names, (bits_3 / num_bytes).tolist(), strict=True))


def token_unigram_bits(
  train_tokens: np.ndarray, tokens: np.ndarray, vocab_size: int, num_bytes: int
) -> float:
  """Returns the bits per byte of `tokens` under their add-one frequencies in `train_tokens`.

  Args:
    train_tokens: int[...] in 0..V-1, with the EOS of each document.
    tokens: int[...], the same of the text to score.
    vocab_size: V.
    num_bytes: UTF-8 bytes of the text to score, EOS not counted.
  """
  counts_V = np.bincount(train_tokens, minlength=vocab_size) + 1
  bits_V = np.log2(counts_V.sum()) - np.log2(counts_V)
  return float(np.bincount(tokens, minlength=vocab_size) @ bits_V / num_bytes)


def _witten_bell(
  count: np.ndarray, total: np.ndarray, kinds: np.ndarray, lower: np.ndarray
) -> np.ndarray:
  """Returns (count + kinds·lower) / (total + kinds), or `lower` where the context is unseen."""
  unseen = total == 0  # Then count and kinds are 0 too.
  return np.where(unseen, lower, (count + kinds * lower) / np.where(unseen, 1, total + kinds))


def _trigrams(
  documents: Iterable[str], max_bytes: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields symbols with the two before each, intp[n] thrice; every symbol is c exactly once.

  After `max_bytes` it stops: a document cut short has no end symbol.
  """
  for document in documents:
    data = np.frombuffer(document.encode(), np.uint8)
    kept = data[:max_bytes]
    symbols = np.full(len(kept) + (3 if len(kept) == len(data) else 2), _END, np.uint16)
    symbols[2 : 2 + len(kept)] = kept
    for start in range(0, len(symbols) - 2, _PART_SYMBOLS):
      part = symbols[start : start + _PART_SYMBOLS + 2].astype(np.intp)
      yield part[:-2], part[1:-1], part[2:]
    if max_bytes is not None:
      max_bytes -= len(kept)
      if max_bytes == 0:
        return
