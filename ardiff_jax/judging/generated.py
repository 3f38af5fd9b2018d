"""Figures of generated texts, always together: none of them says enough alone.

A judge finds loops and copies likely, and what it finds unlikely may be better than it knows;
entropy, n-grams and MAUVE (see there) tell these apart.

Shapes: N texts, M real ones, L length.
"""

import math
from typing import Any

import numpy as np

from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples
from ardiff_jax.judging import mauve, reading
from ardiff_jax.model import Model


def measure(
  judge: Model, tokens_NxL: np.ndarray, real_MxL: np.ndarray, batch_size: int | None = None
) -> dict[str, Any]:
  """Returns what texts are like under a judge, beside real ones of the same length.

  Args:
    judge: one that `reading.check` let pass.
    tokens_NxL: int[N, L], at least two, as they were drawn.
    real_MxL: int[M, L], of which as many as there are texts are compared by MAUVE.
    batch_size: texts that the judge reads at a time; None for its config.eval.batch_size.

  Returns:
    `judge_nats` per token and `stderr`, over texts; `judge_perplexity`; `entropy` of the tokens of
    a text; `distinct_1` to `distinct_3`; `self_bleu`; `repetition`, of 4-grams; all but the second
    again as `real_...` of as many real texts. `mauve`, `mauve_texts`; what real text reaches
    against other real text, `mauve_real`, if there is enough, and with its tokens shuffled,
    `mauve_shuffled`; or None, and in `refused` why. `flag`, None or why a low perplexity says
    nothing.

  Raises:
    UserError: there is a single text, or a single real one.
  """
  count, most = len(tokens_NxL), len(real_MxL)
  some = real_MxL[np.unique(np.linspace(0, most - 1, min(count, most)).astype(int))]
  figures = _plain(judge, tokens_NxL, batch_size)
  figures |= {
    f'real_{name}': x for name, x in _plain(judge, some, batch_size).items() if name != 'stderr'
  }
  scores = dict.fromkeys(('mauve', 'mauve_real', 'mauve_shuffled', 'refused'))
  try:
    scores['mauve'] = mauve.of_texts(judge, tokens_NxL, some, batch_size).score
    shuffled = np.random.default_rng(0).permuted(some, axis=1)
    scores['mauve_shuffled'] = mauve.of_texts(judge, shuffled, some, batch_size).score
    if most >= 2 * count:
      first, second = real_MxL[: 2 * count : 2], real_MxL[1 : 2 * count : 2]
      scores['mauve_real'] = mauve.of_texts(judge, first, second, batch_size).score
  except UserError as error:
    scores['refused'] = str(error)
  flag = reading.degenerate(*(samples.entropies(x) for x in (tokens_NxL, real_MxL)))
  return figures | scores | {'mauve_texts': count, 'flag': flag}


def _plain(judge: Model, tokens_NxL: np.ndarray, batch_size: int | None) -> dict[str, float]:
  """Returns the figures that texts have on their own."""
  nats = reading.nats(judge, tokens_NxL, batch_size)
  return {
    'judge_nats': float(nats.mean()),
    'stderr': float(nats.std(ddof=1) / math.sqrt(len(nats))),
    'judge_perplexity': math.exp(min(nats.mean(), 700.0)),
    'entropy': float(samples.entropies(tokens_NxL).mean()),
    **{f'distinct_{n}': samples.distinct(tokens_NxL, n) for n in (1, 2, 3)},
    'self_bleu': samples.self_bleu(tokens_NxL),
    'repetition': samples.repetition(tokens_NxL),
  }
