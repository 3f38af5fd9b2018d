"""Drafts made of clean text: what a refiner is shown where the right text should come to stand.

Half of them, at random, are right, for what needs no mending should be left alone. Of the others,
one whose guidance asks for an attribute lacks it: it is the text before it was rewritten as asked,
or the text is rewritten so that it lacks it (see `attributes.without`). Where that cannot be done,
and where the guidance asks for nothing but better text, it is damaged in one of these ways:

  substituted  tokens are others, each with a chance uniform up to 30 %
  shuffled     the tokens of some stretches are out of order
  repeated     some stretches stand twice, the second time over what followed
  dropped      a clause is missing, and the rest has moved up

A draft is as long as its target, so that each position has a token to come from.
"""

from collections.abc import Callable

import numpy as np

from ardiff_jax.data import attributes
from ardiff_jax.data.tokenizers import Tokenizer

_SUBSTITUTED = 0.3
_STRETCH = 8
_MARKS = tuple(',;:.!?')


def draft(
  guidance: str,
  target: np.ndarray,
  own: np.ndarray,
  following: np.ndarray,
  tokenizer: Tokenizer,
  draw: np.random.Generator,
) -> np.ndarray:
  """Returns int32[n], a draft of a text.

  Args:
    guidance: what the text is the answer to.
    target: int32[n], the text.
    own: int32[k], as it was before it was rewritten to answer the guidance.
    following: int32[m], what moves up behind a draft that has become shorter; where that ends too,
      the target's beginning does.
    tokenizer: of the ids.
    draw: of the coins.
  """
  if draw.random() < 0.5:
    return target
  if guidance != attributes.FIX:
    lacking = _fitted(own, target, following)
    if attributes.holds(guidance, tokenizer.decode(lacking)):
      rewritten = attributes.without(guidance, tokenizer.decode(target), draw)
      if rewritten is not None:
        lacking = _fitted(np.array(tokenizer.encode(rewritten)), target, following)
    if not attributes.holds(guidance, tokenizer.decode(lacking)):
      return lacking
  damage = DAMAGES[draw.integers(len(DAMAGES))]
  return damage(target, following, tokenizer, draw)


def substituted(target, following, tokenizer, draw) -> np.ndarray:
  """Returns int32[n]; each token is a uniform draw with a chance uniform up to 30 %."""
  del following
  is_wrong = draw.random(len(target)) < _SUBSTITUTED * draw.random()
  other = draw.integers(tokenizer.vocab_size, size=len(target), dtype=np.int32)
  return np.where(is_wrong, other, target)


def shuffled(target, following, tokenizer, draw) -> np.ndarray:
  """Returns int32[n]; half of the stretches of eight tokens, at random, are out of order."""
  del following, tokenizer
  result = target.copy()
  for start in range(draw.integers(_STRETCH), len(target), _STRETCH):
    if draw.random() < 0.5:
      result[start : start + _STRETCH] = draw.permutation(result[start : start + _STRETCH])
  return result


def repeated(target, following, tokenizer, draw) -> np.ndarray:
  """Returns int32[n]; up to three stretches of up to eight tokens stand twice."""
  del following, tokenizer
  result = target.copy()
  for _ in range(draw.integers(1, 4)):
    size = draw.integers(1, min(_STRETCH, len(target) // 2) + 1)
    start = draw.integers(len(target) - 2 * size + 1)
    result[start + size : start + 2 * size] = result[start : start + size]
  return result


def dropped(target, following, tokenizer, draw) -> np.ndarray:
  """Returns int32[n]; what stands between two marks of punctuation is missing, half of the text at
  most."""
  ends = [i + 1 for i, token in enumerate(target) if _is_mark(tokenizer.decode([int(token)]))]
  edges = sorted({0, *ends, len(target)})
  clause = draw.integers(len(edges) - 1)
  start = edges[clause]
  end = min(edges[clause + 1], start + len(target) // 2)
  return _fitted(np.concatenate([target[:start], target[end:]]), target, following)


DAMAGES: tuple[Callable[..., np.ndarray], ...] = (substituted, shuffled, repeated, dropped)


def _is_mark(text: str) -> bool:
  return text.rstrip()[-1:] in _MARKS


def _fitted(text: np.ndarray, target: np.ndarray, following: np.ndarray) -> np.ndarray:
  """Makes a text as long as the target: cut, or with what follows."""
  return np.concatenate([text, following, target])[: len(target)].astype(np.int32)
