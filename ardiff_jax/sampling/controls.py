"""Controls: how a sampler bends the law of the tokens it draws.

In this order: tokens already in the text are made less likely, the logits are divided by the
temperature, and unlikely or banned tokens are left out. Guidance comes before all of it. Every
control but the neutral ones changes the law, so no bound covers what comes out.

Shapes: B batch, W window, V vocabulary.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Controls:
  """The controls; the defaults change nothing.

  Attributes:
    temperature: divides the logits; towards 0, the most likely token.
    top_k: how many of the most likely tokens are kept; 0 for all. Static, as all that follow.
    top_p: the most likely tokens are kept until their probability is this much (nucleus sampling,
      arXiv 1904.09751); 1 for all.
    min_p: tokens of less than this share of the greatest probability are left out.
    repetition_penalty: the log-probability of tokens visible in the text is multiplied by this
      (after CTRL, arXiv 1909.05858); 1 for none.
    guidance: w of classifier-free guidance: (1 + w)·logits given the prompt - w·logits without it,
      its tokens masked; 0 for none, else every call costs two.
    banned: ids of tokens that are never drawn.
  """

  temperature: float | jax.Array = 1.0
  top_k: int = flax.struct.field(pytree_node=False, default=0)
  top_p: float = flax.struct.field(pytree_node=False, default=1.0)
  min_p: float = flax.struct.field(pytree_node=False, default=0.0)
  repetition_penalty: float = flax.struct.field(pytree_node=False, default=1.0)
  guidance: float = flax.struct.field(pytree_node=False, default=0.0)
  banned: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())

  def check(self, vocab_size: int) -> None:
    """Raises ValueError for a value out of range, saying which is right."""
    for name, legal, meaning in (
      ('temperature', 0.0 <= self.temperature < math.inf, 'from 0 up and finite'),
      ('top_k', self.top_k >= 0, 'a whole number from 0 up; 0 keeps all'),
      ('top_p', 0.0 < self.top_p <= 1.0, 'above 0 and at most 1'),
      ('min_p', 0.0 <= self.min_p < 1.0, 'from 0 up and below 1'),
      ('repetition_penalty', 1.0 <= self.repetition_penalty < math.inf, 'from 1 up and finite'),
      ('guidance', 0.0 <= self.guidance < math.inf, 'from 0 up and finite'),
    ):
      if not legal:
        raise ValueError(f'{name} must be {meaning}, got {getattr(self, name)}')
    outside = [token for token in self.banned if not 0 <= token < vocab_size]
    if outside:
      raise ValueError(f'banned has {outside}, but tokens go from 0 to {vocab_size - 1}')
    if len(set(self.banned)) == vocab_size:
      raise ValueError('banned names every token there is')

  def bend(self, logits: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Returns float32[B, W, V], logits of the law to draw from.

    Args:
      logits: float32[B, W, V].
      visible: bool[B, V], tokens in the text; None if there is no penalty.
    """
    if self.repetition_penalty != 1.0:
      log_probs = jax.nn.log_softmax(logits)
      logits = jnp.where(visible[:, None], self.repetition_penalty * log_probs, log_probs)
    logits = logits / jnp.maximum(self.temperature, 1e-6)
    if self.banned:
      logits = logits.at[..., jnp.asarray(self.banned)].set(-jnp.inf)
    vocab_size = logits.shape[-1]
    if 0 < self.top_k < vocab_size:
      least = jax.lax.top_k(logits, self.top_k)[0][..., -1:]
      logits = jnp.where(logits >= least, logits, -jnp.inf)
    if self.top_p < 1.0:
      descending = -jnp.sort(-logits, axis=-1)
      before = jnp.cumsum(jax.nn.softmax(descending), axis=-1) - jax.nn.softmax(descending)
      least = jnp.min(jnp.where(before < self.top_p, descending, jnp.inf), axis=-1, keepdims=True)
      logits = jnp.where(logits >= least, logits, -jnp.inf)
    if self.min_p > 0.0:
      least = logits.max(axis=-1, keepdims=True) + math.log(self.min_p)
      logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits
