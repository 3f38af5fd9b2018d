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


def measure(judge: Model, tokens_NxL: np.ndarray, real_MxL: np.ndarray) -> dict[str, Any]:
  """Returns what texts are like under a judge, beside real ones of the same length.

  Args:
    judge: one that `reading.check` let pass.
    tokens_NxL: int[N, L], at least two, as they were drawn.
    real_MxL: int[M, L], of which as many as there are texts are compared by MAUVE.

  Returns:
    `judge_nats` per token and its standard error over texts, `judge_perplexity`; `entropy`, and
    `real_entropy`, of the tokens of a text; `distinct_1` to `distinct_3`; `self_bleu`;
    `repetition`, of 4-grams; `mauve`, `mauve_texts` and `mauve_real`, real text against other real
    text where there is enough, or None, and in `refused` why; `flag`, None or why a low perplexity
    says nothing.

  Raises:
    UserError: there is a single text.
  """
  nats = reading.nats(judge, tokens_NxL)
  entropies, real = samples.entropies(tokens_NxL), samples.entropies(real_MxL)
  count = len(tokens_NxL)
  figures = {
    'judge_nats': float(nats.mean()),
    'stderr': float(nats.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
    'judge_perplexity': math.exp(min(nats.mean(), 700.0)),
    'entropy': float(entropies.mean()),
    'real_entropy': float(real.mean()),
    **{f'distinct_{n}': samples.distinct(tokens_NxL, n) for n in (1, 2, 3)},
    'self_bleu': samples.self_bleu(tokens_NxL),
    'repetition': samples.repetition(tokens_NxL),
    'mauve': None,
    'mauve_texts': count,
    'mauve_real': None,
    'refused': None,
    'flag': reading.degenerate(entropies, real),
  }
  try:
    spread = np.unique(np.linspace(0, len(real_MxL) - 1, 2 * count).astype(int))
    some, others = (real_MxL[rows] for rows in (spread[::2], spread[1::2]))
    if len(others) < count:  # too few to compare real text with real text
      some = real_MxL[:count]
    figures['mauve'] = mauve.of_texts(judge, tokens_NxL, some).score
    if len(others) == count:
      figures['mauve_real'] = mauve.of_texts(judge, some, others).score
  except UserError as error:
    figures['refused'] = str(error)
  return figures
