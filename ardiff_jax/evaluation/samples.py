"""What generated texts are like: how varied they are, and what became of a corrupted one.

Shapes: N samples, L length.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats


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
  """Returns the share of tokens that are the same as the one before."""
  return float((tokens_NxL[:, 1:] == tokens_NxL[:, :-1]).mean())
