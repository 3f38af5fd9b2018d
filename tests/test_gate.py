"""The overwrite gate: signals, prior, acceptance, the module, and its objective."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ardiff_jax import method, noise, workdir
from ardiff_jax.evaluation import gates
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.hyperschedules import flat
from ardiff_jax.models import gate as gate_lib
from ardiff_jax.models.gate import Gate, Signals
from ardiff_jax.objectives.gate import LOSSES, OverwriteGate, relaxed_bernoulli
from ardiff_jax.objectives.likelihood import Examples
from tests import worlds
from tests.worlds import World

V, L = 7, 5


def looked(logits, canvas=None, before=None, is_first=True):
  canvas = np.zeros(logits.shape[:2], np.int32) if canvas is None else canvas
  return gate_lib.look(jax.nn.log_softmax(logits), jnp.asarray(canvas), before, is_first)


def some_logits(seed=0, batch=3, scale=1.0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(scale * rng.standard_normal((batch, L, V)), jnp.float32)


# Signals.


def test_entropy_of_equal_logits_is_the_log_of_their_number():
  signals, _ = looked(jnp.zeros((1, L, V)))
  np.testing.assert_allclose(signals.entropy, np.log(V), rtol=1e-6)
  np.testing.assert_array_equal(signals.margin, 0.0)


def test_signals_are_what_they_say():
  logits, canvas = some_logits(), np.random.default_rng(1).integers(0, V + 1, (3, L))
  signals, guesses = looked(logits, canvas)
  q = worlds.softmax(np.asarray(logits, np.float64))
  ordered = np.sort(np.asarray(logits, np.float64), axis=-1)
  np.testing.assert_allclose(signals.entropy, -(q * np.log(q)).sum(axis=-1), rtol=1e-5)
  np.testing.assert_allclose(signals.margin, ordered[..., -1] - ordered[..., -2], rtol=1e-5)
  np.testing.assert_array_equal(guesses.best, q.argmax(axis=-1))
  best, second, first_value, second_value = gate_lib.two_best(logits)
  np.testing.assert_array_equal(best, guesses.best)
  np.testing.assert_array_equal(second, np.argsort(q, axis=-1)[..., -2])
  np.testing.assert_allclose([first_value, second_value], ordered[..., :-3:-1].transpose(2, 0, 1))
  at = np.take_along_axis(q, np.minimum(canvas, V - 1)[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(signals.surprise, np.where(canvas == V, 0.0, -np.log(at)), rtol=1e-5)


def test_change_compares_the_last_best_token_with_itself():
  before, after = some_logits(0), some_logits(1)
  _, guesses = looked(before)
  signals, _ = looked(after, before=guesses, is_first=False)
  log_before, log_after = (
    np.log(worlds.softmax(np.asarray(x, np.float64))) for x in (before, after)
  )
  best = log_before.argmax(axis=-1)[..., None]
  expected = np.take_along_axis(log_after - log_before, best, axis=-1)[..., 0]
  np.testing.assert_allclose(signals.change, expected, atol=1e-5)
  same, _ = looked(before, before=guesses, is_first=False)
  np.testing.assert_array_equal(same.change, 0.0)
  first, _ = looked(after, before=guesses, is_first=True)
  np.testing.assert_array_equal(first.change, 0.0)


def test_signals_do_not_feel_a_constant_added_to_the_logits():
  logits = some_logits()
  _, guesses = looked(some_logits(1))
  ours, _ = looked(logits, before=guesses, is_first=False)
  theirs, _ = looked(logits + 3.0, before=guesses, is_first=False)
  for x, y in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(x, y, atol=2e-6)


def test_standardised_over_the_valid_positions_of_each_example():
  rng = np.random.default_rng(0)
  x, valid = rng.standard_normal((4, 9)).astype(np.float32), rng.random((4, 9)) < 0.7
  got = Signals(*[jnp.asarray(x)] * 4).standardised(jnp.asarray(valid)).entropy
  for row in range(4):
    inside = x[row, valid[row]].astype(np.float64)
    np.testing.assert_allclose(
      np.asarray(got)[row, valid[row]], (inside - inside.mean()) / inside.std(), atol=1e-4
    )
    assert not np.asarray(got)[row, ~valid[row]].any()
  alone = Signals(*[jnp.asarray(x[:1])] * 4).standardised(jnp.asarray(valid[:1])).entropy
  np.testing.assert_array_equal(alone, got[:1])


# Prior, noisy-or, acceptance.


def test_prior_is_half_at_maturity_rises_to_the_right_and_falls_with_time():
  place, visits = jnp.arange(8.0)[None], jnp.arange(1.0, 5.0)[:, None]
  prior = gate_lib.maturity_prior(place, visits, 8, 4, alpha=2.0, delta=0.0)
  np.testing.assert_allclose(prior[1, 4], 0.5)  # (4/8)·4 = 2 = t
  assert (np.diff(prior, axis=1) > 0).all() and (np.diff(prior, axis=0) < 0).all()
  shifted = gate_lib.maturity_prior(place, visits, 8, 4, alpha=2.0, delta=2.0)
  np.testing.assert_allclose(shifted[:, :-2], prior[:, 2:], rtol=1e-6)


def test_noisy_or():
  u, r = np.random.default_rng(0).random((2, 1000)).astype(np.float32)
  p = np.asarray(gate_lib.noisy_or(u, r))
  assert (p >= np.maximum(u, r) - 1e-6).all() and (p <= np.minimum(1.0, u + r) + 1e-6).all()
  np.testing.assert_allclose(p, gate_lib.noisy_or(r, u), rtol=1e-6)
  np.testing.assert_array_equal(gate_lib.noisy_or(jnp.float32(0.0), r), r)
  np.testing.assert_array_equal(gate_lib.noisy_or(u, jnp.float32(0.0)), u)
  assert (np.diff(gate_lib.noisy_or(np.sort(u), jnp.float32(0.3))) >= 0).all()


def test_acceptance_by_the_formula():
  logits, rng = some_logits(scale=2.0), np.random.default_rng(2)
  old, new = rng.integers(0, V, (2, 3, L))
  q = worlds.softmax(np.asarray(logits, np.float64))
  at = lambda token: np.take_along_axis(q, token[..., None], axis=-1)[..., 0]  # noqa: E731
  ratio, lead = at(new) >= 1.5 * at(old), at(new) >= at(old) + 0.1
  log_law = jax.nn.log_softmax(logits)
  for rule, better in (('both', ratio & lead), ('either', ratio | lead)):
    got = gate_lib.acceptable(log_law, jnp.asarray(old), jnp.asarray(new), rule, 1.5, 0.1)
    np.testing.assert_array_equal(got, better & (at(new) >= at(old)))
  assert (ratio != lead).any()
  assert gate_lib.acceptable(log_law, jnp.asarray(old), jnp.asarray(new), 'any', 1.5, 0.1).all()


def test_a_mask_gives_way_to_what_is_likely_enough():
  log_law = jax.nn.log_softmax(some_logits())
  best = jnp.argmax(log_law, axis=-1)
  masks = jnp.full(best.shape, V)
  got = gate_lib.acceptable(log_law, masks, best, 'both', 1.2, 0.3)
  np.testing.assert_array_equal(got, jnp.exp(log_law.max(axis=-1)) >= 0.3)


# The module.


def gate_output(gate, signals, hidden=None, weights=None, progress=0.5, prior=0.1):
  shape, one = signals.entropy.shape, jnp.ones((1, L))
  hidden = jnp.zeros((*shape, gate.model_dim)) if hidden is None else hidden
  weights = new_weights(gate) if weights is None else weights
  others = jnp.arange(L)[None] / L, progress * one, prior * one
  return gate.apply({'params': weights}, hidden, signals, jnp.ones(shape, bool), *others)


def new_weights(gate):
  return nn.unbox(gate.new_weights(jax.random.key(0)))


def some_signals(seed=0):
  return Signals(*jnp.asarray(np.random.default_rng(seed).standard_normal((4, 3, L)), jnp.float32))


def test_linear_gate_is_its_formula():
  signals = some_signals()
  s = signals.standardised(jnp.ones((3, L), bool))
  weights = {'beta': jnp.float32([0.3, 0.5, 0.7, 1.1, 1.3])}
  expected = 0.3 + 0.5 * s.entropy - 0.7 * s.margin - 1.1 * s.change + 1.3 * s.surprise
  got = gate_output(Gate('linear', model_dim=8), signals, weights=weights)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_not_standardised_a_gate_feels_the_size_of_its_signals():
  weights, signals = {'beta': jnp.float32([0.0, 1.0, 0.0, 0.0, 0.0])}, some_signals()
  larger = signals._replace(entropy=3.0 * signals.entropy)
  for standardise in (True, False):
    gate = Gate('linear', model_dim=8, standardise=standardise)
    ours, theirs = (gate_output(gate, x, weights=weights) for x in (signals, larger))
    np.testing.assert_allclose(theirs, ours * (1.0 if standardise else 3.0), atol=1e-4)


@pytest.mark.parametrize('kind', gate_lib.KINDS)
@pytest.mark.parametrize('kept', gate_lib.SIGNALS)
def test_a_gate_sees_only_its_signals(kind, kept):
  gate = Gate(kind, model_dim=8, signals=(kept,))
  move = lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape)  # noqa: E731
  weights = jax.tree.map(move, new_weights(gate))
  slopes = jax.grad(lambda s: (gate_output(gate, s, weights=weights) ** 2).sum())(some_signals())
  for name, slope in slopes._asdict().items():
    assert bool(jnp.abs(slope).max() > 0) == (name == kept)


def test_a_learned_gate_starts_as_a_constant():
  gate = Gate('learned', model_dim=8)
  start = gate_output(gate, some_signals())
  np.testing.assert_allclose(jax.nn.sigmoid(start), 0.05, rtol=1e-5)


def test_a_learned_gate_sees_everything_it_is_given():
  """Hidden state, place, progress and prior, and what the text before it was scaled by."""
  gate, signals, one = Gate('learned', model_dim=8), some_signals(), jnp.ones((1, L))
  weights = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), new_weights(gate)
  )
  hidden = jnp.asarray(np.random.default_rng(5).standard_normal((3, L, 8)), jnp.float32)

  def output(hidden, place, progress, prior):
    valid = jnp.ones((3, L), bool)
    return gate.apply({'params': weights}, hidden, signals, valid, place, progress, prior)

  start = dict(hidden=hidden, place=jnp.arange(L)[None] / L, progress=0.5 * one, prior=0.1 * one)
  for name in start:
    by = jnp.roll(hidden, 1, axis=2) if name == 'hidden' else 0.3
    moved = output(**(start | {name: start[name] + by}))
    assert (np.abs(moved - output(**start)) > 1e-4).mean() > 0.9, name
  scaled = output(**(start | {'hidden': 7.0 * hidden + 2.0}))  # normalised first
  np.testing.assert_allclose(scaled, output(**start), atol=1e-4)


def test_gate_refuses_what_is_unknown():
  for bad in (Gate('deep', 8), Gate('linear', 8, signals=('luck',)), Gate('learned', 8, width=-1)):
    with pytest.raises(ValueError, match=r'must be|known'):
      bad.check()


# Objective.


def _table(params, canvas, *, sigma, regions, settle_step):
  """Predicts, of each token, params['params'] rows by what the left neighbour is."""
  del sigma, regions, settle_step
  left = jnp.pad(canvas, [(0, 0), (1, 0)])[:, :-1]
  return params['params']['table'][left]


class Seen(World):
  """A table that also shows the gate a hidden state: what stands there, one-hot."""

  def features(self, params, canvas, *, outputs, **shown):
    logits = self._predict(params, canvas, **shown)[:, outputs]
    hidden = jax.nn.one_hot(canvas, V)[:, outputs]
    return worlds.Features(jnp.concatenate([logits, hidden], axis=-1), None)

  def project(self, params, features):
    return features.x[..., :V]


def setup(batch=64, **settings):
  table = jnp.asarray(2.0 * np.random.default_rng(0).standard_normal((V + 1, V)), jnp.float32)
  gate = Gate('learned', model_dim=2 * V, width=16)
  params = {'params': {'table': table}, 'gate': new_weights(gate)}
  objective = OverwriteGate(noise.epsilon_hybrid(V, epsilon=0.01), gate, **settings)
  rng = np.random.default_rng(1)
  examples = Examples(
    tokens=jnp.asarray(rng.integers(0, V, (batch, L)), jnp.int32),
    counted=jnp.asarray(rng.random((batch, L)) < 0.9),
    uniform=jnp.asarray(rng.random(batch), jnp.float32),
    keys=jax.random.split(jax.random.key(3), batch),
  )
  return objective, Seen(_table), params, examples


@pytest.mark.parametrize('loss', LOSSES)
def test_only_the_gate_learns(loss):
  objective, denoise, params, examples = setup(loss=loss)

  def total(params):
    return objective(denoise, params, examples, flat(L, 4)).sum()

  value, slopes = jax.value_and_grad(total)(params)
  assert np.isfinite(value) and not jnp.abs(slopes['params']['table']).max()
  size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes['gate']))
  assert np.isfinite(size) and size > 0
  assert objective.trained == ('gate',)


def test_tuned_along_the_denoiser_learns_its_own_loss():
  objective, denoise, params, examples = setup(denoising_weight=0.5)
  alone, *_ = setup()
  jitted = lambda f: jax.jit(lambda params: f(denoise, params, examples, flat(L, 4)).sum())  # noqa: E731
  slopes = jax.grad(jitted(objective))(params)
  assert jnp.abs(slopes['params']['table']).max() > 0
  assert float(jitted(objective)(params)) > float(jitted(alone)(params))
  assert objective.trained == ('params', 'gate')


def test_given_tokens_weigh_nothing_and_are_never_replaced():
  objective, denoise, params, examples = setup()
  loss = objective(denoise, params, examples, flat(L, 4))
  np.testing.assert_array_equal(loss[~np.asarray(examples.counted)], 0.0)
  nothing = examples._replace(counted=jnp.zeros_like(examples.counted))
  assert not objective(denoise, params, nothing, flat(L, 4)).any()


def test_a_draft_is_looked_at_in_place_of_the_text():
  """What is wrong in it is the gate's to doubt, where it is free to."""
  objective, denoise, params, examples = setup(corrupted=1e-9, looks=1, loss='marginal')
  clean = objective(denoise, params, examples, flat(L, 4))
  wrong = jnp.zeros((64, L), bool).at[::2, 1].set(True)
  draft = jnp.where(wrong, (examples.tokens + 1) % V, examples.tokens)
  loss = objective(denoise, params, examples._replace(draft=draft), flat(L, 4))
  np.testing.assert_array_equal(loss[1::2], clean[1::2])
  counted = np.asarray(examples.counted[::2, 1])
  assert (np.asarray(loss - clean)[::2, 1][counted] > 0).mean() > 0.9
  np.testing.assert_array_equal(loss[~np.asarray(examples.counted)], 0.0)


def test_marginal_loss_at_its_ends():
  """p = 0 keeps the canvas, p = 1 is the cross-entropy."""
  objective, _, _, _ = setup(loss='marginal')
  rng = np.random.default_rng(0)
  log_law = jax.nn.log_softmax(some_logits())
  right, canvas = (jnp.asarray(rng.integers(0, V, (3, L))) for _ in range(2))
  nats = lambda p: objective._loss(None, jnp.full((3, L), p), None, canvas, None, log_law, right)  # noqa: E731
  at_right = jnp.take_along_axis(log_law, right[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(nats(1.0), -at_right, atol=1e-3)
  np.testing.assert_allclose(nats(0.0), np.where(canvas == right, 0.0, -np.log(1e-6)), atol=1e-4)
  slope = jax.grad(lambda p: objective._loss(None, p, None, canvas, None, log_law, right).sum())(
    jnp.full((3, L), 0.3)
  )
  assert ((np.asarray(slope) > 0) == np.asarray(canvas == right)).all()


def test_relaxed_draws_are_as_frequent_as_their_chance():
  p = jnp.float32([0.02, 0.3, 0.5, 0.9])
  noise_ = jax.random.logistic(jax.random.key(0), (40_000, 4))
  for relaxation in (0.3, 1.0):
    hard, soft = relaxed_bernoulli(p[None], noise_, relaxation)
    np.testing.assert_allclose(hard.mean(axis=0), p, atol=0.012)
    np.testing.assert_array_equal(hard, soft > 0.5)
  assert set(np.unique(hard)) == {0.0, 1.0}


def test_straight_through_goes_forward_hard_and_back_soft():
  kinds = {}
  for loss in ('relaxed', 'straight_through'):
    objective, *_ = setup(loss=loss)
    log_law = jax.nn.log_softmax(some_logits())
    right = jnp.zeros((3, L), jnp.int32)
    noise_ = jax.random.logistic(jax.random.key(0), (3, L))

    def value(p, objective=objective, log_law=log_law, right=right, noise_=noise_):
      return objective._loss(None, p, noise_, right, None, log_law, right)

    p = jnp.full((3, L), 0.4)
    kinds[loss] = value(p), jax.grad(lambda p, value=value: value(p).sum())(p)
  hard = relaxed_bernoulli(jnp.full((3, L), 0.4), noise_, 1.0)[0]
  at_right = jnp.exp(log_law[..., 0])
  np.testing.assert_allclose(
    kinds['straight_through'][0], -jnp.log((1 - hard) + hard * at_right + 1e-6), rtol=1e-5
  )
  assert all(np.isfinite(slope).all() and (slope != 0).all() for _, slope in kinds.values())


@pytest.mark.parametrize('setting', ['sparsity', 'variation'])
def test_regularisers_add_their_weight_times_their_term(setting):
  losses = []
  for weight in (0.0, 1.0, 2.0):
    objective, denoise, params, examples = setup(**{setting: weight})
    losses.append(np.asarray(objective(denoise, params, examples, flat(L, 4))))
  np.testing.assert_allclose(losses[2] - losses[1], losses[1] - losses[0], atol=1e-5)
  assert (losses[1] >= losses[0]).all() and (losses[1] > losses[0]).any()


def test_more_looks_change_the_loss_and_corruption_its_size():
  one, denoise, params, examples = setup(looks=1)
  two, *_ = setup(looks=2)
  more, *_ = setup(corrupted=1.0)
  value = lambda f: float(f(denoise, params, examples, flat(L, 4)).sum())  # noqa: E731
  assert len({value(one), value(two), value(more)}) == 3
  assert value(more) > value(two)


@pytest.mark.parametrize(
  'change',
  [
    dict(alpha=5.0),
    dict(delta=4.0),
    dict(prior_scale=0.9),
    dict(ratio=50.0),
    dict(lead=0.9),
    dict(num_visits=3),
    dict(relaxation=0.2),
  ],
  ids=str,
)
def test_what_a_revision_does_moves_the_loss(change):
  start, denoise, params, examples = setup(loss='relaxed', prior_scale=0.5)
  other, *_ = setup(**(dict(loss='relaxed', prior_scale=0.5) | change))
  ours, theirs = (f(denoise, params, examples, flat(L, 4)) for f in (start, other))
  assert np.abs(ours - theirs).max() > 1e-4


def test_a_gate_is_trained_for_the_revision_of_its_config():
  config = importlib.import_module('configs.gate').get_config('tiny')
  config.revision.update(alpha=3.0, delta=2.0, prior_scale=0.3, ratio=1.5, lead=0.2, level=0.4)
  config.revision.steps = 5
  objective = method.build(config, vocab_size=V, bos_id=0, eos_id=0).objective
  for name in ('alpha', 'delta', 'prior_scale', 'ratio', 'lead', 'level'):
    assert getattr(objective, name) == config.revision[name]
  assert objective.num_visits == 5


@pytest.mark.parametrize('target', ['canvas_wrong', 'pred_wrong', 'benefit'])
def test_targets_of_bce(target):
  objective, *_ = setup(target=target)
  rng = np.random.default_rng(0)
  canvas, best, right = (jnp.asarray(x) for x in rng.integers(0, 3, (3, 8, L)))
  logit = jnp.asarray(rng.standard_normal((8, L)), jnp.float32)
  wrong = {
    'canvas_wrong': canvas != right,
    'pred_wrong': best != right,
    'benefit': (canvas != right) & (best == right),
  }[target]
  got = objective._loss(logit, None, None, canvas, best, None, right)
  u = 1 / (1 + np.exp(-np.asarray(logit, np.float64)))
  np.testing.assert_allclose(got, -np.log(np.where(wrong, u, 1 - u)), rtol=1e-4)


def test_a_trained_gate_tells_wrong_tokens_from_right_ones():
  """Right tokens are below 4 and wrong ones mostly above: what the hidden state shows suffices."""
  objective, denoise, params, examples = setup(batch=256)
  examples = examples._replace(tokens=examples.tokens % 4)
  optimizer = optax.adam(3e-2)
  state = optimizer.init(params['gate'])

  @jax.jit
  def step(gate, state, number):
    keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(examples.keys)
    drawn = examples._replace(keys=keys)
    total = lambda gate: objective(denoise, params | {'gate': gate}, drawn, flat(L, 4)).mean()  # noqa: E731
    updates, new = optimizer.update(jax.grad(total)(gate), state)
    return optax.apply_updates(gate, updates), new

  gate = params['gate']
  for number in range(150):
    gate, state = step(gate, state, number)
  canvas = np.array([[0, 1, 2, 3, 0], [4, 1, 5, 3, 6]])
  logits = denoise(params, jnp.asarray(canvas), sigma=None, regions=None, settle_step=None)
  signals, _ = looked(logits, canvas)
  hidden = jnp.concatenate([logits, jax.nn.one_hot(canvas, V)], axis=-1)
  u = gate_output(objective.gate, signals, hidden, gate)
  assert u[canvas >= 4].min() > u[canvas < 4].max() + 2.0


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(loss='mse'), 'loss'),
    (dict(target='luck'), 'target'),
    (dict(looks=0), 'looks'),
    (dict(corrupted=0.0), 'corrupted'),
    (dict(denoising_weight=-1.0), 'denoising_weight'),
  ],
)
def test_objective_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    setup(**settings)


def test_objective_refuses_denoisers_that_never_saw_a_wrong_token():
  with pytest.raises(ValueError, match='Absorbing'):
    OverwriteGate(noise.absorbing(V), Gate('linear', 4))
  with pytest.raises(ValueError, match=r'config\.gate\.kind'):
    OverwriteGate(noise.uniform(V), None)


@pytest.mark.slow
def test_a_gate_is_measured_by_what_it_doubts_first(models):
  """As a revision of one look would have it; training logs it instead of a likelihood."""
  model = models('gate')
  draw = np.random.default_rng(0)
  clean = draw.integers(0, 257, (6, 32)).astype(np.int32)
  counted = draw.random(clean.shape) < 0.8
  rows = method.make_hyperschedule(model.config, num_levels=1)
  looking = method.on_schedule(model.method, rows)
  batches = [{'tokens': clean, 'loss_mask': counted}]
  found = gates.measure(looking, model.params, batches, seed=3, mesh=model.mesh)['gate_auc']
  wrong = np.where(counted, measures.corrupt(clean, 0.15, 257, 3), clean)
  revision = {'early_stop': False, 'prior_scale': model.config.revision.prior_scale}
  looks = model.sample(
    6, tokens=wrong, given=~counted, draft=wrong, sampler='revision', steps=1, revision=revision
  )
  doubt = np.array([look.doubt for look in looks])
  expected = measures.area_under_curve(doubt[counted], (wrong != clean)[counted])
  np.testing.assert_allclose(found, expected, atol=1e-6)
  lines = workdir.read_lines(models.directory('gate') / 'metrics.jsonl')
  assert all(0.0 < x['gate_auc'] < 1.0 for x in lines if x['split'] == 'valid')
