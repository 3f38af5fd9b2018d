"""Steppers: how one generation step moves the canvas, given the network's prediction.

A stepper maps a canvas and the prediction to the next canvas. For each token a coin decides
whether it changes, then the new token is drawn by inverse CDF from its own uniform: one
categorical over tokens and "stay" together would lose the rare tokens to rounding.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ardiff_jax.noise import Process
from ardiff_jax.sampling.draws import inverse_cdf


class Step(NamedTuple):
  """What a stepper sees of one generation step.

  Attributes:
    canvas: int32[B, L] in 0..V.
    logits: float32[B, L, V], prediction of x_0 at every position, temperature applied.
    t: float32[L], time of each position before the step.
    s: float32[L], its time after the step.
    coin: float32[B, L] in [0, 1).
    uniform: float32[B, L] in [0, 1), for the token.
  """

  canvas: jax.Array
  logits: jax.Array
  t: jax.Array
  s: jax.Array
  coin: jax.Array
  uniform: jax.Array


class Stepper(Protocol):
  """A frozen, hashable rule; static under `jax.jit`."""

  def __call__(self, process: Process, step: Step) -> jax.Array:
    """Returns int32[B, L], the next canvas; the loop keeps only what may move."""


@dataclasses.dataclass(frozen=True)
class Ancestral:
  """The reverse chain: a draw from the posterior p(x_s | x_t) of `Process.posterior_probs`.

  A mask is revealed with probability (A_s - A_t)/(1 - A_t); a visible token moves only under noise
  that resamples. Where it changes, the new token comes from B_s·p0 + (1-B_s)/V without the old.
  """

  def __call__(self, process: Process, step: Step) -> jax.Array:
    masked_BxL = step.canvas == process.mask_id
    reveal_L = process.reveal_prob(step.t, step.s)
    if not process.resamples:
      change_BxL = masked_BxL & (step.coin < reveal_L[None])
      return jnp.where(change_BxL, inverse_cdf(step.logits, step.uniform), step.canvas)

    _, b_L = process.survivals(step.s)
    _, resampled_L = process.changes(step.s, jnp.zeros_like(step.s))
    _, change_L = process.changes(step.t, step.s)
    v = process.vocab_size
    mix_BxLxV = b_L[None, :, None] * jax.nn.softmax(step.logits) + resampled_L[None, :, None] / v
    onehot_BxLxV = jax.nn.one_hot(step.canvas, v, dtype=bool)  # nothing for a mask
    here_BxL = jnp.where(onehot_BxLxV, mix_BxLxV, 0.0).sum(axis=-1)
    jump_L = change_L[None] / v
    total_BxL = (1.0 - change_L[None]) * here_BxL + jump_L
    move_BxL = jump_L * (1.0 - here_BxL) / jnp.where(total_BxL > 0.0, total_BxL, 1.0)
    change_BxL = step.coin < jnp.where(masked_BxL, reveal_L[None], move_BxL)
    elsewhere = jnp.where(onehot_BxLxV, -jnp.inf, jnp.log(mix_BxLxV))
    return jnp.where(change_BxL, inverse_cdf(elsewhere, step.uniform), step.canvas)


@dataclasses.dataclass(frozen=True)
class AdaptiveCorrection:
  """The Adaptive Correction Sampler (HDLM, arXiv 2504.06416, §3.4), on absorbing noise.

  With u = (A⁺ - A)/(1 - A): a mask is revealed with probability u by a draw from the prediction;
  a visible token is redrawn from it with probability η·(1 - u). With η = 0 it is `Ancestral` for
  absorbing noise. It needs a network that was trained on visible tokens.

  Attributes:
    eta: η in [0, 1].
  """

  eta: float

  def __post_init__(self):
    if not 0.0 <= self.eta <= 1.0:
      raise ValueError(f'eta must be in [0, 1], got {self.eta}')

  def __call__(self, process: Process, step: Step) -> jax.Array:
    reveal_L = process.reveal_prob(step.t, step.s)
    masked_BxL = step.canvas == process.mask_id
    change_BxL = step.coin < jnp.where(
      masked_BxL, reveal_L[None], self.eta * (1.0 - reveal_L[None])
    )
    return jnp.where(change_BxL, inverse_cdf(step.logits, step.uniform), step.canvas)
