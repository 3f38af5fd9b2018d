"""Divergences between what noise does and what a prediction says it did, one reduction over V each.

A prediction p0 of x_0, mixed with uniform noise, is q̃(y | p0) = B·p0[y] + c with c = (1-B)/V, or
B·(p0[y] + κ) with κ = c/B. Everything here needs of p0 only

  log p0[x_0],   log p0[x_t],   D = Σ_y log1p(p0[y]/κ),

which `softmax_stats` reads off the logits in one pass, with a gradient written by hand: forward
and backward together hold the logits and their gradient, and no other array of size [tokens, V].

Three quantities are built on them:

  posterior_kl        KL between the true and the predicted posterior of one step: the bound's term
  kl_rate             its limit for small steps, per unit of time: the KL form of score entropy
  score_entropy_rate  the same in SEDD's form (arXiv 2310.16834, eq. 10), for scores of any origin

Shapes: logits are [..., V], everything else [...].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ardiff_jax.noise import Process


def leave_one_out(logits: jax.Array, x_t: jax.Array) -> jax.Array:
  """Returns the logits of p(x_0 | all but this token), given those of a weighted cross-entropy.

  On a visible token z the weighted cross-entropy teaches p*(y) ∝ p0(y)·([y = z] + 1/V), so the
  entry of z is divided by V+1. Masks are left as they are.
  """
  vocab_size = logits.shape[-1]
  return logits - jax.nn.one_hot(x_t, vocab_size, dtype=logits.dtype) * jnp.log1p(vocab_size)


@jax.custom_vjp
def softmax_stats(
  logits: jax.Array, x0: jax.Array, x_t: jax.Array, kappa: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns log p0[x_0], log p0[x_t] and D = Σ_y log1p(p0[y]/κ) for p0 = softmax(logits).

  Args:
    logits: float[..., V].
    x0: int[...] in 0..V-1.
    x_t: int[...] in 0..V; of a mask, log p0[x_t] is that of the last token and means nothing.
    kappa: float[...], positive; not differentiated.
  """
  return _stats_forward(logits, x0, x_t, kappa)[0]


def _stats_forward(logits, x0, x_t, kappa):
  log_z = jax.nn.logsumexp(logits, axis=-1)
  log_p_x0 = _entry(logits, x0) - log_z
  log_p_xt = _entry(logits, x_t) - log_z
  p = jnp.exp(logits - log_z[..., None])
  d = jnp.log1p(p / kappa[..., None]).sum(axis=-1)
  return (log_p_x0, log_p_xt, d), (logits, log_z, x0, x_t, kappa)


def _stats_backward(residuals, cotangents):
  logits, log_z, x0, x_t, kappa = residuals
  to_x0, to_xt, to_d = (x[..., None] for x in cotangents)
  p = jnp.exp(logits - log_z[..., None])
  share = (p / (p + kappa[..., None])).sum(axis=-1, keepdims=True)
  y = jax.lax.broadcasted_iota(x0.dtype, logits.shape, logits.ndim - 1)
  gradient = to_d * p / (p + kappa[..., None]) - p * (to_x0 + to_xt + to_d * share)
  gradient += jnp.where(y == x0[..., None], to_x0, 0.0)
  last = logits.shape[-1] - 1
  gradient += jnp.where(y == jnp.minimum(x_t, last)[..., None], to_xt, 0.0)
  return gradient, None, None, jnp.zeros_like(kappa)


softmax_stats.defvjp(_stats_forward, _stats_backward)


def posterior_kl(
  process: Process, logits: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array, s: jax.Array
) -> jax.Array:
  """Returns float[...], KL( q(x_s | x_t, x_0) ‖ p(x_s | x_t) ) with p the posterior under p0.

  Written by the probability of moving, so that small steps lose nothing to cancellation.

  Args:
    process: noise.
    logits: float[..., V], p0 = softmax, the prediction from everything but x_t.
    x0: int[...] in 0..V-1.
    x_t: int[...] in 0..V, a state that x_0 can lead to.
    t: float[...], time of x_t.
    s: float[...], s <= t.
  """
  masked = x_t == process.mask_id
  reveal = process.reveal_prob(t, s)
  if not process.resamples:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, x0)
    return jnp.where(masked, reveal * nats, 0.0)

  v = process.vocab_size
  mix_s = _Mixture.of(process, s, logits, x0, x_t)
  _, b_t = process.survivals(t)
  c_t = _resampled(process, t) / v
  _, change_b = process.changes(t, s)
  moves = (change_b > 0.0) & ~masked
  jump = change_b / v  # to one given token, between s and t

  z_q = jnp.where(moves, b_t * mix_s.same + c_t, 1.0)
  z_p = jnp.where(moves, b_t * jnp.exp(mix_s.log_p_xt) + c_t, 1.0)
  others = mix_s.c * (v - 1)
  move_q = jnp.clip(jump * (mix_s.b * ~mix_s.same + others) / z_q, 0.0, 1.0)
  move_p = jnp.clip(jump * (-mix_s.b * jnp.expm1(mix_s.log_p_xt) + others) / z_p, 0.0, 1.0)
  stays = moves & (move_q < 1.0)
  stay = (1.0 - move_q) * (
    jnp.log1p(-jnp.where(stays, move_q, 0.0)) - jnp.log1p(-jnp.where(stays, move_p, 0.0))
  )
  elsewhere = mix_s.kl - (mix_s.b * mix_s.same + mix_s.c) * mix_s.log_ratio_xt
  move = jump / z_q * elsewhere + move_q * (jnp.log(z_p) - jnp.log(z_q))
  return jnp.where(masked, reveal * mix_s.kl, jnp.where(moves, stay + move, 0.0))


def kl_rate(
  process: Process, logits: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns float[...], the limit of posterior_kl(t, t - dt) / dt, at 0 < t < 1.

  With q = q_t(.|x_0), p = q_t(.|p0), IS(r) = r - log r - 1 and the rates of masking, m, and
  resampling, u: for a mask m·KL(q‖p)/q(mask), for a token x u/(V·q(x))·(KL(q‖p) + A·IS(q(x)/p(x))).
  It is the score entropy of SEDD with the score of p0, better conditioned.

  Arguments as in `posterior_kl`.
  """
  masked = x_t == process.mask_id
  mask_rate, resample_rate = process.rates(t)
  a, _ = process.survivals(t)
  absent, _ = process.changes(t, jnp.zeros_like(t))  # 1 - A
  odds = jnp.where(absent > 0.0, a / jnp.where(absent > 0.0, absent, 1.0), 0.0)
  if not process.resamples:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, x0)
    return jnp.where(masked, mask_rate * odds * nats, 0.0)

  mix = _Mixture.of(process, t, logits, x0, x_t)
  itakura_saito = jnp.expm1(mix.log_ratio_xt) - mix.log_ratio_xt
  here = jnp.where(masked, 1.0, process.vocab_size * (mix.b * mix.same + mix.c))
  return jnp.where(
    masked,
    mask_rate * odds * mix.kl,
    resample_rate / jnp.where(here > 0.0, here, 1.0) * (mix.kl + itakura_saito),
  )


def score_entropy_rate(
  process: Process, log_score: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns float[...], σ'·Σ_{y≠x} Q(y→x)·[s_y - r_y·log s_y + r_y(log r_y - 1)] at 0 < t < 1.

  The ratios r_y = q(y|x_0)/q(x|x_0) are exact for every process.

  Args:
    process: absorbing, uniform or γ-hybrid noise.
    log_score: float[..., V], log s_y, the predicted log ratio of the marginals at y and at x_t;
      that of x_t itself is not looked at.
    x0: int[...] in 0..V-1.
    x_t: int[...] in 0..V.
    t: float[...].
  """
  v = process.vocab_size
  masked, same = x_t == process.mask_id, x_t == x0
  mask_rate, resample_rate = process.rates(t)
  a, b = process.survivals(t)
  absent, resampled = process.changes(t, jnp.zeros_like(t))
  c = resampled / v
  odds = a / jnp.where(absent > 0.0, absent, 1.0)
  step = c / (b + c)  # from the token of x_0 to another
  r_x0 = jnp.where(masked, odds * (b + c), 1.0 / jnp.where(step > 0.0, step, 1.0))
  r_other = jnp.where(masked, odds * c, jnp.where(same, step, 1.0))
  rate = jnp.where(masked, mask_rate, resample_rate / v)
  return rate * _bregman(log_score, x0, x_t, r_x0, r_other)


def released_rate(
  process: Process, log_score: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns float[...], the γ-hybrid loss of HDLM's public code, for comparison in training only.

  It puts σ where γσ and (1-γ)σ belong and gives other tokens ratio 0 from a mask, so its minimum
  lies below the entropy of the data: it bounds nothing.

  Arguments as in `score_entropy_rate`.
  """
  v = process.vocab_size
  masked, same = x_t == process.mask_id, x_t == x0
  mask_rate, resample_rate = process.rates(t)
  grown = jnp.expm1(process.sigma(t))
  step = grown / (grown + v)
  r_x0 = jnp.where(masked, 1.0 / grown, 1.0 / step)
  r_other = jnp.where(masked, 0.0, jnp.where(same, step, 1.0))
  rate = jnp.where(masked, mask_rate, resample_rate / v)
  return rate * _bregman(log_score, x0, x_t, r_x0, r_other)


def log_score_of(process: Process, logits: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
  """Returns float[..., V], log q_t(y|p0)/q_t(x_t|p0): the score of an x0 prediction."""
  a, b = (x[..., None] for x in process.survivals(t))
  absent, resampled = process.changes(t, jnp.zeros_like(t))
  log_q = jnp.log(a) + jnp.logaddexp(
    jnp.log(b) + jax.nn.log_softmax(logits), jnp.log(resampled / process.vocab_size)[..., None]
  )
  here = jnp.where(x_t == process.mask_id, jnp.log(absent), _entry(log_q, x_t))
  return log_q - here[..., None]


def _bregman(log_score, x0, x_t, r_x0, r_other):
  """Σ over y != x_t of s - r·log s + r(log r - 1), with r_x0 at y = x0 and r_other elsewhere."""
  v = log_score.shape[-1]
  masked, same = x_t == v, x_t == x0
  log_xt = jnp.where(masked, 0.0, _entry(log_score, x_t))
  total = jnp.exp(log_score).sum(axis=-1) - jnp.where(masked, 0.0, jnp.exp(log_xt))
  logs = log_score.sum(axis=-1) - log_xt
  log_x0 = jnp.where(same, 0.0, _entry(log_score, x0))
  count = v - jnp.where(masked, 0, 1) - jnp.where(same, 0, 1)  # of y that are neither x_t nor x0
  at_x0 = jnp.where(same, 0.0, -r_x0 * log_x0 + _entropy_like(r_x0))
  return total + at_x0 - r_other * (logs - log_x0) + count * _entropy_like(r_other)


def _entropy_like(r):
  """r·(log r - 1), 0 at r = 0."""
  return jnp.where(r > 0.0, r * (jnp.log(jnp.where(r > 0.0, r, 1.0)) - 1.0), 0.0)


def terminal_kl(process: Process) -> jax.Array:
  """Returns float[], KL( q_{1-}(.|x_0) ‖ q_{1-}(.|uniform p0) ), what is left just before t = 1."""
  v, end = process.vocab_size, jnp.asarray(1.0 - 2.0**-24, float)
  a, b = process.survivals(end)
  c = _resampled(process, end) / v
  return a * ((b + c) * jnp.log(v * (b + c)) + (v - 1) * jax.scipy.special.xlogy(c, v * c))


class _Mixture(NamedTuple):
  """q̃(y|p) = B·p[y] + c at one time, with p0 beside the truth.

  Attributes:
    b: B.
    c: (1-B)/V.
    same: whether x_t is x_0.
    log_p_xt: log p0[x_t].
    log_ratio_xt: log q̃(x_t|x_0)/q̃(x_t|p0).
    kl: KL( q̃(.|x_0) ‖ q̃(.|p0) ).
  """

  b: jax.Array
  c: jax.Array
  same: jax.Array
  log_p_xt: jax.Array
  log_ratio_xt: jax.Array
  kl: jax.Array

  @classmethod
  def of(cls, process, t, logits, x0, x_t):
    _, b = process.survivals(t)
    c = _resampled(process, t) / process.vocab_size
    mixed = c > 0.0
    kappa = jnp.where(mixed, c / jnp.where(b > 0.0, b, 1.0), 1.0)
    log_p_x0, log_p_xt, d = softmax_stats(logits, x0, x_t, kappa)
    p_x0 = jnp.where(mixed, jnp.exp(log_p_x0), 1.0)
    ratio_x0 = jnp.where(mixed, jnp.log1p(-jnp.expm1(log_p_x0) / (p_x0 + kappa)), -log_p_x0)
    same = x_t == x0
    ratio_other = jnp.where(mixed, -jnp.log1p(jnp.exp(log_p_xt) / kappa), 0.0)
    kl = b * ratio_x0 + jnp.where(mixed, c * (jnp.log1p(1.0 / kappa) - d), 0.0)
    return cls(b, c, same, log_p_xt, jnp.where(same, ratio_x0, ratio_other), kl)


def _resampled(process: Process, t: jax.Array) -> jax.Array:
  """1 - B(t), free of cancellation."""
  return process.changes(t, jnp.zeros_like(t))[1]


def _entry(values: jax.Array, index: jax.Array) -> jax.Array:
  """values[..., index]; the last entry where the index is the mask's."""
  index = jnp.minimum(index, values.shape[-1] - 1)
  return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
