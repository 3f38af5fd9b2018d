"""The objective of a latent refiner: estimates that are near, and that read right.

Shapes: B batch, L length, E latent width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from ardiff_jax import rng
from ardiff_jax import rows as rows_lib
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models import latents
from ardiff_jax.models.latents import LatentDenoiser
from ardiff_jax.objectives.likelihood import Examples

_COINS = 'prompt', 'guidance', 'coin'


@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
  """Error of the estimate of z_0 and cross-entropy of reading it, of counted tokens.

    w(t)·|ẑ_0 - z_0|²/E - log p(x_0 | ẑ_0),   w = α²/σ² in [1, most_weight]

  The truncated weight is that of arXiv 2202.00512, the second term the anchor loss of arXiv
  2212.09412, from which alone the table learns. Positions are at the times of a random row of the
  hyperschedule. A draft is noised in place of the text, and z_0 is to be estimated all the same.
  Tokens that are not counted are given; each of guidance and prompt is hidden from one example in
  ten (beside the rows of `data.guided` that have none), and its own estimate before from every
  other. Where Diffusion-LM reads at time 0 alone, what is read here is the estimate at any time.

  Attributes:
    latent_dim: E. Wide latents lie far apart, and little noise never changes a token.
    most_weight: of the error.
  """

  latent_dim: int = 32
  most_weight: float = 5.0

  def __post_init__(self):
    if self.latent_dim < 1 or not self.most_weight >= 1.0:
      raise ValueError(
        f'latent_dim and most_weight must be at least 1, got {self.latent_dim} and '
        f'{self.most_weight}'
      )

  def __call__(
    self,
    denoise: LatentDenoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L]."""
    tokens, counted = examples.tokens, examples.counted
    rows = rows_lib.one_row(hyperschedule, examples.uniform)
    time = (rows.level - rows.within * rows.drop) / hyperschedule.num_levels
    z_0 = denoise.encode(params, tokens)
    draws = jax.vmap(functools.partial(_draw, shape=z_0.shape[1:]))(examples.keys)
    draft = denoise.encode(params, examples.shown(counted))
    alpha, sigma = (x[..., None] for x in latents.signal(time))
    z_t = jax.lax.stop_gradient(alpha * draft) + sigma * draws['noise']
    segment = denoise.segments(tokens, ~counted)
    for kind, name in ((latents.PROMPT, 'prompt'), (latents.GUIDANCE, 'guidance')):
      hidden = (draws[name] < 0.1)[:, None]
      segment = jnp.where(hidden & (segment == kind), latents.HIDDEN, segment)

    def look(before, name):
      key = None if dropout_key is None else rng.stream(dropout_key, name)
      return denoise.estimate(params, tokens, z_t, before, time, segment, key)

    before = jax.lax.stop_gradient(look(jnp.zeros_like(z_t), 'first'))
    before = jnp.where((draws['coin'] < 0.5)[:, None, None], before, 0.0)
    found = look(before, 'second')
    error = jnp.square(found - jax.lax.stop_gradient(z_0)).mean(axis=-1)
    weight = jnp.clip(jnp.square(alpha / sigma)[..., 0], 1.0, self.most_weight)
    logits = denoise.round(params, found)
    reading = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    return jnp.where(counted, weight * error + reading, 0.0)


def _draw(key: jax.Array, shape: tuple[int, int]) -> dict[str, jax.Array]:
  """All random draws of one example of latents [L, E]."""
  uniform = {name: jax.random.uniform(rng.stream(key, name)) for name in _COINS}
  return uniform | {'noise': jax.random.normal(rng.stream(key, 'noise'), shape)}
