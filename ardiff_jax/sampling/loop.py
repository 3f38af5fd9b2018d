"""The sampling loop: one `lax.scan` over the rows of a hyperschedule.

Row s of the schedule says which positions move at step s; the network predicts them; a stepper
moves them. A step at which no position of any example can move costs no network call.

Shapes: B batch, L length, S steps, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.noise import Process
from ardiff_jax.sampling.steppers import Step, Stepper


class Samples(NamedTuple):
  """What a run of the sampler gives.

  Attributes:
    tokens: int32[B, L] in 0..V-1.
    network_calls: int32[], calls of the network for the batch.
    redraws: int32[B], visible tokens that were replaced by another.
    trace: int32[S, B, L], the canvas after each step; None unless asked for.
  """

  tokens: jax.Array
  network_calls: jax.Array
  redraws: jax.Array
  trace: jax.Array | None


def generate(
  denoise: Denoiser,
  params: dict,
  process: Process,
  stepper: Stepper,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  given: jax.Array,
  keys: jax.Array,
  *,
  temperature: float | jax.Array = 1.0,
  trace: bool = False,
) -> Samples:
  """Generates every position that is not given.

  Args:
    denoise: predicts x_0 at every position.
    params: its parameters.
    process: noise whose time reversal is followed; its prior fills the canvas at the start.
    stepper: rule of one step.
    hyperschedule: rows to descend.
    tokens: int32[B, L], read where `given`.
    given: bool[B, L], positions shown clean and never written.
    keys: typed keys [B]; a sample depends on its own key only, not on its neighbours.
    temperature: divides the logits; towards 0, the most likely token.
    trace: whether to return the canvas after each step.
  """
  prior = jax.vmap(lambda key: process.sample(rng.stream(key, 'prior'), tokens[0], jnp.ones(())))
  canvas = jnp.where(given, tokens, prior(keys)).astype(jnp.int32)
  steps = jnp.arange(hyperschedule.num_steps)
  t_SxL = hyperschedule.levels[:-1] / hyperschedule.num_levels
  s_SxL = hyperschedule.levels[1:] / hyperschedule.num_levels
  regions_SxL = hyperschedule.regions(steps)
  settle_step = hyperschedule.settle_step
  may_move_SxL = (regions_SxL == Region.ACTIVE) & ~given.all(axis=0)[None]
  of_step = jax.vmap(lambda key, step: rng.stream(key, 'step', step), (0, None))
  keys_SxB = jax.vmap(of_step, (None, 0))(keys, steps)

  def advance(canvas, t_L, s_L, regions_L, keys_B):
    logits = denoise(
      params,
      canvas,
      sigma=jnp.where(given, 0.0, process.sigma(t_L)[None]),
      regions=regions_L,
      settle_step=settle_step,
    )
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2, len(t_L))))(keys_B)
    proposal = stepper(
      process,
      Step(
        canvas=canvas,
        logits=logits / jnp.maximum(temperature, 1e-6),
        t=t_L,
        s=s_L,
        coin=uniforms[:, 0],
        uniform=uniforms[:, 1],
      ),
    )
    movable = (regions_L == Region.ACTIVE)[None] & ~given
    return jnp.where(movable, proposal, canvas)

  def body(carry, row):
    canvas, calls, redraws = carry
    needed, *row = row
    new = jax.lax.cond(needed, advance, lambda canvas, *_: canvas, canvas, *row)
    corrected = ((canvas != process.mask_id) & (new != canvas)).sum(axis=1, dtype=jnp.int32)
    carry = new, calls + needed.astype(jnp.int32), redraws + corrected
    return carry, new if trace else None

  start = canvas, jnp.zeros((), jnp.int32), jnp.zeros(canvas.shape[0], jnp.int32)
  rows = may_move_SxL.any(axis=1), t_SxL, s_SxL, regions_SxL, keys_SxB
  (canvas, calls, redraws), canvases = jax.lax.scan(body, start, rows)
  return Samples(canvas, calls, redraws, canvases)
