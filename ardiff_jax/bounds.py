"""Negative log-likelihood of text: an upper bound for every process and hyperschedule.

With x_s drawn from the per-position marginals at row s, and p_θ the posterior under the network's
prediction,

  -log p(x_0) <= Σ_s E Σ_i KL( q(x^i_{s+1} | x^i_s, x^i_0) ‖ p_θ(x^i_{s+1} | x_s) ).

The prior's own term is 0: at t = 1 nothing of x_0 is left. The bound is exact where every token is
generated in one step from masks (`autoregressive`, `any_order` of single tokens).

The network sees at row s just what the sampler would show it, so this bounds the law of the
`ancestral` sampler of that process on that very hyperschedule. Tokens that are not counted are
given: shown clean, so the figure is conditional on them.

A score head predicts ratios, not x_0, and has no posterior: its bound is the continuous-time
integral of the score entropy along the rows, plus the KL that is left just before t = 1 (SEDD,
arXiv 2310.16834, theorem 3.6).

Shapes: B batch, L length, K draws per sequence, S rows of the hyperschedule.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ardiff_jax import divergences, rng
from ardiff_jax import rows as rows_lib
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import EpsilonHybrid, Process
from ardiff_jax.objectives.likelihood import Examples, ScoreEntropy, predict
from ardiff_jax.rows import Rows
from ardiff_jax.tokenwise import tokenwise


def monte_carlo(
  denoise: Denoiser,
  params: dict,
  process: Process,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  numbers: jax.Array,
  key: jax.Array,
  num_samples: int,
) -> jax.Array:
  """Returns float32[B], an unbiased estimate of the bound from K = num_samples draws a sequence.

  A draw is of one row, or where windows tile the sequence, and context is not full, of one row for
  each of them, shown in one pass over clean and noisy tokens. The K draws of a sequence are spread
  evenly over the schedule, and so are those of sequences with neighbouring numbers (low
  discrepancy). What is drawn for a sequence depends on the key and its number alone, not on the
  batch around it.

  Args:
    denoise: predicts x_0 at every position. Under ε-hybrid noise its output is taken for that of
      a weighted cross-entropy, see `divergences.leave_one_out`.
    params: its parameters.
    process: noise whose ancestral sampler is meant.
    hyperschedule: S rows over L positions.
    tokens: int32[B, L] in 0..V-1.
    counted: bool[B, L]; the rest are given.
    numbers: int32[B], one for each sequence of the text.
    key: of all draws.
    num_samples: K.
  """
  doubled = _is_tiled(denoise, hyperschedule)
  draw = rows_lib.tiled if doubled else rows_lib.one_row
  grid_KxB = _grid(key, numbers, num_samples)

  def one(total, k):
    rows = draw(hyperschedule, grid_KxB[k])
    keys = _keys(key, numbers, k)
    args = denoise, params, process, hyperschedule, tokens, counted
    nats_BxL = rows.num_rows * _nats(*args, rows, keys, doubled)
    return total + nats_BxL.sum(axis=1), None

  total, _ = jax.lax.scan(one, jnp.zeros(len(numbers)), jnp.arange(num_samples))
  return total / num_samples


def full_sum(
  denoise: Denoiser,
  params: dict,
  process: Process,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  numbers: jax.Array,
  key: jax.Array,
) -> jax.Array:
  """Returns float32[B], the bound with every row of the schedule visited once.

  Only the noise of each row is random; `autoregressive` has none, so there it is exact. Arguments
  as in `monte_carlo`.
  """

  def one(total, step):
    rows = Rows.of(hyperschedule, jnp.full((len(numbers), 1), step), 0.0, 1.0, 0)
    args = denoise, params, process, hyperschedule, tokens, counted
    nats_BxL = _nats(*args, rows, _keys(key, numbers, step), doubled=False)
    return total + nats_BxL.sum(axis=1), None

  total, _ = jax.lax.scan(one, jnp.zeros(len(numbers)), jnp.arange(hyperschedule.num_steps))
  return total


def score_integral(
  denoise: Denoiser,
  params: dict,
  objective: ScoreEntropy,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  numbers: jax.Array,
  key: jax.Array,
  num_samples: int,
) -> jax.Array:
  """Returns float32[B], an estimate of the continuous-time bound from K times a sequence.

  It holds for any head, and is the only bound of a score head. Arguments as in `monte_carlo`, but
  for the objective, which must be without weight on settled tokens; its form is the rate's.
  """
  objective = dataclasses.replace(objective, doubled=_is_tiled(denoise, hyperschedule))
  grid_KxB = _grid(key, numbers, num_samples)

  def one(total, k):
    examples = Examples(tokens, counted, grid_KxB[k], _keys(key, numbers, k))
    return total + objective(denoise, params, examples, hyperschedule).sum(axis=1), None

  total, _ = jax.lax.scan(one, jnp.zeros(len(numbers)), jnp.arange(num_samples))
  terminal = divergences.terminal_kl(objective.process) * counted.sum(axis=1)
  return total / num_samples + terminal


def _is_tiled(denoise: Denoiser, hyperschedule: Hyperschedule) -> bool:
  """Whether one pass can show a row of each of several windows: those before a window are context
  whose keys are the same for all."""
  return bool(hyperschedule.tiling) and denoise.is_cacheable


def _nats(
  denoise: Denoiser,
  params: dict,
  process: Process,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  counted: jax.Array,
  rows: Rows,
  keys: jax.Array,
  doubled: bool,
) -> jax.Array:
  """Returns float32[B, L], a one-sample estimate of the bound's terms of these rows, with noise
  drawn from keys [B]."""
  t_BxL = jnp.where(counted, rows.level / hyperschedule.num_levels, 0.0)
  s_BxL = jnp.where(counted, (rows.level - rows.drop) / hyperschedule.num_levels, 0.0)
  noisy_BxL = jax.vmap(process.sample)(keys, tokens, t_BxL)
  args = denoise, params, process, hyperschedule, rows, tokens, noisy_BxL, t_BxL
  logits_BxLxV = predict(*args, doubled=doubled)

  def nats(logits, *per_token):
    if isinstance(process, EpsilonHybrid):
      logits = divergences.leave_one_out(logits, per_token[1])
    return divergences.posterior_kl(process, logits, *per_token)

  nats_BxL = tokenwise(nats, logits_BxLxV, tokens, noisy_BxL, t_BxL, s_BxL)
  return jnp.where(counted & (t_BxL > s_BxL), nats_BxL, 0.0)


def _grid(key: jax.Array, numbers: jax.Array, num_samples: int) -> jax.Array:
  """Returns float32[K, B] in [0, 1): of each sequence one in every K-th part, at places of their
  own."""
  part_Kx1 = jnp.arange(num_samples)[:, None]
  within_KxB = rng.golden(rng.stream(key, 'rows'), numbers[None] * num_samples + part_Kx1)
  return (part_Kx1 + within_KxB) / num_samples


def _keys(key: jax.Array, numbers: jax.Array, draw: jax.Array) -> jax.Array:
  """Returns keys [B] of the noise of one draw."""
  return jax.vmap(lambda number: rng.stream(key, 'noise', number, draw))(numbers)
