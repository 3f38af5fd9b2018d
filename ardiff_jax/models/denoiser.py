"""From a canvas and its regions to a prediction for every position.

Losses, bounds and samplers see no rows of the network (`layouts`). They ask for one row of the
hyperschedule,

  logits[B, L, V] = denoise(params, canvas, sigma=, regions=, settle_step=)

for many rows at once whose windows do not overlap (`tiled`), or for the window of one row whose
context is in a cache (`extend`). A sampler that has to draw few tokens projects those alone onto
the vocabulary (`features`, `project`).
"""

import dataclasses

import jax
import jax.numpy as jnp

from ardiff_jax import masks
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models import layouts
from ardiff_jax.models.cache import Cache, Entries
from ardiff_jax.models.layouts import ALIGNMENTS, Layout, Rules
from ardiff_jax.models.transformer import Features, Transformer
from ardiff_jax.rows import Tiles


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """Wraps the network in an alignment and an attention rule.

  Attributes:
    network: the transformer.
    rules: what its rows show and see.
    always_active: the schedules in use keep every position in the window, so there is no context.
  """

  network: Transformer
  rules: Rules
  always_active: bool

  @property
  def is_causal(self) -> bool:
    """Whether one pass over clean text predicts each token from those before it alone."""
    rules = self.rules
    return (rules.alignment, rules.context, rules.window) == ('shifted', 'causal', 'causal')

  @property
  def is_any_order(self) -> bool:
    """Whether positions of a window are predicted without each other, from all that is settled."""
    return self.rules.window == 'none'

  @property
  def is_cacheable(self) -> bool:
    """Whether there is context, and its keys stay what they are."""
    return self.rules.context != 'full' and not self.always_active

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
    anneal: masks.Anneal | None = None,
  ) -> jax.Array:
    """Predicts every position of a canvas at one row of the hyperschedule.

    Args:
      params: variables of the network.
      canvas: int32[B, L] in 0..V, noisy where a position is active.
      sigma: float32[B, L], noise level of the token shown.
      regions: int8[L] or int8[B, L], see `Hyperschedule.regions`. All settled means reading: each
        token is predicted from those before it, which needs shifted alignment.
      settle_step: int32[L], order in which positions settle, see `Hyperschedule.settle_step`.
      dropout_key: typed key to draw dropout; None for none.
      anneal: for schedules that are `always_active`, a window between causal and full; None for
        that of the rules.

    Returns:
      float32[B, L, V], logits of the token at each position.
    """
    layout = layouts.one_row(
      self.rules, canvas, sigma, regions, settle_step, self.always_active, anneal
    )
    return self._run(params, layout, dropout_key)

  def features(
    self,
    params: dict,
    canvas: jax.Array,
    *,
    sigma: jax.Array,
    regions: jax.Array,
    settle_step: jax.Array,
    outputs: jax.Array,
  ) -> Features:
    """Returns what `project` makes logits [B, W, V] of, those of positions `outputs`, int32[W];
    other arguments as in `__call__`."""
    layout = layouts.one_row(self.rules, canvas, sigma, regions, settle_step, self.always_active)
    rows = layout.outputs
    features, _ = self._blocks(params, layout)
    return features.take(outputs if isinstance(rows, int) else rows[:, outputs])

  def hidden(self, params: dict, features: Features) -> jax.Array:
    """Returns [B, W, D], the rows given behind the last norm, as the vocabulary head sees them."""
    return self.network.apply(params, features, method='hidden')

  def project(self, params: dict, features: Features) -> jax.Array:
    """Returns float32[B, W, V], logits of the rows given."""
    return self.network.apply(params, features, method='project')

  def tiled(
    self,
    params: dict,
    clean: jax.Array,
    canvas: jax.Array,
    *,
    sigma: jax.Array,
    tiles: Tiles,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts every position at its own row of a left-to-right hyperschedule, in one pass.

    Args:
      params: variables of the network.
      clean, canvas, sigma, tiles: see `layouts.tiled`.
      dropout_key: typed key to draw dropout; None for none.

    Returns:
      float32[B, L, V]; without meaning where a position is in no window.
    """
    layout = layouts.tiled(self.rules, clean, canvas, sigma, tiles)
    return self._run(params, layout, dropout_key)

  def two_stream(
    self,
    params: dict,
    clean: jax.Array,
    *,
    sigma: jax.Array,
    settle_step: jax.Array,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Predicts every position from those that settle before it, in one pass; window rule none.

    Args:
      params: variables of the network.
      clean: int32[B, L] in 0..V-1.
      sigma: float32[B, L], noise level of masks.
      settle_step: int32[B, L], from 1, each example's own.
      dropout_key: typed key to draw dropout; None for none.

    Returns:
      float32[B, L, V].
    """
    canvas = jnp.full_like(clean, self.network.config.vocab_size)
    layout = layouts.two_stream(self.rules, clean, canvas, sigma, settle_step)
    return self._run(params, layout, dropout_key)

  def empty_cache(self, batch: int, length: int) -> Cache:
    """Returns a cache for B canvases of L positions, in the dtype of the computation."""
    cfg = self.network.config
    num_slots = length + self.rules.shifted
    return Cache.empty(cfg.num_layers, batch, num_slots, cfg.kv_heads, cfg.head_dim, cfg.dtype)

  def extend(
    self,
    params: dict,
    cache: Cache,
    canvas: jax.Array,
    *,
    sigma: jax.Array,
    window: jax.Array,
    step: jax.Array,
    cached_step: jax.Array,
    settle_step: jax.Array,
    num_new: int,
  ) -> tuple[Features, Entries]:
    """Looks at the window at one row of a hyperschedule, and reads what has settled since another.

    It costs `num_new` rows and the W of the window, whatever the length of the context but for
    attending to it.

    Args:
      params: variables of the network.
      cache: of all slots that were settled at `cached_step`.
      canvas, sigma, window, step, cached_step, settle_step, num_new: see `layouts.cached`.

    With too small a `num_new`, slots are left out and later predictions are wrong.

    Returns:
      What `project` makes logits [B, W, V] of, those of the window, and what to write into the
      cache.
    """
    layout, new = layouts.cached(
      self.rules,
      canvas,
      sigma,
      window=window,
      step=step,
      cached_step=cached_step,
      settle_step=settle_step,
      num_new=num_new,
    )
    features, (keys, values) = self._blocks(params, layout, cache=cache, num_kept=num_new)
    return features.take(layout.outputs), Entries(new, keys, values)

  def _blocks(self, params, layout: Layout, **kwargs):
    """Runs the network up to the vocabulary."""
    return self.network.apply(
      params,
      layout.tokens,
      sigma=layout.sigma,
      positions=layout.positions,
      mask=layout.mask,
      method='features',
      **kwargs,
    )

  def _run(self, params: dict, layout: Layout, dropout_key: jax.Array | None) -> jax.Array:
    dropout = {} if dropout_key is None else {'dropout': dropout_key}
    features, _ = self._blocks(params, layout, deterministic=dropout_key is None, rngs=dropout)
    return self.project(params, features.take(layout.outputs))


def make_denoiser(
  network: Transformer,
  hyperschedule: Hyperschedule,
  *,
  alignment: str,
  context: str,
  window: str,
  bos_id: int,
  eos_id: int,
  separate_documents: bool = False,
  context_length: int = 0,
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
  name = hyperschedule.name
  left_to_right = hyperschedule.left_to_right
  if window == 'causal_next' and alignment != 'shifted':
    raise ValueError(
      'window causal_next shows a row the token it predicts, which is the next one only when '
      'alignment is shifted; supported: full and causal (any alignment), causal_next (shifted)'
    )
  if alignment == 'shifted' and not left_to_right and window != 'none':
    raise ValueError(
      f'alignment shifted is not supported for {name}, whose windows have gaps or tokens in front '
      'of them that are not settled; supported: aligned (any schedule), shifted (autoregressive, '
      'flat, block, slide, hybrid, ar_diffusion and any other from left to right; any schedule '
      'with window none)'
    )
  if separate_documents and not left_to_right:
    raise ValueError(
      f'separate_documents is not supported for {name}: generation does not know which document '
      'a window is in; supported: schedules from left to right'
    )
  if separate_documents and window == 'none':
    raise ValueError('separate_documents is not supported for window none: groups are of any order')
  for setting, is_set in (
    ('separate_documents', separate_documents),
    ('context_length', context_length),
  ):
    if is_set and hyperschedule.always_active:
      raise ValueError(
        f'{setting} is not supported for {name}: every position is in one window and there is no '
        'context; supported: schedules whose tokens settle one after another'
      )
  if context_length and not hyperschedule.window_size <= context_length:
    raise ValueError(
      f'context_length must be 0, for no limit, or at least the window of '
      f'{hyperschedule.window_size} positions of {name}, got {context_length}'
    )
  most, slots = network.config.max_positions, hyperschedule.length + (alignment == 'shifted')
  if most and slots > most:
    raise ValueError(
      f'the network has {most} learned positions, too few for {hyperschedule.length} tokens'
      + (' and the one in front of them' if alignment == 'shifted' else '')
    )
  most = network.config.mask_positions
  if most and hyperschedule.length > most:
    raise ValueError(
      f'the masks of the network have vectors of their own at {most} positions, too few for '
      f'{hyperschedule.length} tokens'
    )
  rules = Rules(alignment, context, window, bos_id, eos_id, separate_documents, context_length)
  return Denoiser(network, rules, hyperschedule.always_active)
