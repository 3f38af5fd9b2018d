"""The overwrite gate: which tokens of a text a denoiser should write anew.

After one look at a text, four signals tell what the denoiser thinks of each position,

  entropy   H = -Σ_v q log q              doubt
  margin    M = z_(1) - z_(2) >= 0        how far the best token is ahead, in logits
  change    Δ = log q_t[ŷ] - log q_{t-1}[ŷ], ŷ = argmax q_{t-1}; 0 at the first look
  surprise  S = -log q[x]                 of the token that stands there; 0 for a mask

of which the gate makes the probability u that the token is to be overwritten; a prior r has the
left mature first, and both together give p = 1 - (1-u)(1-r).

These are the equations of the dynamic overwrite gate (Prith-ML), with two amendments. Signals are
standardised over the positions of one text, not of the batch, so that no text depends on its
neighbours. And S is ours: without it, a denoiser that predicts each token from the others alone
tells the gate nothing about the one that stands there.

Shapes: B batch, W positions, D model width, V vocabulary.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.models.layers import Dense

KINDS = ('linear', 'learned')
SIGNALS = ('entropy', 'margin', 'change', 'surprise')
ACCEPTANCES = ('both', 'either', 'any')

_UNIT = 4.0  # nats, in which signals are seen that are not standardised
_FIRST_GUESS = 0.05  # probability of a learned gate before training


class Signals(NamedTuple):
  """float32[B, W] each, see above."""

  entropy: jax.Array
  margin: jax.Array
  change: jax.Array
  surprise: jax.Array

  def standardised(self, valid: jax.Array) -> 'Signals':
    """Subtracts the mean and divides by the deviation of each example, over bool[B, W] `valid`."""
    return Signals(*(_standardise(x, valid) for x in self))


class Guesses(NamedTuple):
  """The best token, int32[B, W], and its log-probability, float32[B, W]."""

  best: jax.Array
  best_log: jax.Array


def look(
  log_law: jax.Array, canvas: jax.Array, before: Guesses | None, is_first: jax.Array | bool
) -> tuple[Signals, Guesses]:
  """Returns the signals of one look, and what the next one compares with.

  Args:
    log_law: float32[B, W, V], log q, finite: what the denoiser thinks, whatever bends the draws.
    canvas: int32[B, W] in 0..V.
    before: guesses of the look before; None at the first.
    is_first: bool[B, W] or alike, where there was no look before.
  """
  law = jnp.exp(log_law)
  entropy = -jnp.where(law > 0.0, law * log_law, 0.0).sum(axis=-1)
  best, _, best_log, second_log = two_best(log_law)
  change = jnp.zeros_like(entropy)
  if before is not None:
    change = jnp.where(is_first, 0.0, log_prob(log_law, before.best) - before.best_log)
  masked = canvas == log_law.shape[-1]
  surprise = jnp.where(masked, 0.0, -log_prob(log_law, canvas))
  return Signals(entropy, best_log - second_log, change, surprise), Guesses(best, best_log)


def log_prob(log_law: jax.Array, token: jax.Array) -> jax.Array:
  """Returns float32[B, W], log q of int32[B, W] tokens in 0..V; -inf of the mask."""
  vocab_size = log_law.shape[-1]
  at = jnp.minimum(token, vocab_size - 1)[..., None]
  return jnp.where(token < vocab_size, jnp.take_along_axis(log_law, at, axis=-1)[..., 0], -jnp.inf)


def maturity_prior(
  place: jax.Array, visit: jax.Array, num_places: int, num_visits: jax.Array | int, *, alpha, delta
) -> jax.Array:
  """Returns σ(α(τ - t)) with τ = (T/L)(i + δ): what matures later is written anew for longer.

  Args:
    place: i of 0..L-1.
    visit: t of 1..T, how often the position has been looked at, this look included.
    num_places: L.
    num_visits: T.
    alpha: sharpness.
    delta: shift, in positions.
  """
  return jax.nn.sigmoid(alpha * (num_visits / num_places * (place + delta) - visit))


def noisy_or(u: jax.Array, r: jax.Array) -> jax.Array:
  """Returns 1 - (1-u)(1-r): either reason is enough."""
  return u + r - u * r


def acceptable(
  log_law: jax.Array, old: jax.Array, new: jax.Array, rule: str, ratio, lead
) -> jax.Array:
  """Returns bool[B, W], whether a new token is better by enough than the one that stands there.

  It must be no less likely, and q[new] >= λ·q[old] ('both', with q[new] >= q[old] + δ; 'either' of
  the two; or 'any' token will do).

  Args:
    log_law: float32[B, W, V], log q.
    old: int32[B, W] in 0..V; a mask has no probability.
    new: int32[B, W] in 0..V-1.
    rule: one of ACCEPTANCES.
    ratio: λ.
    lead: δ.
  """
  if rule == 'any':
    return jnp.ones(old.shape, bool)
  log_old, log_new = log_prob(log_law, old), log_prob(log_law, new)
  by_ratio = log_new >= log_old + jnp.log(ratio)
  by_lead = jnp.exp(log_new) >= jnp.exp(log_old) + lead
  better = by_ratio & by_lead if rule == 'both' else by_ratio | by_lead
  return better & (log_new >= log_old)


class Gate(nn.Module):
  """From the signals of each position to the logit of u.

  Attributes:
    kind: 'linear', β0 + βH·H - βM·M - βΔ·Δ + βS·S, which works untrained; or 'learned', an MLP that
      also sees the denoiser's last hidden state, where the position is, how far the revision has
      come, and the prior.
    model_dim: D of the denoiser.
    width: of the MLP; 0 means max(64, D/2).
    signals: those it sees; the others read 0.
    standardise: whether it sees them standardised over the text; else in units of 4 nats, so that
      it can tell a text with many wrong tokens from one with few.
  """

  kind: str
  model_dim: int
  width: int = 0
  signals: tuple[str, ...] = SIGNALS
  standardise: bool = True

  def check(self) -> None:
    """Raises ValueError for an unknown kind or signal."""
    if self.kind not in KINDS:
      raise ValueError(f'kind {self.kind!r} must be one of {", ".join(KINDS)}')
    unknown = sorted(set(self.signals) - set(SIGNALS))
    if unknown:
      raise ValueError(f'signals has {", ".join(unknown)}; known: {", ".join(SIGNALS)}')
    if self.width < 0:
      raise ValueError(f'width must be at least 0, got {self.width}')

  @nn.compact
  def __call__(
    self,
    hidden_BxWxD: jax.Array,
    signals: Signals,
    valid: jax.Array,
    place: jax.Array,
    progress: jax.Array,
    prior: jax.Array,
  ) -> jax.Array:
    """Returns float32[B, W], the logit of u.

    Args:
      hidden_BxWxD: the denoiser's stream behind its last block.
      signals: of the text.
      valid: bool[B, W], positions over which they are standardised; 0 elsewhere.
      place: float32[1, W] or float32[B, W], i/W, where in the window.
      progress: likewise, t/T.
      prior: likewise, r.
    """
    shape = signals.entropy.shape
    if self.standardise:
      signals = signals.standardised(valid)
    else:
      signals = Signals(*(jnp.where(valid, x, 0.0) / _UNIT for x in signals))
    seen = [
      x if name in self.signals else jnp.zeros(shape)
      for name, x in zip(SIGNALS, signals, strict=True)
    ]
    if self.kind == 'linear':
      start = nn.initializers.constant(np.float32([-2.0, 1.0, 1.0, 0.5, 1.0]))
      beta = self.param('beta', nn.with_logical_partitioning(start, (None,)), (5,))
      signs = np.float32([1.0, -1.0, -1.0, 1.0])
      return beta[0] + sum(b * x for b, x in zip(beta[1:] * signs, seen, strict=True))
    others = [jnp.broadcast_to(x, shape) for x in (place, progress, prior)]
    hidden = nn.LayerNorm(use_scale=False, use_bias=False)(hidden_BxWxD.astype(jnp.float32))
    x = jnp.concatenate([hidden, jnp.stack([*seen, *others], axis=-1)], axis=-1)
    width = self.width or max(64, self.model_dim // 2)
    x = nn.gelu(Dense((width,), (None, 'mlp'), bias=True, name='in')(x))
    x = Dense((1,), ('mlp', None), zero=True, bias=True, name='out')(x)[..., 0]
    return x + np.float32(np.log(_FIRST_GUESS / (1.0 - _FIRST_GUESS)))

  def new_weights(self, key: jax.Array) -> dict:
    """Returns parameters at the start of training, with their logical axes (boxed)."""
    one = jnp.zeros((1, 1))
    hidden = jnp.zeros((1, 1, self.model_dim))
    return self.init(key, hidden, Signals(one, one, one, one), one > 0.0, one, one, one)['params']


def _standardise(x: jax.Array, valid: jax.Array) -> jax.Array:
  count = jnp.maximum(valid.sum(axis=-1, keepdims=True), 1)
  mean = jnp.where(valid, x, 0.0).sum(axis=-1, keepdims=True) / count
  var = jnp.where(valid, jnp.square(x - mean), 0.0).sum(axis=-1, keepdims=True) / count
  return jnp.where(valid, (x - mean) * jax.lax.rsqrt(var + 1e-6), 0.0)


def two_best(x_BxWxV: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns the places of the greatest and the second, int32[B, W], and both values."""
  best = jnp.argmax(x_BxWxV, axis=-1).astype(jnp.int32)
  is_best = jax.nn.one_hot(best, x_BxWxV.shape[-1], dtype=bool)
  others = jnp.where(is_best, -jnp.inf, x_BxWxV)
  second = jnp.argmax(others, axis=-1).astype(jnp.int32)
  return best, second, x_BxWxV.max(axis=-1), others.max(axis=-1)
