"""Divergences between what noise does and what a prediction says it did, one reduction over V each.

A prediction p0 of x_0, mixed with uniform noise, is p(y) = B·p0[y] + c with c = (1-B)/V; the truth
is q(y) = B·[y = x_0] + c. All sums are of terms that are never negative, so that float32 loses
nothing where q and p are close:

  KL(q ‖ p) = Σ_y q(y)·gap(p(y)/q(y) - 1),    gap(u) = u - log(1 + u) >= 0.

Three quantities are built on it:

  posterior_kl        KL between the true and the predicted posterior of one step: the bound's term
  kl_rate             its limit for small steps, per unit of time: the KL form of score entropy
  score_entropy_rate  the same in SEDD's form (arXiv 2310.16834, eq. 10), for scores of any origin

Shapes: logits are [..., V], everything else [...]. Written token by token, they hold arrays of the
logits' size as they go: `tokenwise` evaluates them a slice at a time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax.noise import Process


def leave_one_out(logits: jax.Array, x_t: jax.Array) -> jax.Array:
  """Returns the logits of p(x_0 | all but this token), given those of a weighted cross-entropy.

  On a visible token z the weighted cross-entropy teaches p*(y) ∝ p0(y)·([y = z] + 1/V), so the
  entry of z is divided by V+1. Masks are left as they are.
  """
  vocab_size = logits.shape[-1]
  return logits - jax.nn.one_hot(x_t, vocab_size, dtype=logits.dtype) * jnp.log1p(vocab_size)


def cross_entropy(logits: jax.Array, x0: jax.Array) -> jax.Array:
  """Returns float[...], -log p0[x_0] = log(1 + Σ_{y≠x_0} p0[y]/p0[x_0]), so that a prediction that
  is nearly sure keeps its small loss."""
  y = jax.lax.broadcasted_iota(x0.dtype, logits.shape, logits.ndim - 1)
  others = jnp.where(y == x0[..., None], -jnp.inf, logits)
  return jax.nn.softplus(jax.nn.logsumexp(others, axis=-1) - _entry(logits, x0))


def posterior_kl(
  process: Process, logits: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array, s: jax.Array
) -> jax.Array:
  """Returns float[...], KL( q(x_s | x_t, x_0) ‖ p(x_s | x_t) ), p the posterior under p0.

  Let η be the probability that a visible token x_t was resampled between s and t, given x_0, and
  u' = q_s(x_t)/p_s(x_t) - 1. Then it is η·KL(q_s ‖ p_s) + η·gap(u') - gap(η·u').

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
    nats = cross_entropy(logits, x0)
    return jnp.where(masked, reveal * nats, 0.0)

  v = process.vocab_size
  _, b_t = process.survivals(t)
  c_t = _resampled(process, t) / v
  _, change_b = process.changes(t, s)
  moves = (change_b > 0.0) & ~masked
  here_t = jnp.where(moves, b_t * (x_t == x0) + c_t, 1.0)  # q_t(x_t), of unmasked tokens
  eta = jnp.where(moves, jnp.minimum(change_b / v / here_t, 1.0), 0.0)
  kept = jnp.where(moves, (1.0 - change_b) / here_t, 0.0)  # times q_s(x_t), it is 1 - η
  _, b_s = process.survivals(s)
  c_s = _resampled(process, s) / v

  mix = _Mixture.of(logits, x0, x_t, b_s, c_s)
  # The second part is the same in 1 - η and p/q as in η and q/p: the smaller weight is taken.
  few, p_over_q, q_over_p = eta <= 0.5, mix.ratio, mix.ratio.inverse(mix.log_p)
  weight = jnp.where(few, eta, kept * (b_s * (x_t == x0) + c_s))
  weighted = jnp.where(few, eta * q_over_p.excess, kept * p_over_q.difference)
  far = jnp.log1p(weighted) - weight * jnp.where(few, q_over_p.log, p_over_q.log)
  far += jnp.where(few, jnp.maximum(_LOWEST - mix.log_p, 0.0), 0.0)
  excess = jnp.where(few, q_over_p.excess, p_over_q.excess)
  near = jnp.abs(excess) < _NEAR
  series = weight * _gap(jnp.where(near, excess, 0.0)) - _gap(jnp.where(near, weighted, 0.0))
  gained = jnp.where(near, series, far)
  return jnp.where(masked, reveal * mix.kl, eta * mix.kl + gained)


def kl_rate(
  process: Process, logits: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns float[...], the limit of posterior_kl(t, t - dt) / dt, at 0 < t < 1.

  With the rates of masking, m, and resampling, u: for a mask m·A/(1-A)·KL(q ‖ p), for a token x
  u/(V·q(x))·( KL(q ‖ p) + gap(q(x)/p(x) - 1) ). It is the score entropy of SEDD with the score of
  p0, better conditioned.

  Arguments as in `posterior_kl`.
  """
  masked = x_t == process.mask_id
  mask_rate, resample_rate = process.rates(t)
  a, b = process.survivals(t)
  absent, resampled = process.changes(t, jnp.zeros_like(t))
  odds = jnp.where(absent > 0.0, a / jnp.where(absent > 0.0, absent, 1.0), 0.0)
  if not process.resamples:
    nats = cross_entropy(logits, x0)
    return jnp.where(masked, mask_rate * odds * nats, 0.0)

  c = resampled / process.vocab_size
  here = process.vocab_size * (b * (x_t == x0) + c)
  rate = jnp.where(masked, mask_rate * odds, resample_rate / jnp.where(masked, 1.0, here))

  mix = _Mixture.of(logits, x0, x_t, b, c)
  return rate * (mix.kl + jnp.where(masked, 0.0, mix.ratio.inverse(mix.log_p).gap()))


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
  masked, same = x_t == process.mask_id, x_t == x0
  a, b = process.survivals(t)
  absent, resampled = process.changes(t, jnp.zeros_like(t))
  c = resampled / process.vocab_size
  odds = a / jnp.where(absent > 0.0, absent, 1.0)
  apart = jnp.log1p(b / jnp.where(c > 0.0, c, 1.0))  # log q(x_0)/q(another token)
  apart = jnp.where(c > 0.0, apart, 0.0)
  log_x0 = jnp.where(masked, jnp.log(odds * (b + c)), apart)
  log_other = jnp.where(masked, jnp.log(odds * c), jnp.where(same, -apart, 0.0))
  return _bregman(process, log_score, x0, x_t, t, log_x0, log_other)


def released_rate(
  process: Process, log_score: jax.Array, x0: jax.Array, x_t: jax.Array, t: jax.Array
) -> jax.Array:
  """Returns float[...], the γ-hybrid loss of HDLM's public code, to compare in training only.

  It puts σ where γσ and (1-γ)σ belong and gives other tokens ratio 0 from a mask, so its minimum
  lies below the entropy of the data: it bounds nothing.

  Arguments as in `score_entropy_rate`.
  """
  masked, same = x_t == process.mask_id, x_t == x0
  grown = jnp.expm1(process.sigma(t))
  apart = jnp.log1p(process.vocab_size / grown)
  log_x0 = jnp.where(masked, -jnp.log(grown), apart)
  log_other = jnp.where(masked, -jnp.inf, jnp.where(same, -apart, 0.0))
  return _bregman(process, log_score, x0, x_t, t, log_x0, log_other)


def log_score_of(process: Process, logits: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
  """Returns float[..., V], log q_t(y|p0)/q_t(x_t|p0): the score of an x0 prediction."""
  a, b = (x[..., None] for x in process.survivals(t))
  absent, resampled = process.changes(t, jnp.zeros_like(t))
  log_q = jnp.log(a) + jnp.logaddexp(
    jnp.log(b) + jax.nn.log_softmax(logits), jnp.log(resampled / process.vocab_size)[..., None]
  )
  here = jnp.where(x_t == process.mask_id, jnp.log(absent), _entry(log_q, x_t))
  return log_q - here[..., None]


def _bregman(process, log_score, x0, x_t, t, log_x0, log_other):
  """Σ over y != x_t of rate·r·(e^l - 1 - l), l = log s - log r, with log r of x_0 and of others."""
  mask_rate, resample_rate = process.rates(t)
  rate = jnp.where(x_t == process.mask_id, mask_rate, resample_rate / process.vocab_size)
  y = jax.lax.broadcasted_iota(x0.dtype, log_score.shape, log_score.ndim - 1)
  log_r = jnp.where(y == x0[..., None], log_x0[..., None], log_other[..., None])
  some = log_r > -jnp.inf  # elsewhere r = r·log r = 0
  each = jnp.exp(log_r) * _exp_gap(jnp.where(some, log_score - log_r, 0.0))
  each = jnp.where(some, each, jnp.exp(log_score))
  return rate * jnp.where(y == x_t[..., None], 0.0, each).sum(axis=-1)


def terminal_kl(process: Process) -> jax.Array:
  """Returns float[], KL( q_{1-}(.|x_0) ‖ q_{1-}(.|uniform p0) ), what is left just before t = 1."""
  v, end = process.vocab_size, jnp.asarray(1.0 - 2.0**-24, float)
  a, b = process.survivals(end)
  c = _resampled(process, end) / v
  return a * ((b + c) * jnp.log(v * (b + c)) + (v - 1) * jax.scipy.special.xlogy(c, v * c))


class _Ratio(NamedTuple):
  """p/q, kept as p - q too, so that ratios near 1 stay precise.

  Attributes:
    excess: p/q - 1; 1 where q = 0.
    log: log p/q; 0 where q = 0.
    difference: p - q.
  """

  excess: jax.Array
  log: jax.Array
  difference: jax.Array

  @classmethod
  def of(cls, log_p, log_q, difference):
    possible = log_q > -jnp.inf
    q = jnp.where(possible, jnp.exp(jnp.where(possible, log_q, 0.0)), 1.0)
    excess = jnp.where(possible, difference / q, 1.0)
    near = jnp.abs(excess) < _NEAR
    far = jnp.where(near | ~possible, 0.0, log_p - jnp.where(possible, log_q, 0.0))
    return cls(excess, jnp.where(near, jnp.log1p(jnp.where(near, excess, 0.0)), far), difference)

  def inverse(self, log_p):
    """q/p."""
    p = jnp.exp(jnp.maximum(log_p, _LOWEST))
    return _Ratio(-self.difference / p, -self.log, -self.difference)

  def gap(self):
    near = jnp.abs(self.excess) < _NEAR
    return jnp.where(near, _gap(jnp.where(near, self.excess, 0.0)), self.excess - self.log)


class _Mixture(NamedTuple):
  """The truth q(y) = B·[y = x_0] + c and the prediction p(y) = B·p0[y] + c.

  Attributes:
    kl: KL(q ‖ p).
    log_p: log p(x_t).
    ratio: p/q at x_t.
  """

  kl: jax.Array
  log_p: jax.Array
  ratio: _Ratio

  @classmethod
  def of(cls, logits, x0, x_t, b, c):
    log_p0_x0 = -cross_entropy(logits, x0)
    log_z = _entry(logits, x0) - log_p0_x0
    log_p0_xt = jnp.where(x_t == x0, log_p0_x0, _entry(logits, x_t) - log_z)
    mixed = c > 0.0
    log_c = jnp.where(mixed, jnp.log(jnp.where(mixed, c, 1.0)), -jnp.inf)

    def log_mixed(log_p0):
      safe = jnp.where(mixed, b * jnp.exp(log_p0) + c, 1.0)
      return jnp.where(mixed, jnp.log(safe), log_p0 + jnp.log(b))

    log_q_x0 = jnp.log(b + c)
    log_p_x0, log_p_xt = log_mixed(log_p0_x0), log_mixed(log_p0_xt)
    at_x0 = _Ratio.of(log_p_x0, log_q_x0, b * jnp.expm1(log_p0_x0))
    same = x_t == x0
    at_xt = _Ratio.of(
      log_p_xt,
      jnp.where(same, log_q_x0, log_c),
      b * jnp.where(same, jnp.expm1(log_p0_xt), jnp.exp(log_p0_xt)),
    )
    kappa = jnp.where(mixed, c / b, 1.0)
    y = jax.lax.broadcasted_iota(x0.dtype, logits.shape, logits.ndim - 1)
    others = _gap(jnp.exp(logits - log_z[..., None]) / kappa[..., None])
    others = jnp.where(y == x0[..., None], 0.0, others).sum(axis=-1)
    kl = jnp.where(mixed, c * others + (b + c) * at_x0.gap(), -log_p0_x0)
    return cls(kl, log_p_xt, at_xt)


_NEAR = 0.1  # ratios within this of 1 are summed as series
_LOWEST = -40.0  # log of what float32 still divides by, twice in a gradient


@jax.custom_jvp
def _gap(u):
  """u - log(1 + u), u > -1: near 0 by log(1 + u) = 2·artanh(u/(2 + u))."""
  s = u / (2.0 + u)
  square = s * s
  odd = 1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square / 11)))
  return jnp.where(jnp.abs(u) < _NEAR, s * (u - 2.0 * square * odd), u - jnp.log1p(u))


@_gap.defjvp
def _gap_jvp(primals, tangents):
  (u,), (du,) = primals, tangents
  return _gap(u), u / (1.0 + u) * du


@jax.custom_jvp
def _exp_gap(x):
  """exp(x) - 1 - x, near 0 by its series."""
  series = 0.0
  for n in range(9, 1, -1):
    series = (1.0 + series) * x / n
  return jnp.where(jnp.abs(x) < _NEAR, series * x, jnp.expm1(x) - x)


@_exp_gap.defjvp
def _exp_gap_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return _exp_gap(x), jnp.expm1(x) * dx


def _resampled(process: Process, t: jax.Array) -> jax.Array:
  """1 - B(t), free of cancellation."""
  return process.changes(t, jnp.zeros_like(t))[1]


def _entry(values: jax.Array, index: jax.Array) -> jax.Array:
  """values[..., index]; the last entry where the index is the mask's."""
  index = jnp.minimum(index, values.shape[-1] - 1)
  return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
