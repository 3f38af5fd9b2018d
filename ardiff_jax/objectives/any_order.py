"""The objective of any-order any-subset autoregression (A3, arXiv 2601.13228).

Positions are parted into groups; each group is predicted from those before it, its members
independently of each other,

  P(x) = Π_k Π_{i in group k} P(x_i | groups before k)

so one pass over two streams (`layouts.two_stream`) gives every conditional. Groups of one from left
to right make an autoregressive model; larger and shuffled ones teach it every order.

Shapes: B batch, L length.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ardiff_jax import divergences, rng
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.objectives.likelihood import Examples
from ardiff_jax.tokenwise import tokenwise


@dataclasses.dataclass(frozen=True)
class AnyOrder:
  """Cross-entropy of every position given the groups before its own; exact for each order.

  Attributes:
    num_updates: of the whole training.
    stages: what is trained from which share of the updates on, (begin, width, shuffled, given):
      groups of 1 to `width` positions, each width alike, in a random order for a share `shuffled`
      of the examples, in that of the text for the others. Up to a share `given` of the positions,
      drawn at random and uniform from 0, is context of all groups and not trained, as in infilling.
      The first begins at 0.
  """

  num_updates: int
  stages: Sequence[tuple[float, int, float, float]] = ((0.0, 1, 0.0, 0.0),)

  def __post_init__(self):
    stages = tuple(tuple(stage) for stage in self.stages)  # lists, from JSON
    object.__setattr__(self, 'stages', stages)
    if not stages or any(len(stage) != 4 for stage in stages):
      raise ValueError(f'stages must be of the form (begin, width, shuffled, given), got {stages}')
    begins = [stage[0] for stage in stages]
    if begins[0] != 0 or sorted(set(begins)) != begins or not begins[-1] < 1:
      raise ValueError(f'stages must begin at 0 and rise, shares of the updates, got {begins}')
    for _, width, shuffled, given in stages:
      if width < 1 or not 0.0 <= shuffled <= 1.0 or not 0.0 <= given < 1.0:
        raise ValueError(
          f'stages need a width from 1, shuffled in [0, 1] and given in [0, 1), got {stages}'
        )

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], nats of each token; groups are drawn, not those of a schedule."""
    del hyperschedule
    begins, *settings = zip(*self.stages, strict=True)
    starts = jnp.asarray([round(begin * self.num_updates) for begin in begins])
    stage = jnp.searchsorted(starts, examples.step, side='right') - 1
    draw = jax.vmap(_draw, (0, 0, None, None, None))
    width, shuffled, given = (jnp.asarray(x)[stage] for x in settings)
    settle_step, counted = draw(examples.keys, examples.counted, width, shuffled, given)
    nats = order_nats(denoise, params, examples.tokens, settle_step, dropout_key)
    return jnp.where(counted, nats, 0.0)


def _draw(key, counted_L, width, shuffled, given):
  """Groups of one example: int32[L] from 1, those that are given first, and what is trained."""
  uniform = lambda name, shape=(): jax.random.uniform(rng.stream(key, name), shape)  # noqa: E731
  length = len(counted_L)
  is_given = (uniform('given', (length,)) < given * uniform('share')) | ~counted_L
  place = random_order(rng.stream(key, 'order'), length)
  place = jnp.where(uniform('shuffled') < shuffled, place, jnp.arange(length))
  size = 1 + jnp.floor(uniform('width') * width).astype(jnp.int32)
  free_place = masked_rank(place, ~is_given)
  return jnp.where(is_given, 1, 2 + free_place // size), ~is_given


def order_nats(
  denoise: Denoiser,
  params: dict,
  tokens: jax.Array,
  settle_step: jax.Array,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Returns float32[B, L], -log P(token | tokens that settle before it), in one pass.

  Their sum is the exact negative log-likelihood of generation in that order, tokens that settle
  together being drawn independently.

  Args:
    denoise: of window rule none.
    params: variables of the network.
    tokens: int32[B, L].
    settle_step: int32[L] or int32[B, L] from 1, the group of each position.
    dropout_key: typed key to draw dropout; None for none.
  """
  sigma = jnp.zeros(tokens.shape)
  settle_step = jnp.broadcast_to(settle_step, tokens.shape)
  logits = denoise.two_stream(
    params, tokens, sigma=sigma, settle_step=settle_step, dropout_key=dropout_key
  )
  return tokenwise(divergences.cross_entropy, logits, tokens)


def random_order(key: jax.Array, length: int) -> jax.Array:
  """Returns int32[L], the place of each position in a uniformly random order."""
  return jnp.argsort(jax.random.uniform(key, length)).astype(jnp.int32)


def masked_rank(place_L: jax.Array, counted_L: jax.Array) -> jax.Array:
  """Returns int32[L], each counted position's place among the counted ones."""
  order = jnp.argsort(jnp.where(counted_L, place_L, place_L + len(place_L)))
  return jnp.argsort(order).astype(jnp.int32)
