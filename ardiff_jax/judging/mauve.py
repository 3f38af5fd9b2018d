"""MAUVE: how alike the laws of generated and of real texts are, from 0 to 1.

Both are histograms over the same clusters of a judge's features; the score is the area under their
divergence frontier (arXiv 2102.01454), computed by the library of its authors.

Small sets scatter. Clusters are a tenth as many as texts of a set, as the authors have them, so two
sets of one law score 0.96 on average rather than 1, at any size, with a deviation of 0.03 for 100
texts and 0.01 for 500 (Gaussian features). Below 100 there would be fewer than ten clusters; the
authors use 5000 texts. Only scores of the same judge, length and count compare (arXiv 2212.14578):
state real against real beside them. And features are of the last token: a weak judge has forgotten
by then what came before the last word, and its scores do not see what is wrong there.

Shapes: N texts of a set, L length, D features.
"""

from typing import NamedTuple

import numpy as np

from ardiff_jax.errors import UserError
from ardiff_jax.judging import reading
from ardiff_jax.model import Model

LEAST = 100  # texts of a set

_MOST_BUCKETS = 500  # beyond which the clustering takes long and gains nothing
_SEED = 0


class Mauve(NamedTuple):
  """A score with what it depends on.

  Attributes:
    score: in (0, 1], 1 for the same histograms.
    count: N.
    num_buckets: clusters of the features.
  """

  score: float
  count: int
  num_buckets: int


def of_texts(
  judge: Model, tokens_NxL: np.ndarray, real_NxL: np.ndarray, batch_size: int | None = None
) -> Mauve:
  """Returns the score of int[N, L] texts against real ones; the judge is one that `reading.check`
  let pass.

  Raises:
    UserError: the lengths differ, or as `of_features`.
  """
  lengths = tokens_NxL.shape[1], real_NxL.shape[1]
  if lengths[0] != lengths[1]:
    raise UserError(
      f'texts of {lengths[0]} and of {lengths[1]} tokens: MAUVE would measure the lengths'
    )
  _check_counts(tokens_NxL, real_NxL)
  return of_features(*(reading.features(judge, x, batch_size) for x in (tokens_NxL, real_NxL)))


def of_features(features_NxD: np.ndarray, real_NxD: np.ndarray) -> Mauve:
  """Returns the score of float[N, D] features against those of real texts; the same every time.

  Raises:
    UserError: there are fewer than 100 of either or not as many of both, or the library is missing.
  """
  _check_counts(features_NxD, real_NxD)
  count = len(features_NxD)
  found = library().compute_mauve(
    p_features=np.asarray(features_NxD, np.float32),
    q_features=np.asarray(real_NxD, np.float32),
    num_buckets=min(count // 10, _MOST_BUCKETS),
    seed=_SEED,
    verbose=False,
  )
  return Mauve(float(found.mauve), count, found.num_buckets)


def library():
  """Returns the module of mauve-text, which is imported late, being large and optional.

  Raises:
    UserError: it is not installed.
  """
  try:
    import mauve
  except ImportError:
    raise UserError(
      'MAUVE needs mauve-text, which is in the extra "mauve": pip install -e ".[mauve]"'
    ) from None
  return mauve


def _check_counts(texts: np.ndarray, real: np.ndarray) -> None:
  if min(len(texts), len(real)) < LEAST:
    raise UserError(
      f'{len(texts)} and {len(real)} texts: MAUVE clusters them and needs at least {LEAST} of each'
    )
  if len(texts) != len(real):
    raise UserError(
      f'{len(texts)} and {len(real)} texts: MAUVE depends on how many there are, give as many of '
      'both'
    )
