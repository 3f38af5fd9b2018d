"""Objectives whose value bounds a likelihood, or all but does, in nats per token.

An objective maps clean tokens to a loss per position; callers average over the counted tokens.
Tokens that are not counted are *given*: shown clean, never noised, weightless.

  NextToken              cross-entropy of each token given those before it (AR)
  WeightedCrossEntropy   cross-entropy of noised positions, weighted as in the bound (MDLM, BD3-LM)
                         or with visible tokens trained too (the ε-hybrid of HDLM)
  ScoreEntropy           the continuous-time bound of absorbing, uniform and γ-hybrid noise (SEDD)

Shapes: B batch, L length, V vocabulary.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax import divergences
from ardiff_jax import rows as rows_lib
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import Absorbing, EpsilonHybrid, GammaHybrid, Process, Uniform
from ardiff_jax.rows import Rows
from ardiff_jax.tokenwise import tokenwise

WEIGHTINGS = ('annealed', 'importance')
HEADS = ('x0', 'score')
FORMS = ('exact', 'released')

_LAST_TIME = 1.0 - 1e-5


class Examples(NamedTuple):
  """A batch, with the randomness each example owns, so that any split of a batch draws alike.

  Attributes:
    tokens: int32[B, L] in 0..V-1.
    counted: bool[B, L]; the rest are given.
    uniform: float32[B] in [0, 1), chooses the row of the hyperschedule and the time within it.
    keys: typed keys [B], for the noise.
    step: int32[], updates made before, for what changes while training.
    draft: int32[B, L], tokens that are to be refined to `tokens`; None where these are noised.
  """

  tokens: jax.Array
  counted: jax.Array
  uniform: jax.Array
  keys: jax.Array
  step: jax.Array | int = 0
  draft: jax.Array | None = None

  def shown(self, is_noised: jax.Array) -> jax.Array:
    """Returns int32[B, L], what stands in the places bool[B, L] that are noised before they are,
    the draft if there is one; elsewhere the tokens."""
    return self.tokens if self.draft is None else jnp.where(is_noised, self.draft, self.tokens)


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Cross-entropy of a causal language model; the sum of its bound over all rows, in one pass."""

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], nats of each token; see `reading_nats`."""
    nats = reading_nats(denoise, params, examples.tokens, dropout_key)
    return jnp.where(examples.counted, nats, 0.0)


@dataclasses.dataclass(frozen=True)
class WeightedCrossEntropy:
  """Weighted cross-entropy of one random row of the hyperschedule per example.

  For a position that falls from `level` to `level - drop` in this row, with time
  t = (level - v·drop)/T and c = S·drop/T, the weight is

    masked                  c/t                 the NELBO's own (MDLM, arXiv 2406.07524, eq. 10)
    visible and resampled   c·λ·(1-ε)           teaches to correct (HDLM, arXiv 2504.06416)
    visible and kept        c·λ·ε

  With ε = 0 this is MDLM's objective. Settled and worthless positions weigh nothing. A draft is
  noised in place of the text, and what is wrong in it weighs as if resampled: a refiner learns to
  correct it, by what is no bound.

  Attributes:
    process: absorbing or ε-hybrid.
    visible_weight: λ.
    weighting: 'annealed', or 'importance': visible weights times 1/max(1-t, 1e-4).
    continuous_time: v ~ U[0, 1) rather than v = 0.
    time_range: times t in (0, 1] are squeezed into this range, which leaves out those whose weights
      vary most (the clipped schedules of BD3-LM, arXiv 2503.09573, §4.3); (0, 1) for the bound.
    doubled: whether every position is trained in one pass, see `rows.tiled`.
  """

  process: Absorbing | EpsilonHybrid
  visible_weight: float = 1.0
  weighting: str = 'annealed'
  continuous_time: bool = True
  time_range: tuple[float, float] = (0.0, 1.0)
  doubled: bool = False

  def __post_init__(self):
    if not self.visible_weight >= 0.0:
      raise ValueError(f'visible_weight must not be negative, got {self.visible_weight}')
    object.__setattr__(self, 'time_range', tuple(self.time_range))  # a list, from JSON
    low, high = self.time_range
    if not 0.0 <= low < high <= 1.0:
      raise ValueError(f'time_range must rise within [0, 1], got {self.time_range}')
    if not isinstance(self.process, Absorbing | EpsilonHybrid):
      raise ValueError(
        'objective weighted_cross_entropy needs noise absorbing or epsilon_hybrid, '
        f'got {type(self.process).__name__}'
      )
    if self.weighting not in WEIGHTINGS:
      raise ValueError(f'weighting {self.weighting!r} must be one of {", ".join(WEIGHTINGS)}')

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], the weighted loss of each position."""
    draw = rows_lib.tiled if self.doubled else rows_lib.one_row
    rows = draw(hyperschedule, examples.uniform)
    if not self.continuous_time:
      rows = rows._replace(within=jnp.zeros_like(rows.within))
    low, high = self.time_range
    t_BxL = _time(hyperschedule, rows, examples.counted)
    t_BxL = jnp.where(t_BxL > 0.0, low + (high - low) * t_BxL, 0.0)

    shown_BxL = examples.shown(t_BxL > 0.0)
    noisy = jax.vmap(self.process.corrupt)(examples.keys, shown_BxL, t_BxL)
    logits_BxLxV = predict(
      denoise,
      params,
      self.process,
      hyperschedule,
      rows,
      examples.tokens,
      noisy.tokens,
      t_BxL,
      doubled=self.doubled,
      dropout_key=dropout_key,
    )
    nats_BxL = tokenwise(divergences.cross_entropy, logits_BxLxV, examples.tokens)

    change_BxL = rows.num_rows * rows.drop / hyperschedule.num_levels
    if self.continuous_time:
      masked_weight = change_BxL / jnp.where(t_BxL > 0.0, t_BxL, 1.0)
    else:
      s_BxL = low + (high - low) * (rows.level - rows.drop) / hyperschedule.num_levels
      masked_weight = rows.num_rows * self.process.reveal_prob(t_BxL, s_BxL)
    epsilon = self.process.epsilon if isinstance(self.process, EpsilonHybrid) else 0.0
    visible_weight = change_BxL * self.visible_weight
    is_wrong_BxL = noisy.resampled | (shown_BxL != examples.tokens)
    visible_weight *= jnp.where(is_wrong_BxL, 1.0 - epsilon, epsilon)
    if self.weighting == 'importance':
      visible_weight /= jnp.maximum(1.0 - t_BxL, 1e-4)
    weight_BxL = jnp.where(noisy.masked, masked_weight, visible_weight)
    return jnp.where(examples.counted, weight_BxL * nats_BxL, 0.0)


@dataclasses.dataclass(frozen=True)
class ScoreEntropy:
  """The continuous-time bound at one random time of one random row per example.

  For a position that falls by `drop` levels in this row, at time t = (level - v·drop)/T, the loss
  is S·drop/T times the rate of `divergences`: of an x0 head in KL form, of a score head in SEDD's.
  Drafts are not looked at: their wrong tokens do not vanish towards t = 0, where the rate of such
  a token has no limit.

  Attributes:
    process: absorbing, uniform or γ-hybrid.
    head: 'x0' (logits of x_0) or 'score' (log s_y + log(e^σ - 1) + log V, as SEDD parametrises it).
    form: 'exact', or 'released' for the weighting of HDLM's public code, which is no bound.
    settled_weight: weight of the cross-entropy of settled tokens, for whose block of `width` among
      n the factor is b/(n-1) (HDLM's auxiliary loss).
    width: of those blocks.
    doubled: whether every position is trained in one pass, see `rows.tiled`.
  """

  process: Absorbing | Uniform | GammaHybrid
  head: str = 'x0'
  form: str = 'exact'
  settled_weight: float = 0.0
  width: int = 1
  doubled: bool = False

  def __post_init__(self):
    if not isinstance(self.process, Absorbing | Uniform | GammaHybrid):
      raise ValueError(
        'objective score_entropy needs noise absorbing, uniform or gamma_hybrid, '
        f'got {type(self.process).__name__}'
      )
    if self.head not in HEADS:
      raise ValueError(f'head {self.head!r} must be one of {", ".join(HEADS)}')
    if self.form not in FORMS:
      raise ValueError(f'form {self.form!r} must be one of {", ".join(FORMS)}')
    if self.doubled and self.settled_weight:
      raise ValueError(
        'settled_weight needs predictions of settled tokens, which a doubled pass does not make: '
        'set settled_weight to 0 or doubled to False'
      )

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], the weighted loss of each position."""
    process, x0 = self.process, examples.tokens
    draw = rows_lib.tiled if self.doubled else rows_lib.one_row
    rows = draw(hyperschedule, examples.uniform)
    # the rate is that of a density, unbounded at t = 1
    t_BxL = jnp.minimum(_time(hyperschedule, rows, examples.counted), _LAST_TIME)

    x_t = jax.vmap(process.sample)(examples.keys, x0, t_BxL)
    logits_BxLxV = predict(
      denoise,
      params,
      process,
      hyperschedule,
      rows,
      x0,
      x_t,
      t_BxL,
      doubled=self.doubled,
      dropout_key=dropout_key,
    )
    moves = examples.counted & (rows.drop > 0)
    inside_BxL = jnp.where(moves, t_BxL, 0.5)  # any time at which the rate is finite
    change_BxL = rows.num_rows * rows.drop / hyperschedule.num_levels
    change_BxL = jnp.where(moves, change_BxL, 0.0)
    per_token = x0, x_t, inside_BxL, change_BxL
    if not self.settled_weight:
      return tokenwise(self._changed, logits_BxLxV, *per_token)
    weight_BxL = self.settled_weight * _settled_weights(rows.level == 0, self.width)
    weight_BxL = jnp.where(examples.counted, weight_BxL, 0.0)

    def loss(logits, x0, x_t, t, change, weight):
      return self._changed(logits, x0, x_t, t, change) + weight * divergences.cross_entropy(
        logits, x0
      )

    return tokenwise(loss, logits_BxLxV, *per_token, weight_BxL)

  def _changed(self, logits, x0, x_t, t, change):
    """change · d loss / dt, of some tokens."""
    if self.head == 'x0' and self.form == 'exact':
      return change * divergences.kl_rate(self.process, logits, x0, x_t, t)
    if self.head == 'x0':
      log_score = divergences.log_score_of(self.process, logits, x_t, t)
    else:
      offset = jnp.log(jnp.expm1(self.process.sigma(t))) + jnp.log(self.process.vocab_size)
      log_score = logits - offset[..., None]
    rate = divergences.released_rate if self.form == 'released' else divergences.score_entropy_rate
    return change * rate(self.process, log_score, x0, x_t, t)


def _settled_weights(settled_BxL: jax.Array, width: int) -> jax.Array:
  """Returns float32[B, L], L·b/(n-1) over the number of settled tokens, so that the mean over
  positions is the mean over settled tokens; b is a token's block among the n settled ones."""
  length = settled_BxL.shape[1]
  block_L = jnp.arange(length) // width
  last_B = jnp.max(jnp.where(settled_BxL, block_L[None], 0), axis=1)[:, None]  # n - 1
  share_BxL = jnp.where(last_B > 0, block_L[None] / jnp.maximum(last_B, 1), 1.0)
  count_B = jnp.maximum(settled_BxL.sum(axis=1), 1)[:, None]
  return jnp.where(settled_BxL, share_BxL * length / count_B, 0.0)


def _time(hyperschedule: Hyperschedule, rows: Rows, counted: jax.Array) -> jax.Array:
  """Returns float32[B, L], the time each position is shown at; 0 where it is given."""
  t_BxL = (rows.level - rows.within * rows.drop) / hyperschedule.num_levels
  return jnp.where(counted, t_BxL, 0.0)


def predict(
  denoise: Denoiser,
  params: dict,
  process: Process,
  hyperschedule: Hyperschedule,
  rows: Rows,
  tokens: jax.Array,
  canvas: jax.Array,
  t_BxL: jax.Array,
  *,
  doubled: bool,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Returns float32[B, L, V], the prediction of every position from what its row shows.

  Args:
    denoise, params, process, hyperschedule: of the method.
    rows: one a position if `doubled`, else one for all.
    tokens: int32[B, L], clean.
    canvas: int32[B, L], noisy.
    t_BxL: times of the canvas.
    doubled: whether it is one pass over clean and noisy tokens, see `rows.tiled`.
    dropout_key: typed key to draw dropout; None for none.
  """
  sigma = process.sigma(t_BxL)
  if not doubled:
    regions = hyperschedule.regions(rows.step[:, 0])
    return denoise(
      params,
      canvas,
      sigma=sigma,
      regions=regions,
      settle_step=hyperschedule.settle_step,
      dropout_key=dropout_key,
    )
  return denoise.tiled(
    params,
    tokens,
    canvas,
    sigma=sigma,
    tiles=rows_lib.tiles(hyperschedule, rows),
    dropout_key=dropout_key,
  )


def reading_nats(
  denoise: Denoiser,
  params: dict,
  tokens: jax.Array,
  dropout_key: jax.Array | None = None,
) -> jax.Array:
  """Returns float32[B, L], -log p(token | tokens before it), exact for a causal model.

  Every token is shown clean and is context. The denoiser must be shifted with causal context and
  causal window: then each row of an `autoregressive` schedule sees just what this pass shows it.

  Raises:
    ValueError: any other denoiser, which would be shown what it predicts.
  """
  if not denoise.is_causal:
    raise ValueError(
      'reading text needs a denoiser of alignment shifted, context causal, window causal'
    )
  logits_BxLxV = denoise(
    params,
    tokens,
    sigma=jnp.zeros(tokens.shape),
    regions=np.full(tokens.shape[1], Region.SETTLED, np.int8),
    settle_step=np.arange(tokens.shape[1]),
    dropout_key=dropout_key,
  )
  return tokenwise(divergences.cross_entropy, logits_BxLxV, tokens)
