"""Revision: selection, acceptance, memory and stopping, against a loop written in numpy."""

import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
import worlds
from covers import pairwise
from worlds import arbitrary_denoise

from ardiff_jax import noise, rng
from ardiff_jax.hyperschedules import Region, ar_diffusion, block, flat, from_levels, slide
from ardiff_jax.models.gate import Gate
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.revision import Revision
from ardiff_jax.sampling.steppers import Step

V, L, B = 3, 4, 40
PROCESS = noise.absorbing(V)
PARAMS = worlds.arbitrary_params(0, V, L)
PARAMS = {'table': 3.0 * PARAMS['table']}  # decided, so that tokens are accepted
LINEAR = Gate('linear', model_dim=V)


@functools.cache
def new_weights(gate):
  return jax.jit(lambda: nn.unbox(gate.new_weights(jax.random.key(0))))()


@functools.partial(jax.jit, static_argnames=('denoise', 'process', 'use_cache', 'trace'))
def run(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs):
  return generate(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def keys_of(batch, seed=0):
  return jax.random.split(jax.random.key(seed), batch)


def drafts(seed=0, masks=False, batch=B):
  return np.random.default_rng(seed).integers(0, V + masks, (batch, L)).astype(np.int32)


def linear(**settings) -> Revision:
  return Revision(gate=LINEAR, weights=new_weights(LINEAR), **settings)


def revise(revision, draft, schedule=None, given=None, **kwargs):
  schedule = flat(L, 5) if schedule is None else schedule
  given = np.zeros(draft.shape, bool) if given is None else given
  args = arbitrary_denoise, PARAMS, PROCESS, revision, schedule, draft, given, keys_of(len(draft))
  return run(*args, draft=draft, trace=100, **kwargs)


@functools.cache
def every_logit():
  """float64[C, L, V], what the denoiser gives for every canvas where nothing has settled."""
  free = flat(L, 1)
  return worlds.outputs(jax.jit(arbitrary_denoise), PARAMS, free, 0, V)[0]


def logits_of(canvas):
  """float64[B, L, V], those of some."""
  return every_logit()[worlds.index_of(canvas, V + 1)]


def law(canvas):
  """float64[B, L, V], the denoiser's q."""
  return worlds.softmax(logits_of(canvas))


def canvases(result, draft):
  """int32[T+1, B, L], the draft first."""
  return np.concatenate([draft[None], np.asarray(result.trace)])


# Special cases.


@pytest.mark.parametrize(
  'select',
  ['threshold', *(pytest.param(x, marks=pytest.mark.full) for x in ('bernoulli', 'budget'))],
)
def test_gate_that_never_speaks_is_the_fixed_schedule_bit_for_bit(select):
  silent = Revision(gate=LINEAR, weights={'beta': np.float32([-1e9, 0, 0, 0, 0])})
  settings = dict(select=select, prior_scale=0.9)
  ours = revise(silent.replace(**settings), drafts())
  theirs = revise(Revision(doubt='prior', **settings), drafts())
  np.testing.assert_array_equal(ours.trace, theirs.trace)
  np.testing.assert_array_equal(ours.notes.doubt_mean, theirs.notes.doubt_mean)
  assert int(ours.redraws.sum()) > 0


def test_without_doubt_nothing_changes_and_one_call_is_enough():
  for select in ('bernoulli', 'threshold'):
    result = revise(Revision(doubt='uniform', rate=0.0, select=select), drafts())
    np.testing.assert_array_equal(result.tokens, drafts())
    assert int(result.network_calls) == 1
    np.testing.assert_array_equal(result.notes.live.sum(axis=0), 1.0)


def test_a_gate_that_never_speaks_without_a_prior_changes_nothing():
  silent = {'beta': np.float32([-1e9, 0, 0, 0, 0])}
  result = revise(Revision(gate=LINEAR, weights=silent, prior_scale=0.0), drafts())
  np.testing.assert_array_equal(result.tokens, drafts())
  assert int(result.network_calls) == 1


def test_confidence_does_not_change_while_the_text_stands_still():
  frozen = linear(ratio=np.inf, early_stop=False, threshold=(0.0, 0.0))
  np.testing.assert_array_equal(revise(frozen, drafts()).notes.change_mean, 0.0)
  moving = linear(accept='any', write='drawn', early_stop=False, threshold=(0.0, 0.0))
  assert (np.abs(revise(moving, drafts()).notes.change_mean[1:]) > 0.0).any()


LEVELS = from_levels(np.array([[4] * L, [2] * L, [0] * L]), 4)


@pytest.mark.parametrize(
  'schedule, write',
  [
    (LEVELS, 'best'),
    (ar_diffusion(L, 3), 'mask'),
    pytest.param(LEVELS, 'mask', marks=pytest.mark.full),
    pytest.param(ar_diffusion(L, 3), 'best', marks=pytest.mark.full),
  ],
  ids=lambda x: getattr(x, 'name', x),
)
def test_no_mask_is_left_on_any_schedule(schedule, write):
  for masks in (False, True):
    draft = drafts(masks=masks)
    revision = Revision(doubt='confidence', select='budget', write=write)
    assert (np.asarray(revise(revision, draft, schedule).tokens) < V).all()


CONTROLS = (
  *(dict(banned=(1,)), dict(temperature=0.0)),
  *(dict(top_k=1), dict(top_p=0.5), dict(min_p=0.9)),
)
LEARNED = Gate('learned', V, standardise=False)


@pytest.mark.parametrize(
  'gate, controls',
  [
    pytest.param(gate, x, marks=() if (gate is LINEAR) == (i < 2) else pytest.mark.full)
    for gate in (LINEAR, LEARNED)
    for i, x in enumerate(CONTROLS)
  ],
  ids=lambda x: getattr(x, 'kind', str(x)),
)
def test_controls_bend_what_is_written_and_not_what_is_doubted(gate, controls):
  settings = dict(accept='any', early_stop=False, threshold=(0.0, 0.0))
  revision = Revision(gate=gate, weights=new_weights(gate), **settings)
  bent = revise(revision, drafts(), flat(L, 1), controls=Controls(**controls))
  free = revise(revision, drafts(), flat(L, 1))
  np.testing.assert_allclose(bent.notes.doubt_mean, free.notes.doubt_mean, atol=1e-6)
  assert np.isfinite(np.stack(bent.notes)).all()
  if 'banned' in controls:
    assert (np.asarray(free.tokens) == 1).any() and not (np.asarray(bent.tokens) == 1).any()


def test_nothing_is_better_by_an_infinite_ratio():
  result = revise(Revision(doubt='uniform', rate=1.0, ratio=np.inf), drafts())
  np.testing.assert_array_equal(result.tokens, drafts())
  assert int(result.network_calls) == 1


def test_one_look_at_masks_draws_from_the_prediction():
  n = 5000
  masks = np.full((n, L), V, np.int32)
  revision = Revision(doubt='uniform', rate=1.0, accept='any', write='drawn')
  result = revise(revision, masks, flat(L, 1))
  q = law(masks[:1])[0]
  for i in range(L):
    share = np.bincount(np.asarray(result.tokens)[:, i], minlength=V) / n
    np.testing.assert_allclose(share, q[i], atol=4 * 0.5 / n**0.5)


def test_likelihood_under_each_look_never_falls():
  draft = drafts()
  result = revise(Revision(doubt='uniform', rate=0.7, select='bernoulli'), draft)
  steps = canvases(result, draft)
  changed = 0
  for before, after in itertools.pairwise(steps):
    log_q = np.log(law(before))
    at = lambda x, log_q=log_q: np.take_along_axis(log_q, x[..., None], axis=-1).sum(axis=(1, 2))  # noqa: E731
    assert (at(after) >= at(before) - 1e-9).all()
    changed += (before != after).sum()
  assert changed > 0


def test_oracle_touches_only_what_is_wrong():
  truth = drafts(1)
  revision = Revision(doubt='oracle', truth=truth, accept='any', threshold=(0.5, 0.5))
  draft = drafts()
  result = revise(revision, draft)
  tokens, wrong = np.asarray(result.tokens), draft != truth
  np.testing.assert_array_equal(tokens[~wrong], draft[~wrong])
  assert (tokens[wrong] != draft[wrong]).any()
  np.testing.assert_array_equal(result.memory.first_doubt, wrong.astype(np.float32))


# The whole rule, in numpy.


gelu = jax.jit(jax.nn.gelu)


def gate_doubt(gate, weights, q, before, canvas, free, t, num_steps):
  """float64[L], p of a gate, from the formulas; `before` is q of the look before."""
  place = np.arange(L)
  r = 0.6 / (1 + np.exp(-0.8 * (num_steps / L * (place + 0.5) - t)))
  ordered = np.sort(np.log(q), axis=-1)
  change = np.zeros(L)
  if before is not None:
    best = before.argmax(axis=-1)
    change = np.log(q[place, best]) - np.log(before[place, best])
  visible = free & (canvas < V)
  at = q[place, np.minimum(canvas, V - 1)]
  signals = [-(q * np.log(q)).sum(axis=-1), ordered[:, -1] - ordered[:, -2], change, -np.log(at)]
  seen = []
  for x in signals:
    inside = x[visible]
    scaled = (x - inside.mean()) / np.sqrt(inside.var() + 1e-6) if len(inside) else 0 * x
    seen.append(np.where(visible, scaled if gate.standardise else x / 4, 0.0))
  if gate.kind == 'linear':
    logit = weights['beta'] @ [np.ones(L), seen[0], -seen[1], -seen[2], seen[3]]
  else:
    hidden = logits_of(canvas[None])[0]
    hidden = (hidden - hidden.mean(axis=-1, keepdims=True)) / np.sqrt(
      hidden.var(axis=-1, keepdims=True) + 1e-6
    )
    others = [place / L, np.full(L, t / num_steps), r]
    x = np.concatenate([hidden, np.stack([*seen, *others], axis=-1)], axis=-1)
    x = np.asarray(gelu(np.float32(x @ weights['in']['kernel'] + weights['in']['bias'])))
    logit = (x @ weights['out']['kernel'] + weights['out']['bias'])[:, 0] + np.log(0.05 / 0.95)
  u = 1 / (1 + np.exp(-logit))
  return 1 - (1 - u) * (1 - r)


def reference(draft, uniforms, settings, num_steps, given=None, gate=None, weights=None):
  """One text: the loop with a break that the sampler is."""
  canvas, rest = draft.copy(), np.zeros(L, int)
  picked, live = np.zeros(L, bool), 0
  may_move = np.ones(L, bool) if given is None else ~given
  before = None
  if not may_move.any():
    return canvas, 0
  for t in range(1, num_steps + 1):
    live += 1
    q = law(canvas[None])[0]
    masked = canvas == V
    p = np.full(L, settings.get('rate', 0.0))
    if settings['doubt'] == 'confidence':
      p = 1 - np.where(masked, 0.0, q[np.arange(L), np.minimum(canvas, V - 1)])
    if settings['doubt'] == 'gate':
      p = gate_doubt(gate, weights, q, before, canvas, may_move, t, num_steps)
    before = q
    p = np.where(masked, 1.0, p)
    free = may_move & (masked | (rest == 0))
    done_share = (t - 1) / max(1, num_steps - 1)
    if settings['select'] == 'bernoulli':
      chosen = free & (uniforms[t - 1] < p)
    elif settings['select'] == 'threshold':
      theta = 0.5 + 0.3 * done_share
      chosen = free & (p >= np.where(picked, theta - 0.1, theta))
    else:
      count = int(np.ceil(free.sum() * (0.6 - 0.5 * done_share) - 1e-4))
      urgency = np.where(masked, 1 + q.max(axis=-1), p)
      order = sorted(np.flatnonzero(free), key=lambda i: (-urgency[i], i))
      chosen = np.isin(np.arange(L), order[:count])
    if t == num_steps:
      chosen |= masked & may_move
    new, edit = q.argmax(axis=-1), np.zeros(L, bool)
    for i in np.flatnonzero(chosen):
      old = 0.0 if masked[i] else q[i, canvas[i]]
      better = q[i, new[i]] >= max(1.2 * old, old + 0.1)
      edit[i] = masked[i] or (better and new[i] != canvas[i])
    canvas = np.where(edit, new, canvas)
    rested = may_move & (rest > 0)
    rest, picked = np.where(edit, 1, np.maximum(rest - 1, 0)), chosen
    if ((not edit.any() and not rested.any()) or p[may_move].max() < 1e-3) and not (
      may_move & (canvas == V)
    ).any():
      break
  return canvas, live


def coins_of(steps):
  """float32[B, S, L], those of `revise`."""
  return np.asarray(_coins(keys_of(B), np.arange(steps)))


@jax.jit
def _coins(keys, steps):
  draw = lambda key, step: jax.random.uniform(rng.stream(key, 'step', step), (2, L))[0]  # noqa: E731
  return jax.vmap(jax.vmap(draw, (None, 0)), (0, None))(keys, steps)


@pytest.mark.parametrize('select', ['bernoulli', 'threshold', 'budget'])
@pytest.mark.parametrize('doubt', ['uniform', 'confidence'])
def test_scan_is_a_loop_with_a_break(select, doubt):
  settings = dict(doubt=doubt, select=select, rate=0.6)
  ends = dict(threshold=(0.5, 0.8), hysteresis=0.1, budget=(0.6, 0.1))
  for masks in (False, True):
    draft, steps = drafts(masks=masks), 5
    result = revise(Revision(**settings, **ends), draft, flat(L, steps))
    coins = coins_of(steps)
    lives = []
    for b in range(B):
      tokens, live = reference(draft[b], coins[b], settings, steps)
      np.testing.assert_array_equal(result.tokens[b], tokens, err_msg=f'{masks=}, text {b}')
      lives.append(live)
    np.testing.assert_array_equal(result.notes.live.sum(axis=0), lives, err_msg=f'{masks=}')
    assert int(result.network_calls) == max(lives)
    assert len(set(lives)) > 1


@pytest.mark.parametrize(
  'kind, standardise, select',
  pairwise(('linear', 'learned'), (True, False), ('bernoulli', 'budget')),
)
def test_scan_by_a_gate_is_a_loop_with_a_break(kind, standardise, select):
  """Signals, prior, place, progress and hidden state included; masks and given tokens too."""
  gate = Gate(kind, model_dim=V, width=5, standardise=standardise)
  draw = np.random.default_rng(1)
  move = lambda x: x + np.float32(0.7 * draw.standard_normal(x.shape))  # noqa: E731
  weights = jax.tree.map(move, jax.device_get(new_weights(gate)))
  settings = dict(doubt='gate', select=select)
  numbers = dict(alpha=0.8, delta=0.5, prior_scale=0.6, budget=(0.6, 0.1), least_doubt=0.0)
  draft, steps = drafts(masks=True), 5
  given = np.random.default_rng(3).random(draft.shape) < 0.25
  draft = np.where(given & (draft == V), 0, draft).astype(np.int32)
  revision = Revision(gate=gate, weights=weights, **settings, **numbers)
  result = revise(revision, draft, flat(L, steps), given)
  coins = coins_of(steps)
  host = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
  same, lives = [], []
  for b in range(B):
    tokens, live = reference(draft[b], coins[b], settings, steps, given[b], gate=gate, weights=host)
    same.append((np.asarray(result.tokens[b]) == tokens).all())
    lives.append(live)
  assert np.mean(same) > 0.95  # coins close to their chance are decided by rounding
  assert np.mean(np.asarray(result.notes.live).sum(axis=0) == lives) > 0.95
  assert (np.asarray(result.tokens) != draft).any()


# Parts of the rule.


def test_budget_selects_as_many_as_it_says_or_as_there_are():
  """Ties and positions that may not move never make it more."""
  given = np.random.default_rng(0).random((B, L)) < 0.5
  for budget in (0.0, 0.3, 0.5, 1.0):
    revision = Revision(
      doubt='uniform', select='budget', budget=(budget, budget), early_stop=False, cooldown=0
    )
    result = revise(revision, drafts(), given=given)
    expected = np.ceil((~given).sum(axis=1) * budget - 1e-4)
    live = np.asarray(result.notes.live)
    np.testing.assert_array_equal(result.notes.selected, live * expected[None], err_msg=f'{budget}')
    np.testing.assert_array_equal(np.asarray(result.tokens)[given], drafts()[given])


def test_budget_takes_the_most_doubtful():
  draft = drafts()
  revision = Revision(doubt='confidence', select='budget', budget=(0.25, 0.25), accept='any')
  result = revise(revision, draft, flat(L, 1))
  p = 1 - np.take_along_axis(law(draft), draft[..., None], axis=-1)[..., 0]
  changed = np.asarray(result.tokens) != draft
  for row in range(B):
    assert set(np.flatnonzero(changed[row])) <= {p[row].argmax()}
  assert changed.any()


def test_edits_stand_for_as_long_as_they_cool():
  draft = drafts()
  for cooldown in (0, 1, 2):
    revision = Revision(
      doubt='uniform', rate=1.0, accept='any', write='drawn', cooldown=cooldown, early_stop=False
    )
    result = revise(revision, draft, flat(L, 6))
    edits = np.diff(canvases(result, draft), axis=0) != 0
    gaps = [
      np.diff(np.flatnonzero(edits[:, b, i])).min()
      for b in range(B)
      for i in range(L)
      if edits[:, b, i].sum() > 1
    ]
    assert min(gaps) == cooldown + 1


def test_masks_are_filled_in_the_end_whatever_the_budget():
  masks = np.full((B, L), V, np.int32)
  revision = Revision(doubt='uniform', select='budget', budget=(0.25, 0.25))
  result = revise(revision, masks, flat(L, 3))
  steps = canvases(result, masks)
  np.testing.assert_array_equal((steps == V).sum(axis=2)[:, 0], [4, 3, 2, 0])
  assert (result.notes.live == 1).all()  # no early end while there are masks


def test_masking_first_fills_without_having_seen():
  draft = drafts()
  revision = Revision(
    doubt='confidence', select='budget', budget=(0.25, 0.25), write='mask', early_stop=False
  )
  result = revise(revision, draft, flat(L, 4))
  steps = canvases(result, draft)
  np.testing.assert_array_equal(
    (steps == V).sum(axis=2), np.float64([[0], [1], [0], [1], [0]]) * np.ones((5, B))
  )
  filled = (steps[1] == V) & (steps[2] != V)
  np.testing.assert_array_equal(steps[2][filled], law(steps[1]).argmax(axis=-1)[filled])


def test_phases_silence_the_gate_elsewhere():
  notes = {}
  for phase in ('all', 'early', 'late'):
    revision = linear(phase=phase, prior_scale=0.0, early_stop=False, accept='both', ratio=np.inf)
    notes[phase] = np.asarray(revise(revision, drafts(), flat(L, 4)).notes.doubt_mean)
  assert (notes['all'] > 0).all()
  np.testing.assert_array_equal(notes['early'][:2], notes['all'][:2])
  np.testing.assert_array_equal(notes['late'][2:], notes['all'][2:])
  assert not notes['early'][2:].any() and not notes['late'][:2].any()


def test_span_selects_neighbours_along():
  draft, truth = drafts(), drafts()
  truth[:, 1] = (truth[:, 1] + 1) % V
  for span, expected in ((0, 1), (2, 4)):
    revision = Revision(doubt='oracle', truth=truth, span=span, threshold=(0.5, 0.5))
    result = revise(revision, draft, flat(L, 1))
    np.testing.assert_array_equal(result.notes.selected, np.full((1, B), expected))


def test_no_repeats_falls_back_on_the_second_best_or_leaves_it():
  draft = drafts()
  settings = dict(doubt='uniform', rate=1.0, accept='any', early_stop=False)
  guarded = revise(Revision(no_repeats=True, **settings), draft, flat(L, 1))
  order = np.argsort(-law(draft), axis=-1)
  beside = np.pad(draft, [(0, 0), (1, 1)], constant_values=-1)
  new = draft.copy()
  for b in range(B):
    for i in range(L):
      near = {beside[b, i], beside[b, i + 2]}
      fit = [token for token in order[b, i, :2] if token not in near]
      new[b, i] = fit[0] if fit else draft[b, i]
  edit = new != draft
  twins = edit[:, 1:] & edit[:, :-1] & (new[:, 1:] == new[:, :-1])  # the right one stays as it was
  new[:, 1:] = np.where(twins, draft[:, 1:], new[:, 1:])
  np.testing.assert_array_equal(guarded.tokens, new)
  assert (guarded.tokens != revise(Revision(**settings), draft, flat(L, 1)).tokens).any()


def test_no_repeats_sees_the_text_beyond_the_window_and_what_is_written_along():
  guarded = Revision(
    doubt='uniform', rate=1.0, accept='any', write='drawn', early_stop=False, no_repeats=True
  )
  draft = drafts(batch=400)
  for schedule in (flat(L, 3), block(L, 2, 3)):
    steps = canvases(revise(guarded, draft, schedule), draft)
    new = (steps[1:, :, 1:] == steps[1:, :, :-1]) & ~(steps[:-1, :, 1:] == steps[:-1, :, :-1])
    assert not new.any(), schedule.name
  loose = canvases(revise(guarded.replace(no_repeats=False), draft, schedule), draft)
  assert (loose[-1, :, 1:] == loose[-1, :, :-1]).any()


def test_late_gates_are_waited_for_and_resting_edits_too():
  late = linear(phase='late', prior_scale=0.0, threshold=(0.3, 0.3))
  assert (revise(late, drafts(), flat(L, 4)).notes.live.sum(axis=0) >= 3).all()
  rests = Revision(doubt='uniform', rate=1.0)
  result = revise(rests, drafts())
  edited, live = np.asarray(result.notes.edited), np.asarray(result.notes.live)
  for b in range(B):  # the last look edits nothing, and nothing was edited at the look before
    last = int(live[:, b].sum()) - 1
    assert last == 4 or not edited[max(last - 1, 0) : last + 1, b].any()


def test_early_stop_can_be_had_or_not():
  revision = Revision(doubt='uniform', rate=0.05, threshold=(0.0, 0.0))
  stops = revise(revision, drafts())
  goes_on = revise(revision.replace(early_stop=False), drafts())
  least = revise(revision.replace(least_doubt=0.06), drafts())
  assert stops.notes.live.sum() < goes_on.notes.live.sum() == 5 * B
  np.testing.assert_array_equal(least.notes.live.sum(axis=0), 1.0)


def test_random_and_uniform_and_thresholds_move_what_they_say():
  """Every number of the rule changes something."""
  base = linear(select='threshold', early_stop=False)
  start = revise(base, drafts())
  for change in (
    dict(alpha=3.0),
    dict(delta=3.0),
    dict(prior_scale=0.9),
    dict(threshold=(0.9, 0.9)),
    dict(ratio=50.0),
    dict(lead=0.9),
    dict(select='budget'),
    dict(select='budget', budget=(1.0, 1.0)),
    dict(doubt='random'),
    dict(doubt='uniform', rate=0.9),
    dict(write='drawn'),
    dict(hysteresis=0.3),
  ):
    other = revise(base.replace(**change), drafts())
    same = all(
      np.array_equal(x, y) for x, y in zip(start.notes, other.notes, strict=True)
    ) and np.array_equal(start.tokens, other.tokens)
    assert not same, change
  strict, lax = (revise(base.replace(lead=0.9, accept=x), drafts()) for x in ('both', 'either'))
  assert strict.notes.edited.sum() < lax.notes.edited.sum()


def test_revision_refuses():
  for bad in (
    dict(doubt='luck'),
    dict(select='all'),
    dict(accept='never'),
    dict(write='worst'),
    dict(phase='noon'),
    dict(rate=2.0),
    dict(threshold=(0.1, 7.0)),
    dict(budget=(0.1,)),
    dict(ratio=-1.0),
    dict(rate='x'),
    dict(threshold=0.5),
    dict(threshold=(0.1, None)),
    dict(delta=np.nan),
    dict(cooldown=1.5),
    dict(early_stop='no'),
    dict(doubt='oracle'),
    dict(truth=np.zeros((1, L))),
    dict(doubt='random', select='bernoulli'),
  ):
    with pytest.raises(ValueError, match='must be'):
      Revision(**bad).check()
  Revision().check()


# Windows.


@pytest.mark.parametrize('schedule', [block(L, 2, 3), slide(L, 2, 3)], ids=['block', 'slide'])
def test_in_windows_each_position_has_its_looks_and_then_stands(schedule):
  draft = drafts()
  revision = Revision(
    doubt='uniform', rate=1.0, accept='any', write='drawn', cooldown=0, early_stop=False
  )
  result = revise(revision, draft, schedule)
  edits = np.diff(canvases(result, draft), axis=0) != 0
  for step in range(schedule.num_steps):
    still = schedule.regions(step) != Region.ACTIVE
    assert not edits[step][:, still].any()
    assert edits[step][:, ~still].any()


def test_an_end_in_one_block_does_not_end_the_next():
  truth = drafts()
  draft = truth.copy()
  draft[:, 3] = (draft[:, 3] + 1) % V
  revision = Revision(doubt='oracle', truth=truth, accept='any', threshold=(0.5, 0.5))
  result = revise(revision, draft, block(L, 2, 3))
  live = np.asarray(result.notes.live)
  np.testing.assert_array_equal(live[:3].sum(axis=0), 1.0)  # nothing wrong in the first block
  edited = np.asarray(result.notes.edited)[3:].sum(axis=0) > 0
  np.testing.assert_array_equal(live[3:].sum(axis=0) > 1.0, edited)
  assert edited.any() and not edited.all()


def test_visits_and_told_noise():
  """A network that is told noise levels is told `level` of what is revised, and 0 of the rest."""
  told, visits = [], []

  class Spy(worlds.World):
    def features(self, params, canvas, *, sigma, outputs, **shown):
      jax.debug.callback(lambda x: told.append(np.asarray(x)), sigma, ordered=True)
      return super().features(params, canvas, sigma=sigma, outputs=outputs, **shown)

  class Counting(Revision):
    def move(self, process, step: Step, logits, bend):
      jax.debug.callback(lambda x: visits.append(np.asarray(x)), step.visit, ordered=True)
      return super().move(process, step, logits, bend)

  revision = Counting(doubt='uniform', rate=1.0, level=0.4, early_stop=False)
  arguments = Spy(arbitrary_denoise._predict), PARAMS, PROCESS, revision, block(L, 2, 3)
  draft, given = drafts(batch=1), np.zeros((1, L), bool)
  spied = jax.jit(lambda draft, *rest: generate(*arguments, draft, *rest, draft=draft).tokens)
  spied(draft, given, keys_of(1)).block_until_ready()
  jax.effects_barrier()
  level = float(PROCESS.sigma(np.float32(0.4)))
  np.testing.assert_allclose(told[-1][0], [0, 0, level, level], rtol=1e-6)
  assert [float(x[0, 0]) for x in visits] == [1.0, 2.0, 3.0] * 2
