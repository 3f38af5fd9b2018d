"""What generated texts are like: how varied they are, and what became of a corrupted one.

Shapes: N samples, L length.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from ardiff_jax.errors import UserError


class Repair(NamedTuple):
  """Shares, each of one sample, float64[N].

  Attributes:
    fixed: of the corrupted tokens, what is as it was before.
    harmed: of the others, what is not.
    precision: of the tokens that changed, what was corrupted; 0 if nothing changed.
    recall: of the corrupted tokens, what changed.
  """

  fixed: np.ndarray
  harmed: np.ndarray
  precision: np.ndarray
  recall: np.ndarray


def distinct(tokens_NxL: np.ndarray, n: int) -> float:
  """Returns distinct n-grams over n-grams, all samples together (arXiv 1510.03055)."""
  grams = np.lib.stride_tricks.sliding_window_view(tokens_NxL, n, axis=1).reshape(-1, n)
  return len(np.unique(grams, axis=0)) / len(grams)


def self_bleu(tokens_NxL: np.ndarray, most: int = 100) -> float:
  """Returns the mean BLEU-4 of each text against all others: 1 if all are the same (Self-BLEU,
  arXiv 1802.01886).

  Counts of 0 are smoothed to 0.1 (method1 of nltk), so that texts that share words but no four in
  a row come near 0. The cost grows with the square of the texts: 100 of 256 tokens take seconds.

  Args:
    tokens_NxL: the texts.
    most: how many of them to compare, evenly spread.

  Raises:
    UserError: there are fewer than two.
  """
  if min(len(tokens_NxL), most) < 2:
    raise UserError('Self-BLEU compares texts with each other: at least 2 are needed')
  from nltk.translate import bleu_score  # takes seconds

  rows = np.linspace(0, len(tokens_NxL) - 1, min(len(tokens_NxL), most)).astype(int)
  texts = np.asarray(tokens_NxL)[rows].tolist()
  smooth = bleu_score.SmoothingFunction().method1
  return float(
    np.mean(
      [
        bleu_score.sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=smooth)
        for i, text in enumerate(texts)
      ]
    )
  )


def repetition(tokens_NxL: np.ndarray, n: int = 4) -> float:
  """Returns the share of n-grams that occurred before in the same text, mean over texts (seq-rep-n
  of arXiv 1908.04319); it rises with loops and copies, see `repeats` for stutters."""
  return float(np.mean([1.0 - distinct(text[None], n) for text in tokens_NxL]))


def entropy(ids: np.ndarray) -> float:
  """Returns the nats of the frequencies of tokens, int[n]; 0 for none."""
  _, counts = np.unique(ids, return_counts=True)
  share = counts / max(counts.sum(), 1)
  return float(-(share * np.log(share)).sum())


def entropies(tokens_NxL: np.ndarray) -> np.ndarray:
  """Returns float64[N], nats of the frequencies of tokens in each text; at most log L."""
  return np.array([entropy(text) for text in tokens_NxL])


def corrupt(tokens_NxL: np.ndarray, share: float, vocab_size: int, seed: int) -> np.ndarray:
  """Returns int32[N, L] with round(share·L) tokens of each sample replaced by another, uniform."""
  draw = np.random.default_rng(seed)
  corrupted = np.array(tokens_NxL, np.int32)
  for row in corrupted:
    places = draw.choice(len(row), size=round(share * len(row)), replace=False)
    row[places] = (row[places] + draw.integers(1, vocab_size, len(places))) % vocab_size
  return corrupted


def repair(before: np.ndarray, corrupted: np.ndarray, after: np.ndarray) -> Repair:
  """Returns what became of corrupted texts; int[N, L] each, at least one token corrupted and one
  not."""
  wrong, changed, right = before != corrupted, after != corrupted, after == before
  hits = (wrong & changed).sum(axis=1)
  return Repair(
    (wrong & right).sum(axis=1) / wrong.sum(axis=1),
    (~wrong & ~right).sum(axis=1) / (~wrong).sum(axis=1),
    hits / np.maximum(changed.sum(axis=1), 1),
    hits / wrong.sum(axis=1),
  )


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns the chance that a positive scores above a negative, ties counting half.

  Args:
    scores: float[...].
    positive: bool[...], some but not all.
  """
  scores, positive = np.ravel(scores), np.ravel(positive)
  above = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
  return float(above / (positive.sum() * (~positive).sum()))


def repeats(tokens_NxL: np.ndarray) -> float:
  """Returns the share of tokens that are the same as the one before: stutters, of which
  `repetition` sees only those of n tokens and more."""
  return float((tokens_NxL[:, 1:] == tokens_NxL[:, :-1]).mean())
