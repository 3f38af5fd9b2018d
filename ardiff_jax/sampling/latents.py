"""Refinement in latent space: noise the latents of a draft, and take the noise away again.

The rows of a hyperschedule give the times, `last_time` where they start. With two conditions, the
prompt p and the guidance g, the estimate is

  ẑ = ẑ(∅,∅) + s_p·(ẑ(p,∅) - ẑ(∅,∅)) + s_g·(ẑ(p,g) - ẑ(p,∅))

(arXiv 2211.09800, eq. 3); what cancels in it is not looked at. A step from time t to s is DDIM's
(arXiv 2010.02502, η = 0),

  z_s = α_s·ẑ + σ_s·(z_t - α_t·ẑ)/σ_t,

or a draw from the posterior q(z_s | z_t, ẑ); at s = 0 either gives ẑ itself.

Shapes: B batch, L length, E latent width, S steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.models import latents
from ardiff_jax.models.latents import LatentDenoiser

KINDS = ('ddim', 'ancestral')


class Refined(NamedTuple):
  """What a refinement gives.

  Attributes:
    tokens: int32[B, L].
    gain: float32[B, L], log p[new] - log p[old] of rounding.
    latents: float32[B, L, E], what was rounded.
    network_calls: int32[], for the batch; each of the three estimates that is made counts.
  """

  tokens: jax.Array
  gain: jax.Array
  latents: jax.Array
  network_calls: jax.Array


def refine(
  denoise: LatentDenoiser,
  params: dict,
  hyperschedule: Hyperschedule,
  tokens: jax.Array,
  given: jax.Array,
  keys: jax.Array,
  *,
  prompt_scale: float | jax.Array = 1.0,
  guidance_scale: float | jax.Array = 1.0,
  clamp: float | jax.Array = 0.0,
  kind: str = 'ddim',
  looks: tuple[bool, bool, bool] = (True, True, True),
) -> Refined:
  """Refines drafts.

  Args:
    denoise: estimates latents.
    params: its parameters.
    hyperschedule: rows to descend.
    tokens: int32[B, L], what is given, and the drafts.
    given: bool[B, L], what never changes.
    keys: typed keys [B]; a text depends on its own alone.
    prompt_scale: s_p.
    guidance_scale: s_g.
    clamp: time up to which an estimate becomes the nearest latent of a token (arXiv 2205.14217,
      §4.3); 0 for never.
    kind: one of KINDS, static.
    looks: which of the weights of `mixture` are not 0: so many passes a step; static.
  """
  if kind not in KINDS:
    raise ValueError(f'kind {kind!r} must be one of {", ".join(KINDS)}')
  segment = denoise.segments(tokens, given)
  leading = jnp.cumprod(given.astype(jnp.int32), axis=1) == 1
  draft = denoise.encode(params, tokens)
  time_SxL = jnp.asarray(hyperschedule.levels) / hyperschedule.num_levels
  time_SxL = time_SxL * hyperschedule.last_time
  shape = draft.shape[1:]

  def noise(name, step):
    draw = lambda key: jax.random.normal(rng.stream(key, name, step), shape)  # noqa: E731
    return jax.vmap(draw)(keys)

  def estimate(z, before, time):
    at = jnp.broadcast_to(time, tokens.shape)
    no_guidance = jnp.where(segment == latents.GUIDANCE, latents.HIDDEN, segment)
    neither = jnp.where(leading, latents.HIDDEN, segment)  # what is kept further on stays
    shown = [x for x, used in zip((neither, no_guidance, segment), looks, strict=True) if used]
    weights = mixture(prompt_scale, guidance_scale)
    weights = [x for x, used in zip(weights, looks, strict=True) if used]
    each = lambda x: jnp.concatenate([x] * len(shown))  # noqa: E731
    every = denoise.estimate(
      params, each(tokens), each(z), each(before), each(at), jnp.concatenate(shown)
    )
    found = jnp.split(every, len(shown))
    return sum(weight * one for weight, one in zip(weights, found, strict=True))

  def is_clamped(time):
    return (time > 0.0) & (time <= clamp)  # what has settled is looked at no more

  def clamped(found, time):
    nearest = denoise.encode(params, denoise.round(params, found).argmax(axis=-1))
    return jnp.where(is_clamped(time)[..., None], nearest, found)

  falls_SxL = time_SxL[:-1] > time_SxL[1:]

  def look(carry, step):
    z, before = carry
    now, then = time_SxL[step][None], time_SxL[step + 1][None]
    found = estimate(z, before, now)
    found = jax.lax.cond(is_clamped(now).any(), clamped, lambda found, _: found, found, now)
    new = step_to(z, found, now[..., None], then[..., None], noise('step', step), kind)
    moves = (falls_SxL[step][None] & ~given)[..., None]
    # a text that rests keeps its estimate too, as it would without neighbours that move
    before = jnp.where(moves.any(axis=1, keepdims=True), found, before)
    return jnp.where(moves, new, z), before

  is_look = (falls_SxL & ~given.all(axis=0)[None]).any(axis=1)  # where a text has what moves

  def body(carry, step):
    stay = lambda carry, step: carry  # noqa: E731
    return jax.lax.cond(is_look[step], look, stay, carry, step), None

  alpha, sigma = (x[None, :, None] for x in latents.signal(time_SxL[0]))
  noisy = alpha * draft + sigma * noise('start', 0)
  start = jnp.where(given[..., None], draft, noisy), jnp.zeros_like(draft)
  (z, _), _ = jax.lax.scan(body, start, jnp.arange(hyperschedule.num_steps))
  log_law = jax.nn.log_softmax(denoise.round(params, z))
  new = jnp.where(given, tokens, log_law.argmax(axis=-1)).astype(jnp.int32)
  at = lambda x: jnp.take_along_axis(log_law, x[..., None], axis=-1)[..., 0]  # noqa: E731
  calls = is_look.sum() * sum(looks)
  return Refined(new, at(new) - at(tokens), z, calls)


def mixture(prompt_scale: float, guidance_scale: float) -> tuple[float, float, float]:
  """Returns what ẑ(∅,∅), ẑ(p,∅) and ẑ(p,g) weigh in the estimate."""
  return 1.0 - prompt_scale, prompt_scale - guidance_scale, guidance_scale


def step_to(
  z: jax.Array, estimate: jax.Array, now: jax.Array, then: jax.Array, noise: jax.Array, kind: str
) -> jax.Array:
  """Returns float32[B, L, E] at times `then` <= `now`, float32[..., 1]; see above."""
  (alpha, sigma), (alpha_s, sigma_s) = latents.signal(now), latents.signal(then)
  if kind == 'ddim':
    new = alpha_s * estimate + sigma_s * (z - alpha * estimate) / sigma
  else:
    ratio = alpha / alpha_s
    fresh = sigma**2 - (ratio * sigma_s) ** 2  # variance added between the two
    mean = (ratio * sigma_s**2 * z + alpha_s * fresh * estimate) / sigma**2
    new = mean + jnp.sqrt(jnp.maximum(fresh, 0.0)) * sigma_s / sigma * noise
  return jnp.where(then == 0.0, estimate, new)
