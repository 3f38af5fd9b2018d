"""The objective of a latent refiner: denoise latents, and keep them readable.

Shapes: B batch, L length, E latent width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ardiff_jax import rng
from ardiff_jax import rows as rows_lib
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models import latents
from ardiff_jax.models.latents import LatentDenoiser
from ardiff_jax.objectives.likelihood import Examples

_NEARLY_CLEAN = 0.1  # time at which latents must still be readable


@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
  """Error of the estimate of z_0 and cross-entropy of rounding, of counted tokens.

    w(t)·|ẑ_0 - z_0|²/E - log p(x_0 | z_0.1),   w = α²/σ² in [1, most_weight]

  The truncated weight is that of arXiv 2202.00512; the table learns from the second term alone.
  Positions are at the times of a random row of the hyperschedule. Tokens that are not counted are
  given, and each of guidance and prompt is hidden from one example in ten, and its own estimate
  before from every other.

  Attributes:
    latent_dim: E.
    most_weight: of the error.
  """

  latent_dim: int = 128
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
    draws = jax.vmap(self._draw, (0, None))(examples.keys, z_0.shape[1:])
    alpha, sigma = (x[..., None] for x in latents.signal(time))
    z_t = jax.lax.stop_gradient(alpha * z_0) + sigma * draws['noise']
    segment = denoise.segments(tokens, ~counted)
    for kind, name in ((latents.PROMPT, 'prompt'), (latents.GUIDANCE, 'guidance')):
      hidden = (draws[name] < 0.1)[:, None]
      segment = jnp.where(hidden & (segment == kind), latents.HIDDEN, segment)
    look = lambda before: denoise.estimate(  # noqa: E731
      params, tokens, z_t, before, time, segment, dropout_key
    )
    before = jax.lax.stop_gradient(look(jnp.zeros_like(z_t)))
    before = jnp.where((draws['coin'] < 0.5)[:, None, None], before, 0.0)
    error = jnp.square(look(before) - jax.lax.stop_gradient(z_0)).mean(axis=-1)
    weight = jnp.clip(jnp.square(alpha / sigma)[..., 0], 1.0, self.most_weight)
    alpha, sigma = latents.signal(jnp.float32(_NEARLY_CLEAN))
    logits = denoise.round(params, alpha * z_0 + sigma * draws['rounding'])
    reading = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    return jnp.where(counted, weight * error + reading, 0.0)

  def _draw(self, key: jax.Array, shape: tuple[int, int]) -> dict:
    """All random draws of one example."""
    normal = lambda name: jax.random.normal(rng.stream(key, name), shape)  # noqa: E731
    uniform = lambda name: jax.random.uniform(rng.stream(key, name))  # noqa: E731
    return {
      'noise': normal('noise'),
      'rounding': normal('rounding'),
      **{name: uniform(name) for name in ('prompt', 'guidance', 'coin')},
    }
