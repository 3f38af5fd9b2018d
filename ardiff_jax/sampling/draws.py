"""Drawing tokens: inverse CDF from one uniform a token, precise for large vocabularies.

One float32 cumulative sum over V = 50k entries loses small probabilities, and V Gumbel variables
a token cost V draws and lose the tail as well. Here the cumulative sum runs over blocks, then
within the chosen block, where its rounding is V/256 times smaller.
"""

import jax
import jax.numpy as jnp

_BLOCK = 256


def inverse_cdf(logits: jax.Array, uniform: jax.Array) -> jax.Array:
  """Draws from softmax(logits).

  Args:
    logits: float32[..., V].
    uniform: float32[...] in [0, 1).

  Returns:
    int32[...], never a token of probability 0.
  """
  vocab_size = logits.shape[-1]
  weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
  padding = [(0, 0)] * (weights.ndim - 1) + [(0, -vocab_size % _BLOCK)]
  blocks = jnp.pad(weights, padding).reshape(*weights.shape[:-1], -1, _BLOCK)
  sums = blocks.sum(axis=-1)
  block, rest = _pick(sums, uniform * sums.sum(axis=-1))
  within, _ = _pick(jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :], rest)
  return block * _BLOCK + within


def _pick(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the index whose span of the cumulative sum holds `target`, and what is left of it.

  Args:
    weights: float32[..., n], not negative.
    target: float32[...], from 0 to about the sum; rounding past the end takes the last index of
      positive weight.
  """
  cumulative = jnp.cumsum(weights, axis=-1)
  index = (cumulative <= target[..., None]).sum(axis=-1, dtype=jnp.int32)
  last = weights.shape[-1] - 1 - jnp.argmax(weights[..., ::-1] > 0.0, axis=-1).astype(jnp.int32)
  index = jnp.minimum(index, last)
  before = jnp.take_along_axis(cumulative, jnp.maximum(index - 1, 0)[..., None], axis=-1)[..., 0]
  return index, target - jnp.where(index > 0, before, 0.0)
