"""The sampling loop: one `lax.scan` over the rows of a hyperschedule.

Row s of the schedule says which positions move at step s; the network predicts them; a stepper
moves them. A step at which no position of any example can move costs no network call, but where a
cache needs the given tokens between two gaps.

With a cache a call runs the rows of the window and of what has settled since the call before;
without one it runs the whole canvas. Either way the vocabulary is met in the window only, and the
tokens are the same, but for rounding.

Shapes: B batch, L length, S steps, W positions of the widest window, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.models.layouts import slot_values
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
  use_cache: bool = False,
  trace: bool = False,
) -> Samples:
  """Generates every position that is not given.

  Args:
    denoise: predicts x_0.
    params: its parameters.
    process: noise whose time reversal is followed; its prior fills the canvas at the start.
    stepper: rule of one step.
    hyperschedule: rows to descend.
    tokens: int32[B, L], read where `given`.
    given: bool[B, L], positions shown clean and never written.
    keys: typed keys [B]; a sample depends on its own key only, not on its neighbours.
    temperature: divides the logits; towards 0, the most likely token.
    use_cache: whether keys and values of settled tokens are computed once, static; needs a
      denoiser that `is_cacheable`.
    trace: whether to return the canvas after each step, static.
  """
  prior = jax.vmap(lambda key: process.sample(rng.stream(key, 'prior'), tokens[0], jnp.ones(())))
  canvas = jnp.where(given, tokens, prior(keys)).astype(jnp.int32)
  levels, settle_step = jnp.asarray(hyperschedule.levels), jnp.asarray(hyperschedule.settle_step)
  batch, length = tokens.shape

  def predict(cache, canvas, sigma, window, step, cached_step, num_new):
    if use_cache:
      return denoise.extend(
        params,
        cache,
        canvas,
        sigma=sigma,
        window=window,
        step=step,
        cached_step=cached_step,
        settle_step=settle_step,
        num_new=num_new,
      )
    logits = denoise(
      params,
      canvas,
      sigma=sigma,
      regions=hyperschedule.regions(step),
      settle_step=settle_step,
      outputs=jnp.maximum(window, 0),
    )
    return logits, None

  def advance(canvas, cache, step, cached_step, num_new):
    """Returns the canvas after `step`, and the entries of what has settled since `cached_step`."""
    active_L = hyperschedule.regions(step) == Region.ACTIVE
    (window,) = jnp.nonzero(active_L, size=hyperschedule.window_size, fill_value=-1)
    place = jnp.maximum(window, 0)
    t_L, s_L = (levels[step + i] / hyperschedule.num_levels for i in (0, 1))
    sigma = jnp.where(given, 0.0, process.sigma(t_L)[None])
    logits, entries = predict(cache, canvas, sigma, window, step, cached_step, num_new)
    draw = lambda key: jax.random.uniform(rng.stream(key, 'step', step), (2, len(window)))  # noqa: E731
    uniforms = jax.vmap(draw)(keys)
    before = canvas[:, place]
    proposal = stepper(
      process,
      Step(
        canvas=before,
        logits=logits / jnp.maximum(temperature, 1e-6),
        t=t_L[place],
        s=s_L[place],
        coin=uniforms[:, 0],
        uniform=uniforms[:, 1],
      ),
    )
    after = jnp.where(given[:, place], before, proposal)
    at = jnp.where(window < 0, length, window)  # past the end: dropped
    return canvas.at[:, at].set(after, mode='drop'), entries

  def redrawn(old, new):
    return ((old != process.mask_id) & (new != old)).sum(axis=1, dtype=jnp.int32)

  steps = jnp.arange(hyperschedule.num_steps)
  may_move_SxL = (hyperschedule.regions(steps) == Region.ACTIVE) & ~given.all(axis=0)[None]
  branch_S = may_move_SxL.any(axis=1).astype(jnp.int32)
  blank, cache, calls = canvas, None, jnp.zeros((), jnp.int32)
  branches = [
    lambda canvas, *_: (canvas, None),
    lambda canvas, _, step: advance(canvas, None, step, -1, 0),
  ]
  if use_cache:
    settles_S = (slot_values(denoise.rules, settle_step, 0)[None] == steps[:, None]).any(axis=1)
    first, last = jnp.argmax(branch_S), jnp.max(jnp.where(branch_S > 0, steps, -1))
    # The context of a prompt is computed in one call, that of the first step that moves anything.
    prompted = (first > 0) & (branch_S[first] > 0)
    cache = denoise.empty_cache(batch, length)

    def read_prompt():
      canvas, entries = advance(blank, cache, first, -1, cache.num_slots)
      return canvas, cache.write(entries)

    canvas, cache = jax.lax.cond(prompted, read_prompt, lambda: (blank, cache))
    calls = prompted.astype(jnp.int32)
    left_S = (steps >= first + prompted) & (steps <= last)
    branch_S = jnp.where(left_S, jnp.where(settles_S, 2, branch_S), 0)
    nothing, group = cache.no_entries(hyperschedule.group_size), hyperschedule.group_size
    branches = [
      lambda canvas, *_: (canvas, nothing),
      lambda canvas, cache, step: (advance(canvas, cache, step, step - 1, 0)[0], nothing),
      lambda canvas, cache, step: advance(canvas, cache, step, step - 1, group),
    ]

  def body(carry, row):
    canvas, cache, calls, redraws = carry
    branch, step = row
    new, entries = jax.lax.switch(branch, branches, canvas, cache, step)
    if use_cache:  # outside of the branches, which would copy the cache
      cache = cache.write(entries)
    carry = new, cache, calls + (branch > 0), redraws + redrawn(canvas, new)
    return carry, new if trace else None

  start = canvas, cache, calls, redrawn(blank, canvas)
  (canvas, _, calls, redraws), canvases = jax.lax.scan(body, start, (branch_S, steps))
  if trace and use_cache:
    canvases = jnp.where((steps < first)[:, None, None], blank[None], canvases)
  return Samples(canvas, calls, redraws, canvases)
