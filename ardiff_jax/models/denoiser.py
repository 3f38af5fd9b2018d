"""From a canvas and its regions to a prediction for every position.

The denoiser lays a canvas out as rows of the network and reads one prediction per position:

  aligned   row i shows token i and predicts it,
  shifted   row i shows token i-1 (the first shows BOS) and predicts token i, as a causal language
            model does, so every AR model is also a denoiser.

Losses, bounds and samplers see nothing of this: they call one signature,

  logits[B, L, V] = denoise(params, canvas, sigma=, regions=, settle_step=)
"""

import dataclasses

import jax
import jax.numpy as jnp

from ardiff_jax import masks
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.transformer import Transformer

ALIGNMENTS = ('aligned', 'shifted')


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """Wraps the network in an alignment and an attention rule.

  Attributes:
    network: the transformer.
    alignment: 'aligned' or 'shifted'.
    context: rule among settled tokens, one of `masks.CONTEXT_RULES`.
    window: rule among active tokens, one of `masks.WINDOW_RULES`.
    bos_id: token shown in front of position 0 when shifted.
    all_visible: the schedules in use keep every position active and the window is full, so
      that nothing needs hiding and no mask is built.
  """

  network: Transformer
  alignment: str
  context: str
  window: str
  bos_id: int
  all_visible: bool

  @property
  def is_causal(self) -> bool:
    """Whether one pass over clean text predicts each token from those before it alone."""
    return (self.alignment, self.context, self.window) == ('shifted', 'causal', 'causal')

  def init(self, key: jax.Array, length: int) -> dict:
    """Returns new parameters with their logical axes (boxed); trace it under `jax.eval_shape`
    or `jax.jit` to place them."""
    tokens = jnp.zeros((1, length), jnp.int32)
    sigma = jnp.zeros((1, length), jnp.float32)
    return self.network.init(key, tokens, sigma=sigma, positions=jnp.arange(length))

  def __call__(
    self,
    params: dict,
    canvas: jax.Array,
    *,
    sigma: jax.Array,
    regions: jax.Array,
    settle_step: jax.Array,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts every position of the canvas.

    Args:
      params: variables of the network.
      canvas: int32[B, L] in 0..V, noisy where a position is active.
      sigma: float32[B, L], noise level of the token shown.
      regions: int8[L] or int8[B, L], see `Hyperschedule.regions`. All settled means reading: each
        token is predicted from those before it, which needs shifted alignment.
      settle_step: int32[L], order in which positions settle, see `Hyperschedule.settle_step`.
      dropout_key: typed key to draw dropout; None for none.

    Returns:
      float32[B, L, V], logits of the token at each position.
    """
    length = canvas.shape[1]
    if self.alignment == 'shifted':
      canvas = _prepend(canvas, self.bos_id)
      sigma = _prepend(sigma, 0.0)
      regions = _prepend(regions, Region.SETTLED)
      settle_step = _prepend(settle_step, 0)
      if self.window == 'causal':  # the last row predicts nothing and nobody sees it
        canvas, sigma, regions, settle_step = (
          x[..., :length] for x in (canvas, sigma, regions, settle_step)
        )
    mask = None
    if not self.all_visible:
      mask = masks.from_regions(regions, settle_step, context=self.context, window=self.window)
    return self.network.apply(
      params,
      canvas,
      sigma=sigma,
      positions=jnp.arange(canvas.shape[1]),
      mask=mask,
      num_outputs=length,
      deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {'dropout': dropout_key},
    )


def make_denoiser(
  network: Transformer,
  hyperschedule: Hyperschedule,
  *,
  alignment: str,
  context: str,
  window: str,
  bos_id: int,
) -> Denoiser:
  """Returns the denoiser for schedules of this kind.

  Raises:
    ValueError: an unknown or unsupported combination, with what is supported.
  """
  for name, value, known in (
    ('alignment', alignment, ALIGNMENTS),
    ('context', context, masks.CONTEXT_RULES),
    ('window', window, masks.WINDOW_RULES),
  ):
    if value not in known:
      raise ValueError(f'{name} {value!r} must be one of {", ".join(known)}')
  if alignment == 'shifted' and window == 'full' and not hyperschedule.always_active:
    raise ValueError(
      f'alignment shifted with window full is not supported for {hyperschedule.name}; supported: '
      'aligned (any schedule), shifted with window causal (any schedule), '
      'shifted with window full (flat)'
    )
  all_visible = hyperschedule.always_active and window == 'full'
  return Denoiser(network, alignment, context, window, bos_id, all_visible)


def _prepend(x: jax.Array, value: float) -> jax.Array:
  return jnp.concatenate([jnp.full_like(x[..., :1], value), x], axis=-1)
