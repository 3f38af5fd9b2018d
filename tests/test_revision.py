"""Revision: selection, acceptance, memory and stopping, against a loop written in numpy."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import noise, rng
from ardiff_jax.hyperschedules import Region, block, flat, slide
from ardiff_jax.models.gate import Gate
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.revision import Revision
from ardiff_jax.sampling.steppers import Step
from tests import worlds
from tests.worlds import arbitrary_denoise

V, L, B = 3, 4, 40
PROCESS = noise.absorbing(V)
PARAMS = worlds.arbitrary_params(0, V, L)
PARAMS = {'table': 3.0 * PARAMS['table']}  # decided, so that tokens are accepted
LINEAR = Gate('linear', model_dim=V)
LINEAR_WEIGHTS = nn.unbox(LINEAR.new_weights(jax.random.key(0)))


@functools.partial(jax.jit, static_argnames=('denoise', 'process', 'use_cache', 'trace'))
def run(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs):
  return generate(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs)


def drafts(seed=0, masks=False, batch=B):
  return np.random.default_rng(seed).integers(0, V + masks, (batch, L)).astype(np.int32)


def linear(**settings) -> Revision:
  return Revision(gate=LINEAR, weights=LINEAR_WEIGHTS, **settings)


def revise(revision, draft, schedule=None, given=None, seed=0, process=PROCESS, **kwargs):
  schedule = flat(L, 5) if schedule is None else schedule
  given = np.zeros(draft.shape, bool) if given is None else given
  keys = jax.random.split(jax.random.key(seed), len(draft))
  args = arbitrary_denoise, PARAMS, process, revision, schedule, jnp.asarray(draft), given, keys
  return run(*args, draft=jnp.asarray(draft), trace=100, **kwargs)


def law(canvas):
  """float64[B, L, V], the denoiser's q."""
  free = np.full(L, Region.ACTIVE, np.int8)
  logits = arbitrary_denoise(
    PARAMS, jnp.asarray(canvas), sigma=None, regions=jnp.asarray(free), settle_step=None
  )
  return worlds.softmax(np.asarray(logits, np.float64))


def canvases(result, draft):
  """int32[T+1, B, L], the draft first."""
  return np.concatenate([draft[None], np.asarray(result.trace)])


# Special cases.


def test_gate_that_never_speaks_is_the_fixed_schedule_bit_for_bit():
  silent = Revision(gate=LINEAR, weights={'beta': jnp.float32([-1e9, 0, 0, 0, 0])})
  for select in ('bernoulli', 'threshold', 'budget'):
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


def test_nothing_is_better_by_an_infinite_ratio():
  result = revise(Revision(doubt='uniform', rate=1.0, ratio=np.inf), drafts())
  np.testing.assert_array_equal(result.tokens, drafts())
  assert int(result.network_calls) == 1


def test_one_look_at_masks_draws_from_the_prediction():
  n = 20_000
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
  revision = Revision(doubt='oracle', truth=jnp.asarray(truth), accept='any', threshold=(0.5, 0.5))
  draft = drafts()
  result = revise(revision, draft)
  tokens, wrong = np.asarray(result.tokens), draft != truth
  np.testing.assert_array_equal(tokens[~wrong], draft[~wrong])
  assert (tokens[wrong] != draft[wrong]).any()
  np.testing.assert_array_equal(result.memory.first_doubt, wrong.astype(np.float32))


# The whole rule, in numpy.


def reference(draft, uniforms, settings, num_steps):
  """One text: the loop with a break that the sampler is, by rate or by confidence."""
  canvas, rest = draft.copy(), np.zeros(L, int)
  picked, live = np.zeros(L, bool), 0
  for t in range(1, num_steps + 1):
    live += 1
    q = law(canvas[None])[0]
    masked = canvas == V
    p = np.full(L, settings['rate'])
    if settings['doubt'] == 'confidence':
      p = 1 - np.where(masked, 0.0, q[np.arange(L), np.minimum(canvas, V - 1)])
    p = np.where(masked, 1.0, p)
    free = masked | (rest == 0)
    done_share = (t - 1) / max(1, num_steps - 1)
    if settings['select'] == 'bernoulli':
      chosen = free & (uniforms[t - 1] < p)
    elif settings['select'] == 'threshold':
      theta = 0.5 + 0.3 * done_share
      chosen = free & (p >= np.where(picked, theta - 0.1, theta))
    else:
      count = int(np.ceil(free.sum() * (0.6 - 0.5 * done_share) - 1e-4))
      order = sorted(np.flatnonzero(free), key=lambda i: (-p[i], i))
      chosen = np.isin(np.arange(L), order[:count])
    if t == num_steps:
      chosen |= masked
    new, edit = q.argmax(axis=-1), np.zeros(L, bool)
    for i in np.flatnonzero(chosen):
      old = 0.0 if masked[i] else q[i, canvas[i]]
      better = q[i, new[i]] >= max(1.2 * old, old + 0.1)
      edit[i] = masked[i] or (better and new[i] != canvas[i])
    canvas = np.where(edit, new, canvas)
    rest, picked = np.where(edit, 1, np.maximum(rest - 1, 0)), chosen
    if (not edit.any() or p.max() < 1e-3) and not (canvas == V).any():
      break
  return canvas, live


@pytest.mark.parametrize('select', ['bernoulli', 'threshold', 'budget'])
@pytest.mark.parametrize('doubt', ['uniform', 'confidence'])
@pytest.mark.parametrize('masks', [False, True])
def test_scan_is_a_loop_with_a_break(select, doubt, masks):
  settings = dict(doubt=doubt, select=select, rate=0.6)
  ends = dict(threshold=(0.5, 0.8), hysteresis=0.1, budget=(0.6, 0.1))
  draft, steps = drafts(masks=masks), 5
  result = revise(Revision(**settings, **ends), draft, flat(L, steps))
  keys = jax.random.split(jax.random.key(0), B)
  coins = np.zeros((B, steps, L), np.float32)
  for s in range(steps):
    draw = lambda key, s=s: jax.random.uniform(rng.stream(key, 'step', s), (2, L))[0]  # noqa: E731
    coins[:, s] = jax.vmap(draw)(jax.random.clone(keys))
  lives = []
  for b in range(B):
    tokens, live = reference(draft[b], coins[b], settings, steps)
    np.testing.assert_array_equal(result.tokens[b], tokens)
    lives.append(live)
  np.testing.assert_array_equal(result.notes.live.sum(axis=0), lives)
  assert int(result.network_calls) == max(lives)
  assert len(set(lives)) > 1


# Parts of the rule.


@pytest.mark.parametrize('budget', [0.0, 0.3, 0.5, 1.0])
def test_budget_selects_as_many_as_it_says_or_as_there_are(budget):
  """Ties and positions that may not move never make it more."""
  rng = np.random.default_rng(0)
  given = rng.random((B, L)) < 0.5
  revision = Revision(
    doubt='uniform', select='budget', budget=(budget, budget), early_stop=False, cooldown=0
  )
  result = revise(revision, drafts(), given=given)
  free = (~given).sum(axis=1)
  expected = np.ceil(free * budget - 1e-4)
  live = np.asarray(result.notes.live)
  np.testing.assert_array_equal(result.notes.selected, live * expected[None])
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


@pytest.mark.parametrize('cooldown', [0, 1, 2])
def test_edits_stand_for_as_long_as_they_cool(cooldown):
  draft = drafts()
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
  for span, expected in ((0, 1), (1, 3), (2, 4)):
    revision = Revision(doubt='oracle', truth=jnp.asarray(truth), span=span, threshold=(0.5, 0.5))
    result = revise(revision, draft, flat(L, 1))
    np.testing.assert_array_equal(result.notes.selected, np.full((1, B), expected))


def test_no_repeats_falls_back_on_the_second_best_or_leaves_it():
  draft = drafts()
  settings = dict(doubt='uniform', rate=1.0, accept='any', early_stop=False)
  guarded = revise(Revision(no_repeats=True, **settings), draft, flat(L, 1))
  order = np.argsort(-law(draft), axis=-1)
  beside = np.pad(draft, [(0, 0), (1, 1)], constant_values=-1)
  for b in range(B):
    for i in range(L):
      near = {beside[b, i], beside[b, i + 2]}
      fit = [token for token in order[b, i, :2] if token not in near]
      assert guarded.tokens[b, i] == (fit[0] if fit else draft[b, i])
  assert (guarded.tokens != revise(Revision(**settings), draft, flat(L, 1)).tokens).any()


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
  revision = Revision(doubt='oracle', truth=jnp.asarray(truth), accept='any', threshold=(0.5, 0.5))
  result = revise(revision, draft, block(L, 2, 3))
  live = np.asarray(result.notes.live)
  np.testing.assert_array_equal(live[:3].sum(axis=0), 1.0)  # nothing wrong in the first block
  edited = np.asarray(result.tokens)[:, 3] != draft[:, 3]
  np.testing.assert_array_equal(live[3:].sum(axis=0), 1.0 + edited)
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

  spy = Spy(arbitrary_denoise._predict)
  revision = Counting(doubt='uniform', rate=1.0, level=0.4, early_stop=False)
  draft = jnp.asarray(drafts(batch=1))
  given = jnp.zeros(draft.shape, bool)
  keys = jax.random.split(jax.random.key(0), 1)
  generate(
    spy, PARAMS, PROCESS, revision, block(L, 2, 3), draft, given, keys, draft=draft
  ).tokens.block_until_ready()
  jax.effects_barrier()
  level = float(PROCESS.sigma(jnp.float32(0.4)))
  np.testing.assert_allclose(told[-1][0], [0, 0, level, level], rtol=1e-6)
  assert [float(x[0, 0]) for x in visits] == [1.0, 2.0, 3.0] * 2
