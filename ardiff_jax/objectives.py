"""Training objectives: what a denoiser is taught, in nats per token.

An objective maps clean tokens to a loss per position; callers average over the counted tokens.
Tokens that are not counted are *given*: shown clean, never noised, weightless.

  NextToken              cross-entropy of each token given those before it (AR)
  WeightedCrossEntropy   cross-entropy of noised positions, weighted as in the bound (MDLM) or with
                         visible tokens trained too (the ε-hybrid of HDLM)

Shapes: B batch, L length, V vocabulary.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import Absorbing, EpsilonHybrid

WEIGHTINGS = ('annealed', 'importance')


class Examples(NamedTuple):
  """A batch, with the randomness each example owns, so that any split of a batch draws alike.

  Attributes:
    tokens: int32[B, L] in 0..V-1.
    counted: bool[B, L]; the rest are given.
    uniform: float32[B] in [0, 1), chooses the row of the hyperschedule and the time within it.
    keys: typed keys [B], for the noise.
  """

  tokens: jax.Array
  counted: jax.Array
  uniform: jax.Array
  keys: jax.Array


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
    nats = reading_nats(denoise, params, examples.tokens, hyperschedule, dropout_key)
    return jnp.where(examples.counted, nats, 0.0)


@dataclasses.dataclass(frozen=True)
class WeightedCrossEntropy:
  """Weighted cross-entropy of one random row of the hyperschedule per example.

  For a position that falls from `level` to `level - drop` in this row, with time
  t = (level - v·drop)/T and c = S·drop/T, the weight is

    masked                  c/t                 the NELBO's own (MDLM, arXiv 2406.07524, eq. 10)
    visible and resampled   c·λ·(1-ε)           teaches to correct (HDLM, arXiv 2504.06416)
    visible and kept        c·λ·ε

  With ε = 0 this is MDLM's objective. Settled and worthless positions weigh nothing.

  Attributes:
    process: absorbing or ε-hybrid.
    visible_weight: λ.
    weighting: 'annealed', or 'importance': visible weights times 1/max(1-t, 1e-4).
    continuous_time: v ~ U[0, 1) rather than v = 0.
  """

  process: Absorbing | EpsilonHybrid
  visible_weight: float = 1.0
  weighting: str = 'annealed'
  continuous_time: bool = True

  def __post_init__(self):
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
    step_B, within_B = split_row(examples.uniform, hyperschedule.num_steps)
    if not self.continuous_time:
      within_B = jnp.zeros_like(within_B)
    levels = jnp.asarray(hyperschedule.levels)  # a traced row cannot index a numpy array
    level_BxL = levels[step_B]
    drop_BxL = level_BxL - levels[step_B + 1]
    t_BxL = (level_BxL - within_B[:, None] * drop_BxL) / hyperschedule.num_levels
    t_BxL = jnp.where(examples.counted, t_BxL, 0.0)

    noisy = jax.vmap(self.process.corrupt)(examples.keys, examples.tokens, t_BxL)
    logits_BxLxV = denoise(
      params,
      noisy.tokens,
      sigma=self.process.sigma(t_BxL),
      regions=hyperschedule.regions(step_B),
      settle_step=hyperschedule.settle_step,
      dropout_key=dropout_key,
    )
    nats_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, examples.tokens)

    change_BxL = hyperschedule.num_steps * drop_BxL / hyperschedule.num_levels
    if self.continuous_time:
      masked_weight = change_BxL / jnp.where(t_BxL > 0.0, t_BxL, 1.0)
    else:
      s_BxL = (level_BxL - drop_BxL) / hyperschedule.num_levels
      masked_weight = hyperschedule.num_steps * self.process.reveal_prob(t_BxL, s_BxL)
    epsilon = self.process.epsilon if isinstance(self.process, EpsilonHybrid) else 0.0
    visible_weight = change_BxL * self.visible_weight
    visible_weight *= jnp.where(noisy.resampled, 1.0 - epsilon, epsilon)
    if self.weighting == 'importance':
      visible_weight /= jnp.maximum(1.0 - t_BxL, 1e-4)
    weight_BxL = jnp.where(noisy.masked, masked_weight, visible_weight)
    return jnp.where(examples.counted, weight_BxL * nats_BxL, 0.0)


def split_row(uniform: jax.Array, num_steps: int) -> tuple[jax.Array, jax.Array]:
  """Splits float32[...] in [0, 1) into a row, int32[...] in 0..S-1, and the fraction within it."""
  scaled = uniform * num_steps
  step = jnp.minimum(scaled.astype(jnp.int32), num_steps - 1)
  return step, jnp.clip(scaled - step, 0.0, 1.0 - 2.0**-24)


def reading_nats(
  denoise: Denoiser,
  params: dict,
  tokens: jax.Array,
  hyperschedule: Hyperschedule,
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
    regions=jnp.full(tokens.shape, Region.SETTLED, jnp.int8),
    settle_step=hyperschedule.settle_step,
    dropout_key=dropout_key,
  )
  return optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, tokens)
