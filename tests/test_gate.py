"""The overwrite gate: signals, prior, acceptance, the module, and its objective."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worlds
from conftest import Runs, small_config
from untrained import one_device
from worlds import World

import ardiff_jax
from ardiff_jax import method, noise, workdir
from ardiff_jax.evaluation import gates
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.hyperschedules import flat
from ardiff_jax.models import gate as gate_lib
from ardiff_jax.models.gate import Gate, Signals
from ardiff_jax.objectives.gate import LOSSES, OverwriteGate, relaxed_bernoulli
from ardiff_jax.objectives.likelihood import Examples
from ardiff_jax.training.loop import train

V, L = 7, 5


log_softmax = jax.jit(jax.nn.log_softmax)
_look = jax.jit(gate_lib.look)
maturity_prior = jax.jit(gate_lib.maturity_prior)
noisy_or = jax.jit(gate_lib.noisy_or)
acceptable = jax.jit(gate_lib.acceptable, static_argnums=3)
standardised = jax.jit(Signals.standardised)


def looked(logits, canvas=None, before=None, is_first=True):
  """Signals and guesses as numpy arrays."""
  canvas = np.zeros(logits.shape[:2], np.int32) if canvas is None else canvas
  return jax.device_get(_look(log_softmax(logits), canvas, before, is_first))


def some_logits(seed=0, batch=3, scale=1.0):
  rng = np.random.default_rng(seed)
  return np.float32(scale * rng.standard_normal((batch, L, V)))


# Signals.


def test_entropy_of_equal_logits_is_the_log_of_their_number():
  signals, _ = looked(np.zeros((3, L, V), np.float32))
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
  best, second, first_value, second_value = map(np.asarray, jax.jit(gate_lib.two_best)(logits))
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
  got = np.asarray(standardised(Signals(*[x] * 4), valid).entropy)
  for row in range(4):
    inside = x[row, valid[row]].astype(np.float64)
    np.testing.assert_allclose(
      got[row, valid[row]], (inside - inside.mean()) / inside.std(), atol=1e-4
    )
    assert not got[row, ~valid[row]].any()
  others = np.concatenate([x[:1], 5.0 + 3.0 * x[1:]])
  alone = standardised(Signals(*[others] * 4), valid).entropy
  np.testing.assert_array_equal(alone[0], got[0])


# Prior, noisy-or, acceptance.


def test_prior_is_half_at_maturity_rises_to_the_right_and_falls_with_time():
  place, visits = np.arange(8.0)[None], np.arange(1.0, 5.0)[:, None]
  prior = maturity_prior(place, visits, 8, 4, alpha=2.0, delta=0.0)
  np.testing.assert_allclose(prior[1, 4], 0.5)  # (4/8)·4 = 2 = t
  assert (np.diff(prior, axis=1) > 0).all() and (np.diff(prior, axis=0) < 0).all()
  shifted = maturity_prior(place, visits, 8, 4, alpha=2.0, delta=2.0)
  np.testing.assert_allclose(shifted[:, :-2], prior[:, 2:], rtol=1e-6)


def test_noisy_or():
  u, r = np.random.default_rng(0).random((2, 1000)).astype(np.float32)
  p, zero = np.asarray(noisy_or(u, r)), np.zeros_like(u)
  assert (p >= np.maximum(u, r) - 1e-6).all() and (p <= np.minimum(1.0, u + r) + 1e-6).all()
  np.testing.assert_allclose(p, noisy_or(r, u), rtol=1e-6)
  np.testing.assert_array_equal(noisy_or(zero, r), r)
  np.testing.assert_array_equal(noisy_or(u, zero), u)
  assert (np.diff(noisy_or(np.sort(u), zero + np.float32(0.3))) >= 0).all()


def test_acceptance_by_the_formula():
  logits, rng = some_logits(scale=2.0), np.random.default_rng(2)
  old, new = rng.integers(0, V, (2, 3, L))
  q = worlds.softmax(np.asarray(logits, np.float64))
  at = lambda token: np.take_along_axis(q, token[..., None], axis=-1)[..., 0]  # noqa: E731
  ratio, lead = at(new) >= 1.5 * at(old), at(new) >= at(old) + 0.1
  log_law = log_softmax(logits)
  for rule, better in (('both', ratio & lead), ('either', ratio | lead)):
    got = acceptable(log_law, old, new, rule, 1.5, 0.1)
    np.testing.assert_array_equal(got, better & (at(new) >= at(old)))
  assert (ratio != lead).any()
  assert acceptable(log_law, old, new, 'any', 1.5, 0.1).all()


def test_a_mask_gives_way_to_what_is_likely_enough():
  log_law = np.asarray(log_softmax(some_logits()))
  best = log_law.argmax(axis=-1)
  got = acceptable(log_law, np.full(best.shape, V), best, 'both', 1.2, 0.3)
  np.testing.assert_array_equal(got, np.exp(log_law.max(axis=-1)) >= 0.3)


# The module.


@functools.partial(jax.jit, static_argnums=0)
def run_gate(gate, weights, hidden, signals, place, progress, prior):
  valid = jnp.ones(signals.entropy.shape, bool)
  return gate.apply({'params': weights}, hidden, signals, valid, place, progress, prior)


def others(progress=0.5, prior=0.1):
  return np.float32(np.arange(L)[None] / L), np.full((1, L), progress), np.full((1, L), prior)


def gate_output(gate, signals, hidden=None, weights=None):
  shape = signals.entropy.shape
  hidden = np.zeros((*shape, gate.model_dim), np.float32) if hidden is None else hidden
  weights = new_weights(gate) if weights is None else weights
  return run_gate(gate, weights, hidden, signals, *others())


@functools.cache
def new_weights(gate):
  return jax.jit(lambda: nn.unbox(gate.new_weights(jax.random.key(0))))()


def moved_weights(gate, by):
  draw = np.random.default_rng(1)
  move = lambda x: x + np.float32(by * draw.standard_normal(x.shape))  # noqa: E731
  return jax.tree.map(move, jax.device_get(new_weights(gate)))


def some_signals(seed=0):
  return Signals(*np.float32(np.random.default_rng(seed).standard_normal((4, 3, L))))


def test_linear_gate_is_its_formula():
  signals = some_signals()
  s = standardised(signals, np.ones((3, L), bool))
  s = Signals(*map(np.asarray, s))
  weights = {'beta': np.float32([0.3, 0.5, 0.7, 1.1, 1.3])}
  expected = 0.3 + 0.5 * s.entropy - 0.7 * s.margin - 1.1 * s.change + 1.3 * s.surprise
  got = gate_output(Gate('linear', model_dim=8), signals, weights=weights)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_not_standardised_a_gate_feels_the_size_of_its_signals():
  weights, signals = {'beta': np.float32([0.0, 1.0, 0.0, 0.0, 0.0])}, some_signals()
  larger = signals._replace(entropy=np.float32(3.0) * signals.entropy)
  for standardise in (True, False):
    gate = Gate('linear', model_dim=8, standardise=standardise)
    ours, theirs = (np.asarray(gate_output(gate, x, weights=weights)) for x in (signals, larger))
    np.testing.assert_allclose(theirs, ours * (1.0 if standardise else 3.0), atol=1e-4)


@pytest.mark.parametrize('kept', gate_lib.SIGNALS)
@pytest.mark.parametrize('kind', gate_lib.KINDS)
def test_a_gate_sees_only_its_signals(kind, kept):
  gate = Gate(kind, model_dim=8, signals=(kept,))
  weights = moved_weights(gate, 0.1)
  total = lambda signals: (gate_output(gate, signals, weights=weights) ** 2).sum()  # noqa: E731
  slopes = jax.jit(jax.grad(total))(some_signals())
  for name, slope in slopes._asdict().items():
    assert bool(np.abs(slope).max() > 0) == (name == kept)


def test_a_learned_gate_starts_as_a_constant():
  gate = Gate('learned', model_dim=8)
  start = gate_output(gate, some_signals())
  np.testing.assert_allclose(1 / (1 + np.exp(-np.asarray(start))), 0.05, rtol=1e-5)


def test_a_learned_gate_sees_everything_it_is_given():
  """Hidden state, place, progress and prior, and what the text before it was scaled by."""
  gate, signals = Gate('learned', model_dim=8), some_signals()
  weights = moved_weights(gate, 0.3)
  hidden = np.float32(np.random.default_rng(5).standard_normal((3, L, 8)))
  output = lambda *shown: np.asarray(run_gate(gate, weights, shown[0], signals, *shown[1:]))  # noqa: E731
  start = hidden, *others()
  for i, name in enumerate(('hidden', 'place', 'progress', 'prior')):
    moved = list(start)
    moved[i] = np.roll(hidden, 1, axis=2) if name == 'hidden' else moved[i] + np.float32(0.3)
    assert (np.abs(output(*moved) - output(*start)) > 1e-4).mean() > 0.9, name
  scaled = output(np.float32(7.0) * hidden + np.float32(2.0), *start[1:])  # normalised first
  np.testing.assert_allclose(scaled, output(*start), atol=1e-4)


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


DENOISE = Seen(_table)
GATE = Gate('learned', model_dim=2 * V, width=16)


def objective_of(**settings):
  return OverwriteGate(noise.epsilon_hybrid(V, epsilon=0.01), GATE, **settings)


@functools.cache
def params():
  table = np.float32(2.0 * np.random.default_rng(0).standard_normal((V + 1, V)))
  return {'params': {'table': table}, 'gate': new_weights(GATE)}


@functools.partial(jax.jit, static_argnums=0)
def examples_of(batch=64):
  rng = np.random.default_rng(1)
  return Examples(
    tokens=jnp.asarray(rng.integers(0, V, (batch, L)), jnp.int32),
    counted=jnp.asarray(rng.random((batch, L)) < 0.9),
    uniform=jnp.asarray(rng.random(batch), jnp.float32),
    keys=jax.random.split(jax.random.key(3), batch),
  )


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_slopes(objective, params, examples):
  def total(params):
    loss = objective(DENOISE, params, examples, flat(L, 4))
    return loss.sum(), loss

  return jax.grad(total, has_aux=True)(params)


@functools.partial(jax.jit, static_argnums=0)
def _loss(objective, params, examples):
  return objective(DENOISE, params, examples, flat(L, 4))


def loss_of(objective, examples=None, weights=None):
  examples = examples_of() if examples is None else examples
  return np.asarray(_loss(objective, params() if weights is None else weights, examples))


@pytest.mark.parametrize('loss', LOSSES)
def test_only_the_gate_learns(loss):
  objective = objective_of(loss=loss)
  slopes, value = jax.device_get(_loss_and_slopes(objective, params(), examples_of()))
  assert np.isfinite(value).all() and not np.abs(slopes['params']['table']).max()
  size = max(float(np.abs(x).max()) for x in jax.tree.leaves(slopes['gate']))
  assert np.isfinite(size) and size > 0
  assert objective.trained == ('gate',)


def test_tuned_along_the_denoiser_learns_its_own_loss():
  objective = objective_of(denoising_weight=0.5)
  slopes, value = jax.device_get(_loss_and_slopes(objective, params(), examples_of()))
  assert np.abs(slopes['params']['table']).max() > 0
  assert value.sum() > loss_of(objective_of()).sum()
  assert objective.trained == ('params', 'gate')


def test_given_tokens_weigh_nothing_and_are_never_replaced():
  loss, counted = loss_of(objective_of()), np.asarray(examples_of().counted)
  np.testing.assert_array_equal(loss[~counted], 0.0)
  nothing = examples_of()._replace(counted=np.zeros_like(counted))
  assert not loss_of(objective_of(), nothing).any()


def test_a_draft_is_looked_at_in_place_of_the_text():
  """What is wrong in it is the gate's to doubt, where it is free to."""
  objective = objective_of(corrupted=1e-9, looks=1, loss='marginal')
  tokens, counted = (np.asarray(x) for x in examples_of()[:2])
  wrong = np.zeros((64, L), bool)
  wrong[::2, 1] = True
  draft = np.where(wrong, (tokens + 1) % V, tokens)
  clean, loss = (loss_of(objective, examples_of()._replace(draft=x)) for x in (tokens, draft))
  np.testing.assert_array_equal(loss[1::2], clean[1::2])
  assert ((loss - clean)[::2, 1][counted[::2, 1]] > 0).mean() > 0.9
  np.testing.assert_array_equal(loss[~counted], 0.0)


@functools.partial(jax.jit, static_argnums=0)
def _value_and_slope(loss, p, noise, canvas, log_law, right):
  def total(p):
    value = objective_of(loss=loss)._loss(None, p, noise, canvas, None, log_law, right)
    return value.sum(), value

  slope, value = jax.grad(total, has_aux=True)(p)
  return value, slope


def value_and_slope(loss, chance, *others):
  """Of a loss of texts that are replaced with this chance everywhere."""
  return jax.device_get(_value_and_slope(loss, np.full((3, L), chance, np.float32), *others))


def test_marginal_loss_at_its_ends():
  """p = 0 keeps the canvas, p = 1 is the cross-entropy."""
  rng = np.random.default_rng(0)
  log_law = np.asarray(log_softmax(some_logits()))
  right, canvas = rng.integers(0, V, (2, 3, L))
  nats = lambda p: value_and_slope('marginal', p, None, canvas, log_law, right)  # noqa: E731
  at_right = np.take_along_axis(log_law, right[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(nats(1.0)[0], -at_right, atol=1e-3)
  expected = np.where(canvas == right, 0.0, -np.log(1e-6))
  np.testing.assert_allclose(nats(0.0)[0], expected, atol=1e-4)
  np.testing.assert_array_equal(nats(0.3)[1] > 0, canvas == right)


draw_relaxed = jax.jit(relaxed_bernoulli)


def test_relaxed_draws_are_as_frequent_as_their_chance():
  p = np.float32([0.02, 0.3, 0.5, 0.9])
  coins = np.float32(np.random.default_rng(0).logistic(size=(40_000, 4)))
  for relaxation in (0.3, 1.0):
    hard, soft = (np.asarray(x) for x in draw_relaxed(p[None], coins, relaxation))
    np.testing.assert_allclose(hard.mean(axis=0), p, atol=0.012)
    np.testing.assert_array_equal(hard, soft > 0.5)
  assert set(np.unique(hard)) == {0.0, 1.0}


def test_straight_through_goes_forward_hard_and_back_soft():
  log_law = np.asarray(log_softmax(some_logits()))
  right, chance = np.zeros((3, L), int), np.float32(0.4)
  coins = np.float32(np.random.default_rng(0).logistic(size=(3, L)))
  kinds = {
    loss: value_and_slope(loss, chance, coins, right, log_law, right)
    for loss in ('relaxed', 'straight_through')
  }
  hard = np.asarray(draw_relaxed(np.full((3, L), chance), coins, 1.0)[0])
  assert 0.0 < hard.mean() < 1.0
  at_right = np.exp(log_law[..., 0])
  np.testing.assert_allclose(
    kinds['straight_through'][0], -np.log((1 - hard) + hard * at_right + 1e-6), rtol=1e-5
  )
  assert all(np.isfinite(slope).all() and (slope != 0).all() for _, slope in kinds.values())


@pytest.mark.parametrize('setting', ['sparsity', 'variation'])
def test_regularisers_add_their_weight_times_their_term(setting):
  losses = [loss_of(objective_of(**{setting: weight})) for weight in (0.0, 1.0, 2.0)]
  np.testing.assert_allclose(losses[2] - losses[1], losses[1] - losses[0], atol=1e-5)
  assert (losses[1] >= losses[0]).all() and (losses[1] > losses[0]).any()


def test_more_looks_change_the_loss_and_corruption_its_size():
  one, two, more = (
    loss_of(objective_of(**x)).sum() for x in (dict(looks=1), dict(looks=2), dict(corrupted=1.0))
  )
  assert len({one, two, more}) == 3 and more > two


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
  start = dict(loss='relaxed', prior_scale=0.5)
  ours, theirs = (loss_of(objective_of(**x)) for x in (start, start | change))
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
  objective = objective_of(target=target)
  rng = np.random.default_rng(0)
  canvas, best, right = rng.integers(0, 3, (3, 8, L))
  logit = np.float32(rng.standard_normal((8, L)))
  wrong = {
    'canvas_wrong': canvas != right,
    'pred_wrong': best != right,
    'benefit': (canvas != right) & (best == right),
  }[target]
  loss = jax.jit(lambda *shown: objective._loss(shown[0], None, None, *shown[1:3], None, shown[3]))
  got = loss(logit, canvas, best, right)
  u = 1 / (1 + np.exp(-np.asarray(logit, np.float64)))
  np.testing.assert_allclose(got, -np.log(np.where(wrong, u, 1 - u)), rtol=1e-4)


def test_a_trained_gate_tells_wrong_tokens_from_right_ones():
  """Right tokens are below 4 and wrong ones mostly above: what the hidden state shows suffices."""
  objective, frozen = objective_of(), params()['params']
  optimizer = optax.adam(3e-2)

  @jax.jit
  def train_all(gate):
    examples = examples_of(256)
    examples = examples._replace(tokens=examples.tokens % 4)

    def step(carry, number):
      gate, state = carry
      keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(examples.keys)
      weights = lambda gate: {'params': frozen, 'gate': gate}  # noqa: E731
      total = lambda gate: _loss(objective, weights(gate), examples._replace(keys=keys)).mean()  # noqa: E731
      updates, new = optimizer.update(jax.grad(total)(gate), state)
      return (optax.apply_updates(gate, updates), new), None

    return jax.lax.scan(step, (gate, optimizer.init(gate)), jnp.arange(150))[0][0]

  gate = train_all(params()['gate'])
  canvas = np.array([[0, 1, 2, 3, 0], [4, 1, 5, 3, 6]], np.int32)
  logits = frozen['table'][np.pad(canvas, [(0, 0), (1, 0)])[:, :-1]]
  signals, _ = looked(logits, canvas)
  hidden = np.concatenate([logits, np.eye(V, dtype=np.float32)[canvas]], axis=-1)
  u = np.asarray(gate_output(objective.gate, signals, hidden, gate))
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
    objective_of(**settings)


def test_objective_refuses_denoisers_that_never_saw_a_wrong_token():
  with pytest.raises(ValueError, match='Absorbing'):
    OverwriteGate(noise.absorbing(V), Gate('linear', 4))
  with pytest.raises(ValueError, match=r'config\.gate\.kind'):
    OverwriteGate(noise.uniform(V), None)


def test_a_gate_is_measured_by_what_it_doubts_first(tmp_path, text_file):
  """As a revision of one look would have it; training logs it instead of a likelihood."""
  config = small_config('gate', text_file, steps=2)
  config.init_from = str(Runs(tmp_path).directory('epsilon_hybrid'))
  with one_device():
    train(config, tmp_path / 'gate')
    model = ardiff_jax.load(tmp_path / 'gate')
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
  lines = workdir.read_lines(tmp_path / 'gate' / 'metrics.jsonl')
  assert all(0.0 < x['gate_auc'] < 1.0 for x in lines if x['split'] == 'valid')


def test_tuned_along_the_denoiser_learns_nothing_of_what_the_gate_reads():
  """By a gate that sees signals alone, its gradient is that of its own loss, times the weight."""
  gate = Gate('linear', model_dim=2 * V)
  weights = params() | {'gate': new_weights(gate)}
  process = noise.epsilon_hybrid(V, epsilon=0.01)
  half, whole = (
    jax.device_get(
      _loss_and_slopes(
        OverwriteGate(process, gate, denoising_weight=weight), weights, examples_of()
      )[0]['params']['table']
    )
    for weight in (0.5, 1.0)
  )
  np.testing.assert_allclose(whole, 2.0 * half, rtol=1e-4, atol=1e-5)
  assert np.abs(whole).max() > 0.1
