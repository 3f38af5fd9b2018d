"""Noising processes: how a clean token turns into noise, and the way back.

Every process is tokenwise and is described by two survival probabilities, both non-increasing
in time t in [0, 1]:

  A(t)  a token has not been masked,
  B(t)  a token has not been resampled uniformly, given that it is unmasked,

  q(x_t | x_0) = A·B·[x_t = x_0]  +  A·(1-B)/V·[x_t < V]  +  (1-A)·[x_t = mask].

A subclass supplies A and B and the probabilities of change between two times; marginals,
samples and posteriors follow in closed form and cost O(V) a token.

  absorbing   A = exp(-sigma)              B = 1
  uniform     A = 1                        B = exp(-sigma)
  γ-hybrid    A = exp(-(1-γ)·sigma)        B = exp(-γ·sigma)
  ε-hybrid    A = exp(-sigma)              B = 1-ε for t > 0

The clock is one for all: exp(-sigma(t)) = 1 - (1-delta)·m(t) for t < 1, with m(t) = t (log-linear,
SEDD, arXiv 2310.16834) or sin(πt/2) (cosine, MD4, arXiv 2406.04329). t = 1 is the prior itself
whatever delta: nothing of x_0 is left there.

Token ids are 0..V-1 and the mask is id V. `t` broadcasts against token arrays, since a
hyperschedule gives every position its own time.
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLOCKS = ('log_linear', 'cosine')
MAX_SIGMA = 12.0  # noise level given to a network at t = 1, where sigma itself is infinite


class Corrupted(NamedTuple):
  """A draw from q(x_t | x_0), with the coins that made it.

  Attributes:
    tokens: int32[...] in 0..V.
    masked: bool[...], the token was masked.
    resampled: bool[...], the token was replaced by a uniform draw (even one equal to x_0).
  """

  tokens: jax.Array
  masked: jax.Array
  resampled: jax.Array


@dataclasses.dataclass(frozen=True)
class Process(abc.ABC):
  """Base of all processes; hashable, so static under `jax.jit`.

  Attributes:
    vocab_size: V, the number of tokens without the mask.
    delta: survival left just before t = 1.
    clock: one of CLOCKS.
  """

  vocab_size: int
  delta: float = 0.0
  clock: str = 'log_linear'

  def __post_init__(self):
    if self.vocab_size < 1:
      raise ValueError(f'vocab_size must be at least 1, got {self.vocab_size}')
    if not 0.0 <= self.delta < 1.0:
      raise ValueError(f'delta must be in [0, 1), got {self.delta}')
    if self.clock not in CLOCKS:
      raise ValueError(f'clock must be one of {", ".join(CLOCKS)}, got {self.clock!r}')

  @property
  def mask_id(self) -> int:
    """Id of the mask token: V, here and nowhere else."""
    return self.vocab_size

  def survival(self, t: jax.Array) -> jax.Array:
    """Returns float[...], exp(-sigma(t)): 1 at t = 0, exactly 0 at t = 1."""
    t = jnp.asarray(t, float)
    if self.clock == 'cosine':  # exactly 1 at t = 0, and no difference of equals towards t = 1
      near = 1.0 - jnp.sin(jnp.pi / 2 * t)
      left = jnp.where(t < 0.5, near, 2.0 * jnp.sin(jnp.pi / 4 * (1.0 - t)) ** 2)
    else:
      left = 1.0 - t
    return jnp.where(t < 1.0, left + self.delta * (1.0 - left), 0.0)

  def survival_change(self, t: jax.Array, s: jax.Array) -> jax.Array:
    """Returns float[...], 1 - exp(sigma(s) - sigma(t)) for s <= t, free of cancellation."""
    t, s = jnp.asarray(t, float), jnp.asarray(s, float)
    if self.clock == 'cosine':  # sin a - sin b as a product
      decay = 2.0 * jnp.cos(jnp.pi / 4 * (t + s)) * jnp.sin(jnp.pi / 4 * (t - s))
    else:
      decay = t - s
    before = self.survival(s)
    change = (1.0 - self.delta) * decay / jnp.where(before > 0.0, before, 1.0)
    return jnp.where(t < 1.0, change, jnp.where(s < 1.0, 1.0, 0.0))

  def log_survival_ratio(self, t: jax.Array, s: jax.Array) -> jax.Array:
    """Returns float[...], sigma(s) - sigma(t) for s <= t, precise near 0 and near -inf alike."""
    t, s = jnp.asarray(t, float), jnp.asarray(s, float)
    change, before = self.survival_change(t, s), self.survival(s)
    near = change < 0.5
    ratio = self.survival(t) / jnp.where(before > 0.0, before, 1.0)
    far = jnp.log(jnp.where(near, 1.0, ratio))
    return jnp.where(near, jnp.log1p(-jnp.where(near, change, 0.0)), far)

  def sigma(self, t: jax.Array) -> jax.Array:
    """Returns float[...], the noise level a network is conditioned on, at most MAX_SIGMA."""
    return jnp.minimum(-self.log_survival_ratio(t, jnp.zeros_like(t, float)), MAX_SIGMA)

  def sigma_rate(self, t: jax.Array) -> jax.Array:
    """Returns float[...], d sigma / dt at t < 1."""
    t = jnp.asarray(t, float)
    if self.clock == 'cosine':
      slope = jnp.pi / 2 * jnp.sin(jnp.pi / 2 * (1.0 - t))
    else:
      slope = jnp.ones_like(t)
    return (1.0 - self.delta) * slope / self.survival(t)

  @abc.abstractmethod
  def survivals(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns A(t) and B(t), float of the shape of t."""

  @abc.abstractmethod
  def changes(self, t: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns 1 - A(t)/A(s) and 1 - B(t)/B(s) for s <= t, free of cancellation."""

  @property
  @abc.abstractmethod
  def resamples(self) -> bool:
    """Whether a token can turn into another; static."""

  @abc.abstractmethod
  def rates(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns -A'(t)/A(t) and -B'(t)/B(t) for 0 < t < 1: the rates at which a token is masked,
    and replaced by a uniform draw (1/V of it to each token, itself included)."""

  def reveal_prob(self, t: jax.Array, s: jax.Array) -> jax.Array:
    """Returns float32, the probability that a mask at time t is a token by time s <= t:
    (A_s - A_t) / (1 - A_t), and 1 where no mask is possible."""
    a_s, _ = self.survivals(s)
    change, _ = self.changes(t, s)
    masked, _ = self.changes(t, jnp.zeros_like(s, float))  # 1 - A_t
    return jnp.where(masked > 0.0, a_s * change / jnp.where(masked > 0.0, masked, 1.0), 1.0)

  def prior_probs(self) -> jax.Array:
    """Returns float32[V+1], the marginal at t = 1, the same for every x_0."""
    return self.marginal_probs(jnp.zeros((), jnp.int32), jnp.ones(()))

  def marginal_probs(self, x0: jax.Array, t: jax.Array) -> jax.Array:
    """Returns float32[..., V+1], q(x_t | x_0).

    Args:
      x0: int[...] in 0..V-1.
      t: float[...] in [0, 1], times broadcast against x0.

    Raises:
      ValueError: a token or time out of range, the mask in clean data included (not under jit).
    """
    self._check(x0=x0, t=t)
    a, b = self._broadcast(x0, *self.survivals(t))
    onehot = jax.nn.one_hot(x0, self.vocab_size)
    tokens = a[..., None] * (b[..., None] * onehot + (1.0 - b[..., None]) / self.vocab_size)
    return jnp.concatenate([tokens, 1.0 - a[..., None]], axis=-1)

  def corrupt(self, key: jax.Array, x0: jax.Array, t: jax.Array) -> Corrupted:
    """Draws x_t from q(x_t | x_0) and says which coin decided each token.

    Args:
      key: typed PRNG key.
      x0: int[...] in 0..V-1.
      t: float[...] in [0, 1], times broadcast against x0.

    Raises:
      ValueError: a token or time out of range, the mask in clean data included (not under jit).
    """
    self._check(x0=x0, t=t)
    a, b = self._broadcast(x0, *self.survivals(t))
    key_mask, key_resample, key_token = jax.random.split(key, 3)
    masked = jax.random.uniform(key_mask, x0.shape) >= a
    resampled = (jax.random.uniform(key_resample, x0.shape) >= b) & ~masked
    uniform = jax.random.randint(key_token, x0.shape, 0, self.vocab_size, dtype=jnp.int32)
    tokens = jnp.where(resampled, uniform, x0.astype(jnp.int32))
    return Corrupted(jnp.where(masked, self.mask_id, tokens), masked, resampled)

  def sample(self, key: jax.Array, x0: jax.Array, t: jax.Array) -> jax.Array:
    """Returns int32[...], a draw from q(x_t | x_0); see `corrupt`."""
    return self.corrupt(key, x0, t).tokens

  def posterior_probs(
    self, x0_probs: jax.Array, x_t: jax.Array, t: jax.Array, s: jax.Array
  ) -> jax.Array:
    """Returns float32[..., V+1], p(x_s | x_t) for s <= t under a prediction of x_0.

    Bayes' rule with q(x_s = y | p0) = A_s·(B_s·p0[y] + (1-B_s)/V) in place of q(x_s | x_0):

      x_t = mask:   p(mask) = 1-r,  p(y) = r·(B_s·p0[y] + (1-B_s)/V),  r = (A_s-A_t)/(1-A_t)
      x_t = z < V:  p(y) ∝ (B'·[y = z] + (1-B')/V)·(B_s·p0[y] + (1-B_s)/V),  never mask.

    Limits: s = t returns x_t; a visible token that cannot have been resampled between s and t
    stays, whatever p0; a state of probability zero gives q(x_s | p0).

    Args:
      x0_probs: float[..., V], p0 = p(x_0 | everything but this token).
      x_t: int[...] in 0..V.
      t: float[...], time of x_t.
      s: float[...], earlier (cleaner) time, s <= t.
    """
    self._check(t=t, s=s)
    x0_probs = jnp.asarray(x0_probs, float)
    v = self.vocab_size
    _, b_s = self.survivals(s)
    _, change_b = self.changes(t, s)
    reveal = self.reveal_prob(t, s)
    still = jnp.asarray(t, float) == jnp.asarray(s, float)
    b_s, change_b, reveal, still = (
      x[..., None] for x in self._broadcast(x_t, b_s, change_b, reveal, still)
    )

    tokens_s = b_s * x0_probs + (1.0 - b_s) / v
    from_mask = jnp.concatenate([reveal * tokens_s, 1.0 - reveal], axis=-1)

    onehot = jax.nn.one_hot(x_t, v)
    joint = ((1.0 - change_b) * onehot + change_b / v) * tokens_s
    total = joint.sum(axis=-1, keepdims=True)
    moves = (change_b > 0.0) & (total > 0.0)
    visible = jnp.where(moves, joint / jnp.where(moves, total, 1.0), onehot)
    from_token = jnp.concatenate([visible, jnp.zeros_like(reveal)], axis=-1)

    is_mask = (x_t == self.mask_id)[..., None]
    stays = jax.nn.one_hot(x_t, v + 1)
    return jnp.where(still, stays, jnp.where(is_mask, from_mask, from_token))

  def _check(self, **values: jax.Array) -> None:
    """Raises ValueError for a clean token or a time out of range, where values are concrete."""
    for name, value in values.items():
      if isinstance(value, jax.core.Tracer):
        continue
      high = self.vocab_size - 1 if name == 'x0' else 1
      wrong = np.asarray(value)
      wrong = wrong[(wrong < 0) | (wrong > high)]
      if wrong.size:
        raise ValueError(f'{name} must be from 0 to {high}, got {wrong.flat[0]}')

  def _broadcast(self, tokens: jax.Array, *values: jax.Array) -> list[jax.Array]:
    """Gives per-position values the shape of the tokens they belong to."""
    return [jnp.broadcast_to(value, jnp.shape(tokens)) for value in values]


@dataclasses.dataclass(frozen=True)
class Absorbing(Process):
  """Tokens turn into masks and stay so: A = exp(-sigma), B = 1 (MDLM, SEDD-absorb)."""

  @property
  def resamples(self):
    return False

  def survivals(self, t):
    a = self.survival(t)
    return a, jnp.ones_like(a)

  def changes(self, t, s):
    change = self.survival_change(t, s)
    return change, jnp.zeros_like(change)

  def rates(self, t):
    rate = self.sigma_rate(t)
    return rate, jnp.zeros_like(rate)


@dataclasses.dataclass(frozen=True)
class Uniform(Process):
  """Tokens turn into uniform draws, none is masked: A = 1, B = exp(-sigma) (SEDD-uniform)."""

  @property
  def resamples(self):
    return True

  def survivals(self, t):
    b = self.survival(t)
    return jnp.ones_like(b), b

  def changes(self, t, s):
    change = self.survival_change(t, s)
    return jnp.zeros_like(change), change

  def rates(self, t):
    rate = self.sigma_rate(t)
    return jnp.zeros_like(rate), rate


@dataclasses.dataclass(frozen=True)
class GammaHybrid(Process):
  """Masking and resampling at once: A = exp(-(1-γ)·sigma), B = exp(-γ·sigma).

  The rates are mixed, (1-γ)·absorbing + γ·uniform (HDLM, arXiv 2504.06416, §3.1). γ = 0 is
  `Absorbing` and γ = 1 `Uniform`, to the bit.
  """

  gamma: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if not 0.0 <= self.gamma <= 1.0:
      raise ValueError(f'gamma must be in [0, 1], got {self.gamma}')

  @property
  def resamples(self):
    return self.gamma > 0.0

  def survivals(self, t):
    survival = self.survival(t)
    return _power(survival, 1.0 - self.gamma), _power(survival, self.gamma)

  def changes(self, t, s):
    change, log_ratio = self.survival_change(t, s), self.log_survival_ratio(t, s)
    return tuple(_power_change(change, log_ratio, x) for x in (1.0 - self.gamma, self.gamma))

  def rates(self, t):
    rate = self.sigma_rate(t)
    return (1.0 - self.gamma) * rate, self.gamma * rate


@dataclasses.dataclass(frozen=True)
class EpsilonHybrid(Process):
  """Masking beside a constant share of wrong tokens: A = exp(-sigma), B = 1-ε for t > 0.

  The evolution operators are mixed, not the rates (HDLM, arXiv 2504.06416, §3.2): the uniform
  part jumps at t = 0+ and stands still after that.
  """

  epsilon: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if not 0.0 <= self.epsilon <= 1.0:
      raise ValueError(f'epsilon must be in [0, 1], got {self.epsilon}')

  @property
  def resamples(self):
    return self.epsilon > 0.0

  def survivals(self, t):
    return self.survival(t), jnp.where(jnp.asarray(t, float) > 0.0, 1.0 - self.epsilon, 1.0)

  def changes(self, t, s):
    t, s = jnp.asarray(t, float), jnp.asarray(s, float)
    return self.survival_change(t, s), jnp.where((s == 0.0) & (t > 0.0), self.epsilon, 0.0)

  def rates(self, t):
    rate = self.sigma_rate(t)
    return rate, jnp.zeros_like(rate)


def absorbing(vocab_size: int, delta: float = 0.0, clock: str = 'log_linear') -> Absorbing:
  """Returns the absorbing (masking) process."""
  return Absorbing(vocab_size, delta, clock)


def uniform(vocab_size: int, delta: float = 0.0, clock: str = 'log_linear') -> Uniform:
  """Returns the uniform (resampling) process."""
  return Uniform(vocab_size, delta, clock)


def gamma_hybrid(
  vocab_size: int, gamma: float, delta: float = 0.0, clock: str = 'log_linear'
) -> GammaHybrid:
  """Returns the γ-hybrid process: a share `gamma` of the rate resamples, the rest masks."""
  return GammaHybrid(vocab_size, delta, clock, gamma)


def epsilon_hybrid(
  vocab_size: int, epsilon: float, delta: float = 0.0, clock: str = 'log_linear'
) -> EpsilonHybrid:
  """Returns the ε-hybrid process: masks, and a share `epsilon` of the unmasked tokens wrong."""
  return EpsilonHybrid(vocab_size, delta, clock, epsilon)


def _power(survival: jax.Array, exponent: float) -> jax.Array:
  """survival ** exponent, with 0 ** 0 = 1."""
  return jnp.ones_like(survival) if exponent == 0.0 else survival**exponent


def _power_change(change: jax.Array, log_ratio: jax.Array, exponent: float) -> jax.Array:
  """1 - (1 - change) ** exponent = 1 - exp(exponent·log_ratio)."""
  if exponent in (0.0, 1.0):
    return exponent * change
  return -jnp.expm1(exponent * log_ratio)
