"""Objectives: their expectation over the noise is the formula, and what is given weighs nothing."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import (
  arbitrary_denoise,
  arbitrary_params,
  index_of,
  predictions,
  uniform_denoise,
)

from ardiff_jax import noise
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, slide
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.objectives import Examples, NextToken, WeightedCrossEntropy, split_row

VOCAB, LENGTH = 3, 2
X0 = np.array([2, 0])
SCHEDULES = [flat(2, 3), block(2, 1, 2), slide(2, 2, 3)]
PROCESSES = [
  noise.absorbing(VOCAB),
  noise.absorbing(VOCAB, delta=0.2),
  noise.epsilon_hybrid(VOCAB, epsilon=0.3),
]


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(objective, denoise, params, examples, schedule):
  return objective(denoise, params, examples, schedule)


def examples(tokens, uniform, counted=None, seed=0):
  """A batch of `tokens`, int[B, L] or int[L] repeated for every entry of `uniform`."""
  uniform = jnp.asarray(uniform, jnp.float32)
  tokens = jnp.broadcast_to(jnp.asarray(tokens), (len(uniform), np.shape(tokens)[-1]))
  counted = jnp.ones(tokens.shape, bool) if counted is None else jnp.asarray(counted)
  keys = jax.random.split(jax.random.key(seed), len(uniform))
  return Examples(tokens, jnp.broadcast_to(counted, tokens.shape), uniform, keys)


def expected_loss(objective, params, schedule, step, within):
  """float64[L], the mean over every masking and replacement, from the table of weights."""
  process, steps, total = objective.process, schedule.num_steps, schedule.num_levels
  epsilon = getattr(process, 'epsilon', 0.0)
  probs_CxLxV, _ = predictions(arbitrary_denoise, params, schedule, step, VOCAB)
  level_L = schedule.levels[step].astype(float)
  drop_L = level_L - schedule.levels[step + 1]
  t_L = (level_L - within * drop_L) / total
  c_L = steps * drop_L / total
  options = []  # of each position: (token shown, probability, weight)
  for i in range(LENGTH):
    keep = 1 - (1 - process.delta) * t_L[i] if t_L[i] < 1 else 0.0
    replaced = epsilon if t_L[i] > 0 else 0.0
    if objective.continuous_time:
      masked_weight = c_L[i] / t_L[i] if t_L[i] > 0 else 0.0
    else:
      s = (level_L[i] - drop_L[i]) / total
      keep_s = 1 - (1 - process.delta) * s if s < 1 else 0.0
      masked_weight = steps * (keep_s - keep) / (1 - keep) if keep < 1 else 0.0
    visible = c_L[i] * objective.visible_weight
    if objective.weighting == 'importance':
      visible /= max(1 - t_L[i], 1e-4)
    options.append(
      [
        (VOCAB, 1 - keep, masked_weight),
        (X0[i], keep * (1 - replaced), visible * epsilon),
        *((y, keep * replaced / VOCAB, visible * (1 - epsilon)) for y in range(VOCAB)),
      ]
    )
  loss_L = np.zeros(LENGTH)
  for choice in itertools.product(*options):
    chance = np.prod([p for _, p, _ in choice])
    code = index_of(np.array([[token for token, _, _ in choice]]), VOCAB + 1)[0]
    nats_L = -np.log(probs_CxLxV[code, np.arange(LENGTH), X0])
    loss_L += chance * np.array([weight for _, _, weight in choice]) * nats_L
  return loss_L


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize('weighting', ['annealed', 'importance'])
@pytest.mark.parametrize('continuous_time', [True, False])
def test_weighted_cross_entropy_is_the_formula(process, schedule, weighting, continuous_time):
  """For each row and a time within it: the mean over 30,000 draws is within 5 standard errors
  (measured on the draws themselves, 1-2 % of the value) of the enumerated expectation."""
  objective = WeightedCrossEntropy(process, 0.7, weighting, continuous_time)
  params = arbitrary_params(3, VOCAB, LENGTH)
  n, within = 30_000, 0.4
  for step in range(schedule.num_steps):
    batch = examples(X0, np.full(n, (step + within) / schedule.num_steps), seed=step)
    loss = np.asarray(run(objective, arbitrary_denoise, params, batch, schedule), np.float64)
    fraction = within if continuous_time else 0.0
    expected_L = expected_loss(objective, params, schedule, step, fraction)
    error_L = loss.std(axis=0) / np.sqrt(n)
    assert (np.abs(loss.mean(axis=0) - expected_L) <= 5 * error_L + 1e-5).all()
    assert (error_L <= 0.03 * expected_L).all()  # so that 5 of them are not slack


@pytest.mark.parametrize('visible_weight', [0.0, 0.5, 2.0])
def test_visible_weight_scales_what_visible_tokens_weigh(visible_weight):
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  params = arbitrary_params(3, VOCAB, LENGTH)

  def batch():  # a key may be used once
    return examples(X0, np.linspace(0, 0.99, 200))

  loss, ours = (
    run(WeightedCrossEntropy(process, w), arbitrary_denoise, params, batch(), flat(2, 3))
    for w in (1.0, visible_weight)
  )
  only_masked = run(
    WeightedCrossEntropy(process, 0.0), arbitrary_denoise, params, batch(), flat(2, 3)
  )
  visible = np.asarray(loss - only_masked)
  assert (visible > 0).any() and (np.asarray(only_masked) > 0).any()
  np.testing.assert_allclose(ours - only_masked, visible_weight * visible, atol=1e-5)


@pytest.mark.parametrize('weighting', ['annealed', 'importance'])
@pytest.mark.parametrize('continuous_time', [True, False])
def test_epsilon_zero_is_mdlm_bit_for_bit(weighting, continuous_time):
  params = arbitrary_params(3, VOCAB, LENGTH)
  losses = [
    run(
      WeightedCrossEntropy(process, 1.0, weighting, continuous_time),
      arbitrary_denoise,
      params,
      examples(X0, np.linspace(0, 0.99, 64)),
      slide(2, 2, 3),
    )
    for process in (noise.absorbing(VOCAB), noise.epsilon_hybrid(VOCAB, 0.0))
  ]
  np.testing.assert_array_equal(*losses)
  assert (losses[0] > 0).any()


def recorder(calls):
  """A denoiser that keeps what it is shown."""

  def denoise(params, canvas, **kwargs):
    calls.append({'canvas': canvas, **kwargs})
    return arbitrary_denoise(params, canvas, **kwargs)

  return denoise


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: s.name)
def test_uncounted_tokens_are_given(process, schedule):
  """Shown clean at noise level 0 in every row, worth nothing, and noise spares no other token."""
  calls = []
  batch = examples(X0, np.linspace(0, 0.999, 400), counted=[True, False])
  loss = WeightedCrossEntropy(process)(
    recorder(calls), arbitrary_params(3, VOCAB, LENGTH), batch, schedule
  )
  (call,) = calls
  np.testing.assert_array_equal(call['canvas'][:, 1], X0[1])
  np.testing.assert_array_equal(call['sigma'][:, 1], 0.0)
  np.testing.assert_array_equal(loss[:, 1], 0.0)
  assert (call['canvas'][:, 0] == VOCAB).any() and (call['sigma'][:, 0] > 0).any()
  assert (loss[:, 0] > 0).any()


@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda s: s.name)
def test_network_is_shown_the_row_it_is_trained_on(schedule):
  calls = []
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  uniform = np.linspace(0, 0.999, 50)
  WeightedCrossEntropy(process)(
    recorder(calls), arbitrary_params(3, VOCAB, LENGTH), examples(X0, uniform), schedule
  )
  (call,) = calls
  step = np.floor(uniform * schedule.num_steps).astype(int)
  within = uniform * schedule.num_steps - step
  drop = schedule.levels[step] - schedule.levels[step + 1]
  t = (schedule.levels[step] - within[:, None] * drop) / schedule.num_levels
  np.testing.assert_allclose(call['sigma'], process.sigma(t), rtol=1e-3, atol=1e-4)
  np.testing.assert_array_equal(call['regions'], [schedule.regions(s) for s in step])
  np.testing.assert_array_equal(call['settle_step'], schedule.settle_step)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('weighting', ['annealed', 'importance'])
@pytest.mark.parametrize('continuous_time', [True, False])
def test_settled_and_worthless_positions_weigh_nothing(process, weighting, continuous_time):
  schedule = block(6, 2, 2)
  uniform = np.linspace(0, 0.999, 300)
  objective = WeightedCrossEntropy(process, 1.0, weighting, continuous_time)
  loss = np.asarray(
    run(
      objective,
      uniform_denoise_of_vocab,
      {},
      examples(np.array([0, 1, 2, 0, 1, 2]), uniform),
      schedule,
    )
  )
  step = np.floor(uniform * schedule.num_steps).astype(int)
  active = np.stack([schedule.regions(s) for s in step]) == Region.ACTIVE
  np.testing.assert_array_equal(loss[~active], 0.0)
  assert (loss[active] > 0).mean() > 0.3


def uniform_denoise_of_vocab(params, canvas, **kwargs):
  return uniform_denoise({'vocab_size': VOCAB}, canvas, **kwargs)


# NextToken asks its denoiser whether it may be used to read; these stand in for one that may.
uniform_denoise_of_vocab.is_causal = arbitrary_denoise.is_causal = True


@pytest.mark.parametrize(
  'objective', [NextToken(), WeightedCrossEntropy(PROCESSES[2])], ids=lambda o: type(o).__name__
)
def test_loss_of_an_example_is_its_own(objective):
  """Permuting or splitting a batch gives each example the loss it had."""
  params = arbitrary_params(3, VOCAB, LENGTH)
  tokens = np.random.default_rng(0).integers(0, VOCAB, (8, LENGTH))

  def losses(rows):
    batch = jax.tree.map(lambda x: x[rows], examples(tokens, np.linspace(0, 0.99, 8)))
    return np.asarray(run(objective, arbitrary_denoise, params, batch, flat(2, 3)))

  whole = losses(np.arange(8))
  assert len(np.unique(whole)) > 4
  for rows in (np.array([3, 1, 7, 0, 2, 6, 5, 4]), np.arange(3), np.arange(3, 8)):
    np.testing.assert_allclose(losses(rows), whole[rows], rtol=1e-6)


@pytest.mark.parametrize('num_steps', [1, 3, 7, 1000])
def test_split_row_is_floor_and_fraction(num_steps):
  uniform = np.array([0.0, 0.1, 1 / 3, 0.5, 0.9, 1 - 2.0**-24], np.float32)
  step, within = split_row(jnp.asarray(uniform), num_steps)
  exact = uniform.astype(np.float64) * num_steps
  np.testing.assert_allclose(step + within, exact, rtol=1e-6)
  assert (step >= 0).all() and (step < num_steps).all()
  assert (within >= 0).all() and (within < 1).all()


# Next token.

NETWORK = Transformer(TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2))
AR = autoregressive(5)


@pytest.fixture(scope='module')
def causal():
  denoiser = make_denoiser(
    NETWORK, AR, alignment='shifted', context='causal', window='causal', bos_id=10
  )
  return denoiser, nn.meta.unbox(denoiser.init(jax.random.key(0), 5))


def test_next_token_is_cross_entropy_given_the_tokens_before(causal):
  """Each token's prediction is computed with everything from it on replaced by junk."""
  denoiser, params = causal
  tokens = jax.random.randint(jax.random.key(1), (4, 5), 0, 11)
  counted = np.ones((4, 5), bool)
  counted[1, :2] = False
  loss = run(NextToken(), denoiser, params, examples(tokens, np.zeros(4), counted), AR)
  for i in range(5):
    prefix = jnp.where(jnp.arange(5)[None] < i, tokens, 0)
    logits = np.asarray(
      denoiser(
        params,
        prefix,
        sigma=jnp.zeros((4, 5)),
        regions=jnp.zeros((4, 5), jnp.int8),
        settle_step=jnp.asarray(AR.settle_step),
      ),
      np.float64,
    )[:, i]
    nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), tokens[:, i]]
    np.testing.assert_allclose(loss[:, i], np.where(counted[:, i], nats, 0.0), atol=1e-5)


def test_uniform_logits_cost_log_v_per_token():
  for schedule in (autoregressive(4), block(4, 2, 3)):  # whatever the schedule
    loss = NextToken()(
      uniform_denoise_of_vocab, {}, examples(np.array([0, 1, 2, 0]), np.zeros(2)), schedule
    )
    np.testing.assert_allclose(loss, np.log(VOCAB), rtol=1e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize(
  'schedule', [flat(8, 5), block(8, 3, 2), slide(8, 4, 3)], ids=lambda s: s.name
)
@pytest.mark.parametrize('continuous_time', [True, False])
def test_uniform_logits_cost_log_v_per_masked_token_over_all_rows(
  process, schedule, continuous_time
):
  """The mean over a fine grid of rows and times. Its relative standard deviation in continuous
  time is sqrt(ln(n) S/T / (n L)) < 1.4 % for flat, block and slide at n = 20,000; bound 5 %.

  With δ > 0 the clock stops at A = δ just before t = 1, and the mask of that last jump is met in
  discrete time only: in continuous time the masked share is (1-δ)·log V.
  """
  objective = WeightedCrossEntropy(process, 0.0, 'annealed', continuous_time)
  n = 20_000
  grid = (np.arange(n) + 0.5) / n
  loss = run(
    objective,
    uniform_denoise_of_vocab,
    {},
    examples(np.array([0, 1, 2, 0, 1, 2, 0, 1]), grid),
    schedule,
  )
  expected = np.log(VOCAB) * (1 - process.delta if continuous_time else 1.0)
  np.testing.assert_allclose(np.asarray(loss).mean(), expected, rtol=0.05)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='annealed, importance'):
    WeightedCrossEntropy(PROCESSES[0], weighting='none')
  with pytest.raises(ValueError, match='absorbing or epsilon_hybrid'):
    WeightedCrossEntropy('absorbing')
