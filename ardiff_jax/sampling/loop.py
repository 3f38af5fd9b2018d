"""The sampling loop: one `lax.scan` over the rows of a hyperschedule.

Row s of the schedule says which positions move at step s; the network looks at them; a stepper
moves them. A step at which nothing of any example can move, or at which the stepper has decided
beforehand that nothing does, costs no network call, but where a cache needs what has settled.

With a cache a call runs the rows of the window and of what has settled since the call before;
without one it runs the whole canvas. Either way the vocabulary is met in the window only, and the
tokens are the same, but for rounding.

Shapes: B batch, L length, S steps, W positions of the widest window, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ardiff_jax import rng
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.models.layouts import slot_values
from ardiff_jax.noise import Process
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.draws import inverse_cdf
from ardiff_jax.sampling.steppers import Moved, Step, Stepper

_CHUNK = 32  # positions of an example that are projected onto the vocabulary at once


class Samples(NamedTuple):
  """What a run of the sampler gives.

  Attributes:
    tokens: int32[B, L] in 0..V-1.
    network_calls: int32[], calls of the network for the batch.
    redraws: int32[B], visible tokens that were replaced or masked again.
    reveal_step: int32[B, L], the step at which a mask last became a token; -1 for never.
    notes: pytree of [S, B], what the stepper noted at each step; None if it notes nothing.
    memory: pytree of [B, L], what the stepper remembers in the end; None if it has no memory.
    trace: int32[F, B, L], canvases after the steps `trace_steps`; None unless asked for.
  """

  tokens: jax.Array
  network_calls: jax.Array
  redraws: jax.Array
  reveal_step: jax.Array
  notes: Any
  memory: Any
  trace: jax.Array | None


def trace_steps(num_steps: int, trace: int) -> list[int]:
  """Returns the steps after which `generate` keeps its canvases."""
  count = min(trace, num_steps)
  return [-(-num_steps * (frame + 1) // count) - 1 for frame in range(count)]


class _Row(NamedTuple):
  """One row of the schedule: window int32[W], -1 for none; place int32[W], the same, in range;
  sigma float32[B, L]; may_move bool[B, W]; times and visits float32[1, W]."""

  window: jax.Array
  place: jax.Array
  sigma: jax.Array
  may_move: jax.Array
  t: jax.Array
  s: jax.Array
  visit: jax.Array


class _State(NamedTuple):
  """What a step changes; memory is None if the stepper has none, the cache without one."""

  canvas: jax.Array
  memory: Any
  cache: object
  calls: jax.Array
  redraws: jax.Array
  reveal_step: jax.Array


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
  controls: Controls = Controls(),  # noqa: B008  (frozen)
  draft: jax.Array | None = None,
  stop_id: int | None = None,
  use_cache: bool = False,
  trace: int = 0,
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
    controls: what bends the law of the tokens.
    draft: int32[B, L] in 0..V, what the canvas starts from; None for the prior.
    stop_id: token behind which nothing is wanted: once it has settled in every example no more
      calls are made, and all that follows it is set to it. Needs a schedule from left to right.
      None to fill the canvas. Static.
    use_cache: whether keys and values of settled tokens are computed once, static; needs a
      denoiser that `is_cacheable`, or a stepper that keeps the order.
    trace: how many canvases to return, at most S, evenly spread over the steps; 0 for none, static.
  """
  loop = _Loop(denoise, params, process, stepper, hyperschedule, given, keys, controls, use_cache)
  if draft is None:
    nothing = jnp.zeros(tokens.shape[1:], jnp.int32)
    first = lambda key: process.sample(rng.stream(key, 'prior'), nothing, jnp.ones(()))  # noqa: E731
    draft = jax.vmap(first)(keys)
  blank = jnp.where(given, tokens, draft).astype(jnp.int32)
  return loop.run(blank, stop_id, trace)


class _Loop:
  """What `generate` was called with, and the parts of a step; lives while it is traced."""

  def __init__(
    self,
    denoise: Denoiser,
    params: dict,
    process: Process,
    stepper: Stepper,
    hyperschedule: Hyperschedule,
    given: jax.Array,
    keys: jax.Array,
    controls: Controls,
    use_cache: bool,
  ):
    self.denoise, self.params = denoise, params
    self.process, self.stepper = process, stepper
    self.schedule, self.given, self.keys = hyperschedule, given, keys
    self.controls, self.use_cache = controls, use_cache
    self.levels = jnp.asarray(hyperschedule.levels)
    self.group_size = hyperschedule.group_size  # the most positions that settle at a step
    if stepper.keeps_order:
      self.group_size = -(-hyperschedule.length // hyperschedule.num_steps)
    # where groups are of any order, what is given is seen by all of them, wherever it stands
    self.given_first = denoise.is_any_order and not stepper.settles
    self.plan = stepper.plan(keys, given)
    steps = jnp.arange(hyperschedule.num_steps)
    moving = jnp.asarray(hyperschedule.regions(steps) == Region.ACTIVE)
    if not stepper.corrects and self.plan is None:
      moving &= self.levels[:-1] > self.levels[1:]
    self.moving_SxL = moving

  def run(self, blank: jax.Array, stop_id: int | None, trace: int) -> Samples:
    batch, length = blank.shape
    steps = jnp.arange(self.schedule.num_steps)
    calls_S = (self.moving_SxL & ~self.given.all(axis=0)[None]).any(axis=1)
    memory = self.stepper.memory(blank.shape)
    nowhere = jnp.full(blank.shape, -1)
    state = _State(blank, memory, None, jnp.zeros((), int), jnp.zeros(batch, int), nowhere)
    kept_S = jnp.zeros_like(calls_S)  # rows to call for the cache alone
    first = jnp.zeros((), int)
    if self.use_cache:
      settles_S = self._settles(steps)
      first, last = jnp.argmax(calls_S), jnp.max(jnp.where(calls_S, steps, -1))
      # The context of a prompt is computed in one call, that of the first step that moves anything.
      prompted = (first > 0) | self.stepper.keeps_order | (self.given_first & self.given.any())
      prompted &= calls_S[first]
      state = state._replace(cache=self.denoise.empty_cache(self._shown(blank).shape[0], length))
      state, prompt_notes = jax.lax.cond(
        prompted, lambda state: self._read_prompt(state, first), self._skip_prompt, state
      )
      left_S = (steps >= first + prompted) & (steps <= last)
      calls_S, kept_S = calls_S & left_S, settles_S & left_S

    def body(carry, row):
      state, done, frames = carry
      step, may_call, keep = row
      new, notes = self._step(state, step, may_call & ~done, keep & ~done)
      if stop_id is not None:
        ended = (new.canvas == stop_id) & ~self.given & (self.levels[step + 1] == 0)[None]
        done |= ended.any(axis=1).all()
      if trace:
        shown = jnp.where(step < first, blank, new.canvas)  # the prompt is read before the scan
        frames = frames.at[step * len(frames) // self.schedule.num_steps].set(shown)
      return (new, done, frames), notes

    frames = None
    if trace:
      frames = jnp.broadcast_to(blank, (min(trace, self.schedule.num_steps), *blank.shape))
    start = state, jnp.zeros((), bool), frames
    (state, _, frames), notes = jax.lax.scan(body, start, (steps, calls_S, kept_S))
    if self.use_cache:  # nothing was noted at that row of the scan
      notes = jax.tree.map(lambda x, new: x.at[first].add(new), notes, prompt_notes)
    tokens = state.canvas
    if stop_id is not None:
      ends = (tokens == stop_id) & ~self.given
      tokens = jnp.where((jnp.cumsum(ends, axis=1) > 0) & ~self.given, stop_id, tokens)
    return Samples(
      tokens, state.calls, state.redraws, state.reveal_step, notes, state.memory, frames
    )

  def _read_prompt(self, state: _State, step: jax.Array):
    """The first step that moves anything, all that is settled at it read in the same call."""
    row = self._row(step)
    info, decision = self._decide(state, row, step)
    moved, entries = self._call(state, row, info, decision, step, -1, state.cache.num_slots)
    state = self._settle(state, row, info, decision, step, moved)
    state = state._replace(cache=state.cache.write(entries), calls=state.calls + 1)
    return state, moved.notes

  def _skip_prompt(self, state: _State):
    return state, self.stepper.notes(len(state.canvas))

  def _step(self, state: _State, step, may_call, keep):
    """One row; `may_call` whether its tokens may move, `keep` whether the cache wants its call."""
    row = self._row(step)
    row = row._replace(may_move=row.may_move & may_call)
    info, decision = self._decide(state, row, step)
    if decision is not None:
      call = decision.redraw.any()
    else:
      resting = self.stepper.resting(info.memory)
      if resting is not None:
        row = row._replace(may_move=row.may_move & ~resting)
        info = info._replace(movable=row.may_move)
      call = row.may_move.any()
    nothing = None
    if self.use_cache:
      each = self.stepper.keeps_order or self.given_first  # example its own slots
      nothing = state.cache.no_entries(self.group_size, each=each)
    still = Moved(info.canvas, info.memory, self.stepper.notes(len(info.canvas)))

    def looking(num_new):
      def branch(state, info, decision):
        moved, entries = self._call(state, row, info, decision, step, step - 1, num_new)
        return moved, entries if num_new else nothing

      return branch

    branches = [lambda *_: (still, nothing), looking(0)]
    branch = call.astype(jnp.int32)
    if self.use_cache:
      branches.append(looking(self.group_size))
      branch = jnp.where(keep, 2, branch)
    moved, entries = jax.lax.switch(branch, branches, state, info, decision)
    new = self._settle(state, row, info, decision, step, moved)
    if self.use_cache:  # outside of the branches, which would copy the cache
      new = new._replace(cache=state.cache.write(entries))
    return new._replace(calls=state.calls + (branch > 0)), moved.notes

  def _row(self, step) -> _Row:
    regions_L = self.schedule.regions(step)
    size = self.schedule.window_size
    (window,) = jnp.nonzero(regions_L == Region.ACTIVE, size=size, fill_value=-1)
    place = jnp.maximum(window, 0)
    time_SxL = self.levels / self.schedule.num_levels * self.schedule.last_time
    t_L, s_L = time_SxL[step], time_SxL[step + 1]
    told_L, told = t_L, self.stepper.told_time
    if told is not None:
      told_L = jnp.where(regions_L == Region.ACTIVE, told, t_L)
    sigma = (
      self.process.sigma(told_L)[None] if self.plan is None else self.plan.sigma[step][:, None]
    )
    sigma = jnp.where(self.given, 0.0, sigma)
    movable = (window >= 0)[None] & self.moving_SxL[step, place][None] & ~self.given[:, place]
    visit = (self.schedule.num_levels + 1.0 - self.levels[step, place])[None]
    return _Row(window, place, sigma, movable, t_L[None, place], s_L[None, place], visit)

  def _decide(self, state: _State, row: _Row, step):
    """Returns what the stepper sees, and what it decides before the network is called."""
    draw = lambda key: jax.random.uniform(rng.stream(key, 'step', step), (2, len(row.place)))  # noqa: E731
    roll = lambda key: jax.random.uniform(rng.stream(key, 'dice', step))  # noqa: E731
    uniforms = jax.vmap(draw)(self.keys)
    edges = jnp.pad(state.canvas, [(0, 0), (1, 1)], constant_values=-1)
    info = Step(
      canvas=state.canvas[:, row.place],
      movable=row.may_move,
      t=row.t,
      s=row.s,
      coin=uniforms[:, 0],
      uniform=uniforms[:, 1],
      dice=jax.vmap(roll)(self.keys),
      beside=jnp.stack([edges[:, row.place], edges[:, row.place + 2]]),
      place=row.place,
      visit=row.visit,
      num_visits=jnp.float32(self.schedule.num_levels),
      memory=jax.tree.map(lambda x: x[:, row.place], state.memory),
      planned=None if self.plan is None else self.plan.step[:, row.place] == step,
    )
    decision = self.stepper.decide(self.process, info)
    if decision is not None:
      decision = jax.tree.map(lambda x: x & row.may_move, decision)
    return info, decision

  def _call(self, state, row, info, decision, step, cached_step, num_new):
    """Calls the network: returns the window's next tokens, where decided beforehand only those
    redrawn, and entries for the cache."""
    features, entries = self._look(state, row, step, cached_step, num_new)
    visible = self._visible(state.canvas, step)

    bend = functools.partial(self.controls.bend, visible=visible)
    if decision is None:
      logits = self._project(features, None)
      seen = info._replace(hidden=features.x[: len(info.canvas)])
      return self.stepper.move(self.process, seen, logits, bend), entries
    bent = lambda rows: bend(self._project(features, rows))  # noqa: E731
    tracks = info.memory is not None
    drawn, likely = _draw_some(decision.redraw, info.uniform, bent, tracks)
    return Moved(drawn, likely), entries

  def _settle(self, state, row, info, decision, step, moved: Moved) -> _State:
    """Writes the window's next tokens."""
    if decision is None:
      written = row.may_move
      after = jnp.where(written, moved.tokens, info.canvas)
    else:
      written, after = decision.redraw, info.canvas
      if decision.remask is not None:
        after = jnp.where(decision.remask, self.process.mask_id, after)
      after = jnp.where(written, moved.tokens, after)
    at = jnp.where(row.window < 0, state.canvas.shape[1], row.window)  # past the end: dropped
    put = lambda x, new: x.at[:, at].set(new, mode='drop')  # noqa: E731
    was_masked, is_masked = (x == self.process.mask_id for x in (info.canvas, after))
    changed = row.may_move & ~was_masked & (after != info.canvas)
    revealed = jnp.where(was_masked & ~is_masked, step, state.reveal_step[:, row.place])
    remember = lambda x, old, new: put(x, jnp.where(written, new, old))  # noqa: E731
    return state._replace(
      canvas=put(state.canvas, after),
      memory=jax.tree.map(remember, state.memory, info.memory, moved.memory),
      redraws=state.redraws + changed.sum(axis=1),
      reveal_step=put(state.reveal_step, revealed),
    )

  def _look(self, state, row, step, cached_step, num_new):
    """Runs the blocks over the canvas as it is, and with guidance over one without the prompt."""
    canvas = self._shown(state.canvas)
    sigma = self._doubled(jnp.broadcast_to(row.sigma, state.canvas.shape))
    revealed = self._doubled(state.reveal_step)
    settle_step = jnp.asarray(self.schedule.settle_step)
    regions = self._regions(canvas, step)
    if self.stepper.keeps_order or self.given_first:  # BOS settles before all, then what is given
      if self.stepper.keeps_order:
        is_mask = canvas == self.process.mask_id
        settle_step = jnp.where(is_mask, self.schedule.num_steps + 2, revealed + 2)
        sigma = jnp.where(is_mask, sigma, 0.0)
      else:
        settle_step = jnp.where(self._doubled(self.given), 1, settle_step + 1)
      step, cached_step = step + 1, cached_step + (cached_step >= 0)
    if self.use_cache:
      return self.denoise.extend(
        self.params,
        state.cache,
        canvas,
        sigma=sigma,
        window=row.window,
        step=step,
        cached_step=cached_step,
        settle_step=settle_step,
        num_new=num_new,
      )
    features = self.denoise.features(
      self.params,
      canvas,
      sigma=sigma,
      regions=regions,
      settle_step=settle_step,
      outputs=row.place,
    )
    return features, None

  def _regions(self, canvas, step):
    if not self.stepper.settles:
      regions = self.schedule.regions(step)
      if self.given_first:
        regions = jnp.where(self._doubled(self.given), jnp.int8(Region.SETTLED), regions)
      return regions
    is_mask = canvas == self.process.mask_id
    return jnp.where(is_mask, Region.ACTIVE, Region.SETTLED).astype(jnp.int8)

  def _shown(self, canvas):
    if not self.controls.guidance:
      return canvas
    return jnp.concatenate([canvas, jnp.where(self.given, self.process.mask_id, canvas)])

  def _doubled(self, x):
    """Values of the canvases, [B, ...], for those that `_shown` gives."""
    return jnp.concatenate([x, x]) if self.controls.guidance else x

  def _project(self, features, rows):
    """float32[B, n, V], logits of some rows of the window, int32[B, n], or of all."""
    weight = self.controls.guidance
    if rows is not None:
      rows = jnp.concatenate([rows, rows]) if weight else rows
      index = lambda x: rows.reshape(*rows.shape, *[1] * (x.ndim - 2))  # noqa: E731
      features = jax.tree.map(lambda x: jnp.take_along_axis(x, index(x), axis=1), features)
    logits = self.denoise.project(self.params, features)
    if not weight:
      return logits
    prompted, free = jnp.split(logits, 2)
    return (1.0 + weight) * prompted - weight * free

  def _visible(self, canvas, step):
    """bool[B, V], tokens that the text shows; None if no control asks."""
    if self.controls.repetition_penalty == 1.0:
      return None
    shown = (self.schedule.regions(step) != Region.WORTHLESS)[None] | self.given
    tokens = jnp.where(shown, canvas, self.process.mask_id)
    none = jnp.zeros((self.process.vocab_size + 1,), bool)
    return jax.vmap(lambda x: none.at[x].set(True))(tokens)[:, :-1]

  def _settles(self, steps):
    """bool[S], rows at which slots may settle."""
    if self.stepper.keeps_order:
      return steps > 0
    slots = slot_values(self.denoise.rules, jnp.asarray(self.schedule.settle_step), 0)
    return (slots[None] == steps[:, None]).any(axis=1)


def _draw_some(
  redraw: jax.Array, uniform: jax.Array, bent: Callable, tracks: bool
) -> tuple[jax.Array, jax.Array | None]:
  """Draws tokens where bool[B, W] `redraw` says, and meets the vocabulary only there.

  Args:
    redraw: bool[B, W].
    uniform: float32[B, W].
    bent: logits [B, n, V] of some rows int32[B, n], or of all for None.
    tracks: whether the probabilities of what is drawn are wanted.

  Returns:
    int32[B, W] tokens and float32[B, W] their probabilities or None, without meaning elsewhere.
  """
  size = redraw.shape[1]

  def draw(logits, uniform):
    tokens = inverse_cdf(logits, uniform)
    if not tracks:
      return tokens, None
    likely = jnp.take_along_axis(jax.nn.softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return tokens, likely

  if size <= _CHUNK:
    return draw(bent(None), uniform)
  order = jnp.argsort(~redraw, axis=1, stable=True)
  order = jnp.pad(order, [(0, 0), (0, -size % _CHUNK)], constant_values=size)
  most = redraw.sum(axis=1).max()

  def body(carry):
    start, drawn = carry
    rows = jax.lax.dynamic_slice_in_dim(order, start, _CHUNK, axis=1)
    kept = jnp.minimum(rows, size - 1)
    new = draw(bent(kept), jnp.take_along_axis(uniform, kept, axis=1))
    put = jax.vmap(lambda x, at, y: x.at[at].set(y, mode='drop'))
    return start + _CHUNK, jax.tree.map(lambda x, y: put(x, rows, y), drawn, new)

  drawn = jnp.zeros(redraw.shape, jnp.int32), jnp.zeros(redraw.shape) if tracks else None
  start = jnp.zeros((), int), drawn
  return jax.lax.while_loop(lambda carry: carry[0] < most, body, start)[1]
