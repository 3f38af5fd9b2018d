"""Negative log-likelihood of text: exact for AR, an upper bound for every other schedule.

For a noising process and any hyperschedule, with x_s drawn from the marginals at row s,

  -log p(x_0) <= Σ_s E Σ_i KL( q(x^i_{s+1} | x^i_s, x^i_0) ‖ p_θ(x^i_{s+1} | x_s) ).

Here the process is absorbing noise, for which a position contributes only while masked:

  KL = (A_{s+1} - A_s)/(1 - A_s) · -log p0[x_0]        (MDLM, arXiv 2406.07524, eq. 8)

The network sees at row s just what the sampler would show it, so this bounds the law of the
absorbing `ancestral` sampler on that very hyperschedule. Tokens that are not counted are given:
shown clean, so the figure is conditional on them.

Shapes: B batch, L length, K rows drawn per sequence.
"""

import jax
import jax.numpy as jnp
import optax

from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import Absorbing
from ardiff_jax.objectives import split_row


def row_nats(
  denoise: Denoiser,
  params: dict,
  process: Absorbing,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  step: jax.Array,
  keys: jax.Array,
) -> jax.Array:
  """Returns float32[B], a one-sample estimate of the bound's term of row `step`, int32[B].

  Args:
    denoise: predicts x_0 at every position.
    params: its parameters.
    process: absorbing noise.
    hyperschedule: S rows over L positions.
    tokens: int32[B, L] in 0..V-1.
    counted: bool[B, L]; the rest are given.
    step: int32[B] in 0..S-1.
    keys: typed keys [B].
  """
  levels = jnp.asarray(hyperschedule.levels)  # a traced row cannot index a numpy array
  t_BxL = levels[step] / hyperschedule.num_levels
  s_BxL = levels[step + 1] / hyperschedule.num_levels
  t_BxL = jnp.where(counted, t_BxL, 0.0)
  noisy_BxL = jax.vmap(process.sample)(keys, tokens, t_BxL)
  logits_BxLxV = denoise(
    params,
    noisy_BxL,
    sigma=process.sigma(t_BxL),
    regions=hyperschedule.regions(step),
    settle_step=hyperschedule.settle_step,
  )
  nats_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, tokens)
  masked_BxL = noisy_BxL == process.mask_id
  return jnp.where(masked_BxL, process.reveal_prob(t_BxL, s_BxL) * nats_BxL, 0.0).sum(axis=1)


def monte_carlo(
  denoise: Denoiser,
  params: dict,
  process: Absorbing,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  key: jax.Array,
  num_samples: int,
) -> jax.Array:
  """Returns float32[B], an unbiased estimate of the bound from K = num_samples rows a sequence.

  The B·K rows are spread evenly over the schedule (low discrepancy), and so are the K of each
  sequence. Other arguments as in `row_nats`.
  """
  batch = tokens.shape[0]
  grid_KxB = rng.low_discrepancy(rng.stream(key, 'rows'), num_samples * batch).reshape(-1, batch)

  def one(total, k):
    step, _ = split_row(grid_KxB[k], hyperschedule.num_steps)
    keys = jax.random.split(rng.stream(key, 'noise', k), batch)
    nats = row_nats(denoise, params, process, hyperschedule, tokens, counted, step, keys)
    return total + nats, None

  total, _ = jax.lax.scan(one, jnp.zeros(batch), jnp.arange(num_samples))
  return hyperschedule.num_steps * total / num_samples


def full_sum(
  denoise: Denoiser,
  params: dict,
  process: Absorbing,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  key: jax.Array,
) -> jax.Array:
  """Returns float32[B], the bound with every row of the schedule visited once.

  Only the noise of each row is random; `autoregressive` has none, so there it is exact.
  """
  batch = tokens.shape[0]

  def one(total, step):
    keys = jax.random.split(rng.stream(key, 'noise', step), batch)
    steps = jnp.full(batch, step)
    nats = row_nats(denoise, params, process, hyperschedule, tokens, counted, steps, keys)
    return total + nats, None

  total, _ = jax.lax.scan(one, jnp.zeros(batch), jnp.arange(hyperschedule.num_steps))
  return total
