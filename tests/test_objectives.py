"""Objectives: their expectation over the noise is the formula, and what is given weighs nothing."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covers import pairwise
from worlds import (
  arbitrary_denoise,
  arbitrary_params,
  index_of,
  jitted,
  kernel,
  predictions,
  sequences,
  step_kernel,
  survivals,
  uniform_denoise,
)

from ardiff_jax import divergences, noise
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, slide
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.objectives.likelihood import (
  Examples,
  NextToken,
  ScoreEntropy,
  WeightedCrossEntropy,
)

VOCAB, LENGTH = 3, 2
X0 = np.array([2, 0])
SCHEDULES = [flat(2, 3), block(2, 1, 2), slide(2, 2, 3)]
PROCESSES = [
  noise.absorbing(VOCAB),
  noise.absorbing(VOCAB, delta=0.2),
  noise.epsilon_hybrid(VOCAB, epsilon=0.3),
]


PARAMS = arbitrary_params(3, VOCAB, LENGTH)
MANY = 72_000  # examples where a mean is taken, as many for each row


class Watched:
  """A denoiser that keeps what it is shown."""

  def __init__(self, denoise):
    self.denoise, self.shown = denoise, None
    self.is_causal = getattr(denoise, 'is_causal', False)

  def __call__(self, params, canvas, **kwargs):
    assert self.shown is None  # it is asked once
    self.shown = {'canvas': canvas, **{x: kwargs[x] for x in ('sigma', 'regions', 'settle_step')}}
    return self.denoise(params, canvas, **kwargs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def jitted_run(objective, denoise, params, examples, schedule):
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(examples.keys)
  watched = Watched(denoise)
  return objective(watched, params, examples._replace(keys=keys), schedule), watched.shown


def run(objective, denoise, params, examples, schedule):
  """float32[B, L], the loss, and what the network was shown; keys are numbers, int32[B]."""
  return jax.tree.map(np.asarray, jitted_run(objective, denoise, params, examples, schedule))


def loss_of(*arguments):
  return run(*arguments)[0]


def batch(tokens, uniform, counted=True, draft=None):
  """A batch of `tokens`, int[B, L] or int[L] repeated for every entry of `uniform`."""
  uniform = np.asarray(uniform, np.float32)
  shape = len(uniform), np.shape(tokens)[-1]
  tokens, counted = (np.broadcast_to(x, shape) for x in (tokens, counted))
  if draft is not None:
    draft = np.broadcast_to(draft, shape)
  return Examples(tokens, counted, uniform, np.arange(len(uniform)), draft=draft)


def examples(tokens, uniform, counted=True):
  """The same with keys, to call an objective itself."""
  plain = batch(tokens, uniform, counted)
  return plain._replace(keys=jax.random.split(jax.random.key(0), len(uniform)))


def spread(num_steps, within):
  """int[MANY] and float[MANY]: every row of the schedule, `within` it, and the uniform of that."""
  step = np.arange(MANY) % num_steps
  return step, (step + within) / num_steps


arbitrary = jitted(arbitrary_denoise)  # for the references


def expected_loss(objective, params, schedule, step, within):
  """float64[L], the mean over every masking and replacement, from the table of weights."""
  process, steps, total = objective.process, schedule.num_steps, schedule.num_levels
  epsilon = getattr(process, 'epsilon', 0.0)
  probs_CxLxV, _ = predictions(arbitrary, params, schedule, step, VOCAB)
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


each_weighting = pytest.mark.parametrize(
  'process, schedule, weighting, continuous_time',
  pairwise(PROCESSES, SCHEDULES, ['annealed', 'importance'], [True, False]),
)


@each_weighting
def test_weighted_cross_entropy_is_the_formula(process, schedule, weighting, continuous_time):
  """For each row and a time within it: the mean over its draws is within 5 standard errors
  (measured on the draws themselves, 1-2 % of the value) of the enumerated expectation, and 0 where
  a position is settled or worthless. And the network is shown that row."""
  objective = WeightedCrossEntropy(process, 0.7, weighting, continuous_time)
  within = 0.4
  rows, uniform = spread(schedule.num_steps, within)
  every, shown = run(objective, arbitrary_denoise, PARAMS, batch(X0, uniform), schedule)
  for step in range(schedule.num_steps):
    loss = every[rows == step].astype(np.float64)
    fraction = within if continuous_time else 0.0
    expected_L = expected_loss(objective, PARAMS, schedule, step, fraction)
    error_L = loss.std(axis=0) / np.sqrt(len(loss))
    assert (np.abs(loss.mean(axis=0) - expected_L) <= 5 * error_L + 1e-5).all(), step
    assert (error_L <= 0.03 * expected_L).all(), step  # so that 5 of them are not slack
    region = schedule.regions(step)
    np.testing.assert_array_equal(loss[:, region != Region.ACTIVE], 0.0, f'{step}')
    drop = schedule.levels[step] - schedule.levels[step + 1]
    t_L = (schedule.levels[step] - fraction * drop) / schedule.num_levels
    sigma = np.tile(process.sigma(jnp.asarray(t_L)), (len(loss), 1))
    np.testing.assert_allclose(shown['sigma'][rows == step], sigma, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(shown['regions'][rows == step], np.tile(region, (len(loss), 1)))
  np.testing.assert_array_equal(shown['settle_step'], schedule.settle_step)


@each_weighting
def test_uncounted_tokens_are_given(process, schedule, weighting, continuous_time):
  """Shown clean at noise level 0 in every row, worth nothing, and noise spares no other token."""
  objective = WeightedCrossEntropy(process, 0.7, weighting, continuous_time)
  given = batch(X0, np.linspace(0, 0.999, MANY), counted=[True, False])
  loss, shown = run(objective, arbitrary_denoise, PARAMS, given, schedule)
  np.testing.assert_array_equal(shown['canvas'][:, 1], X0[1])
  np.testing.assert_array_equal(shown['sigma'][:, 1], 0.0)
  np.testing.assert_array_equal(loss[:, 1], 0.0)
  assert (shown['canvas'][:, 0] == VOCAB).any() and (shown['sigma'][:, 0] > 0).any()
  assert (loss[:, 0] > 0).any()


def test_visible_weight_scales_what_visible_tokens_weigh():
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  only_masked, loss, ours = (
    loss_of(
      WeightedCrossEntropy(process, weight),
      *(arbitrary_denoise, PARAMS, batch(X0, np.linspace(0, 0.99, 200)), flat(2, 3)),
    )
    for weight in (0.0, 1.0, 2.0)
  )
  visible = loss - only_masked
  assert (visible > 0).any() and (only_masked > 0).any()
  np.testing.assert_allclose(ours - only_masked, 2.0 * visible, atol=1e-5)


@pytest.mark.parametrize(
  'weighting, continuous_time',
  [
    *(('annealed', True), ('importance', False)),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (('importance', True), ('annealed', False))
    ),
  ],
)
def test_epsilon_zero_is_mdlm_bit_for_bit(weighting, continuous_time):
  losses = [
    loss_of(
      WeightedCrossEntropy(process, 1.0, weighting, continuous_time),
      *(arbitrary_denoise, PARAMS, batch(X0, np.linspace(0, 0.99, 200)), slide(2, 2, 3)),
    )
    for process in (noise.absorbing(VOCAB), noise.epsilon_hybrid(VOCAB, 0.0))
  ]
  np.testing.assert_array_equal(*losses)
  assert (losses[0] > 0).any()


def uniform_denoise_of_vocab(params, canvas, **kwargs):
  return uniform_denoise({'vocab_size': VOCAB}, canvas, **kwargs)


# NextToken asks its denoiser whether it may be used to read; these stand in for one that may.
uniform_denoise_of_vocab.is_causal = arbitrary_denoise.is_causal = True


@pytest.mark.parametrize(
  'objective', [NextToken(), WeightedCrossEntropy(PROCESSES[2])], ids=lambda o: type(o).__name__
)
def test_loss_of_an_example_is_its_own(objective):
  """Permuting or splitting a batch gives each example the loss it had."""
  tokens = np.random.default_rng(0).integers(0, VOCAB, (8, LENGTH))
  every = batch(tokens, np.linspace(0, 0.99, 8))

  def losses(rows):
    some = Examples(*(x[rows] for x in every[:4]))
    return loss_of(objective, arbitrary_denoise, PARAMS, some, flat(2, 3))

  whole = losses(np.arange(8))
  assert len(np.unique(whole)) > 4
  for rows in (np.array([3, 1, 7, 0, 2, 6, 5, 4]), np.arange(3), np.arange(5, 8)):
    np.testing.assert_allclose(losses(rows), whole[rows], rtol=1e-6)


@pytest.mark.parametrize(
  'low, high, continuous_time', [(0.3, 0.8, True), (0.45, 1.0, False), (0.0, 0.5, True)]
)
def test_time_range_bounds_the_times(low, high, continuous_time):
  """Every position in work is shown a time within the range, which the times fill; a tenth of it
  either side of the middle, the share of masks is the time's, within 5 standard errors."""
  process, schedule, n = noise.absorbing(VOCAB), flat(2, 10), 20_000
  objective = WeightedCrossEntropy(process, continuous_time=continuous_time, time_range=[low, high])
  grid = (np.arange(n) + 0.5) / n
  loss, shown = run(objective, arbitrary_denoise, PARAMS, batch(X0, grid), schedule)
  t = -np.expm1(-shown['sigma'].astype(np.float64))
  t = np.where(shown['sigma'] >= noise.MAX_SIGMA, 1.0, t)
  assert (t >= low - 1e-5).all() and (t <= high + 1e-5).all()
  step = (high - low) / 10
  assert t.min() <= low + step + 1e-5 and t.max() >= high - step - 1e-5
  masked = shown['canvas'] == VOCAB
  error = np.sqrt((t * (1 - t)).sum()) + 1e-9
  assert abs(masked.sum() - t.sum()) <= 5 * error
  # a mask weighs c/t whatever the range: S·drop/T is 1 here; in discrete steps as much as the
  # clock moves, (high - low)/T of the way, is revealed
  weight = 1 / t if continuous_time else schedule.num_steps * step / t
  nats = loss / weight
  codes = index_of(shown['canvas'], VOCAB + 1)
  probs_CxLxV, _ = predictions(arbitrary, PARAMS, schedule, 0, VOCAB)
  expected = -np.log(probs_CxLxV[codes][:, np.arange(LENGTH), X0])
  np.testing.assert_allclose(nats, np.where(masked, expected, 0.0), rtol=2e-3, atol=1e-5)


# Drafts.


def test_what_is_wrong_in_a_draft_weighs_as_if_resampled():
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  objective = WeightedCrossEntropy(process, visible_weight=0.5)
  schedule, grid = block(2, 1, 4), np.linspace(0, 0.99, 64)
  (plain, _), (same, _), (loss, shown) = (
    run(objective, uniform_denoise_of_vocab, {}, batch(X0, grid, draft=draft), schedule)
    for draft in (None, X0, [1, X0[1]])
  )
  np.testing.assert_array_equal(same, plain)
  np.testing.assert_array_equal(loss[:, 1], plain[:, 1])
  works = plain[:, 0] > 0
  ratio = loss[works, 0] / plain[works, 0]
  kept = ratio > 1.001
  np.testing.assert_allclose(ratio[kept], 0.7 / 0.3, rtol=1e-5)  # (1-ε)/ε
  np.testing.assert_allclose(ratio[~kept], 1.0, rtol=1e-5)  # masked, or resampled anyway
  assert 0 < kept.sum() < len(kept)
  canvas, sigma = shown['canvas'][:, 0], shown['sigma'][:, 0]
  assert (canvas[sigma == 0] == X0[0]).all() and (sigma == 0).any()  # settled
  assert (canvas[sigma > 0] == 1).any()


@pytest.mark.parametrize('time_range', [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_time_range_outside_the_unit_interval_is_refused(time_range):
  with pytest.raises(ValueError, match=r'time_range .*\[0, 1\]'):
    WeightedCrossEntropy(PROCESSES[0], time_range=time_range)


# Score entropy.

SCORED = [
  noise.absorbing(VOCAB),
  noise.uniform(VOCAB),
  noise.gamma_hybrid(VOCAB, 0.3),
  noise.gamma_hybrid(VOCAB, 0.5, delta=0.1, clock='cosine'),
]


def score_terms(process, p0_CxLxV, x0_L, t_L, moves_L):
  """float64[C, L], σ'·Σ_{y≠x} Q(y→x)·[s - r·log s + r(log r - 1)] for every canvas of the world,
  the rates by central differences of the noising matrix; and the chance of each canvas."""
  canvases_CxL = sequences(VOCAB + 1, LENGTH)
  terms, chance_C = np.zeros((len(canvases_CxL), LENGTH)), np.ones(len(canvases_CxL))
  h = 1e-5
  for i in range(LENGTH):
    marginal = kernel(*survivals(process, t_L[i]), VOCAB)[:-1]
    chance_C *= marginal[x0_L[i], canvases_CxL[:, i]]
    if not moves_L[i]:
      continue
    rates = (step_kernel(process, t_L[i] + h, t_L[i] - h) - np.eye(VOCAB + 1)) / (2 * h)
    for c, x in enumerate(canvases_CxL[:, i]):
      if marginal[x0_L[i], x] == 0:
        continue
      predicted = p0_CxLxV[c, i] @ marginal
      for y in set(range(VOCAB)) - {x}:
        r, s = marginal[x0_L[i], y] / marginal[x0_L[i], x], predicted[y] / max(predicted[x], 1e-300)
        if rates[y, x] > 0:
          constant = r * (np.log(r) - 1) - r * np.log(s) if r > 0 else 0.0
          terms[c, i] += rates[y, x] * (s + constant)
  return terms, chance_C


@pytest.mark.parametrize(
  'process, schedule',
  [
    *((process, SCHEDULES[2]) for process in SCORED),
    (SCORED[2], SCHEDULES[1]),
    pytest.param(SCORED[2], SCHEDULES[0], marks=pytest.mark.full),
  ],
  ids=lambda x: getattr(x, 'name', str(x)),
)
def test_score_entropy_is_the_formula(process, schedule):
  """At each row and a time within it: the mean over its draws is within 5 standard errors
  (below 3 % of the value) of S·drop/T times the rate, noise enumerated."""
  within, steps, total = 0.4, schedule.num_steps, schedule.num_levels
  rows, uniform = spread(steps, within)
  loss = loss_of(ScoreEntropy(process), arbitrary_denoise, PARAMS, batch(X0, uniform), schedule)
  for step in range(steps):
    drop_L = schedule.levels[step] - schedule.levels[step + 1]
    t_L = (schedule.levels[step] - within * drop_L) / total
    p0_CxLxV, _ = predictions(arbitrary, PARAMS, schedule, step, VOCAB)
    terms, chance_C = score_terms(process, p0_CxLxV, X0, t_L, drop_L > 0)
    expected_L = steps * drop_L / total * (chance_C @ terms)
    mine = loss[rows == step].astype(np.float64)
    error_L = mine.std(axis=0) / np.sqrt(len(mine))
    assert (np.abs(mine.mean(axis=0) - expected_L) <= 5 * error_L + 1e-5).all(), step
    assert (error_L <= 0.03 * expected_L).all(), step
    np.testing.assert_array_equal(mine[:, drop_L == 0], 0.0, f'{step}')


@pytest.mark.parametrize('form', ['exact', 'released'])
@pytest.mark.parametrize('process', SCORED, ids=str)
def test_score_head_with_the_scores_of_a_prediction_has_its_loss(process, form):
  """The head gives log s + log(e^σ - 1) + log V; what it says of the present token is ignored."""

  def score_denoise(params, canvas, *, sigma, **kwargs):
    logits = arbitrary_denoise(params, canvas, sigma=sigma, **kwargs)
    t = (1 - jnp.exp(-sigma)) / (1 - process.delta)
    if process.clock == 'cosine':
      t = jnp.arcsin(jnp.minimum(t, 1.0)) * 2 / jnp.pi
    t = jnp.where(sigma > 0, t, 0.5)  # of rows at rest nothing is looked at
    scores = divergences.log_score_of(process, logits, canvas, t)
    scores += 3.0 * jax.nn.one_hot(canvas, VOCAB)
    sigma = process.sigma(t)
    return scores + (jnp.log(jnp.expm1(sigma)) + jnp.log(VOCAB))[..., None]

  grid = np.linspace(0.01, 0.97, 64)
  ours, theirs = (
    np.asarray(ScoreEntropy(process, head, form)(denoise, PARAMS, examples(X0, grid), flat(2, 3)))
    for head, denoise in (('score', score_denoise), ('x0', arbitrary_denoise))
  )
  np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)
  assert np.abs(theirs).max() > 0.1


@pytest.mark.parametrize('gamma, pure', [(0.0, SCORED[0]), (1.0, SCORED[1])])
@pytest.mark.parametrize('head', ['x0', 'score'])
def test_gamma_at_its_ends_has_the_loss_of_absorbing_and_uniform(gamma, pure, head):
  """Bit for bit, outside jit, which may join operations differently."""
  losses = [
    ScoreEntropy(process, head)(
      arbitrary_denoise,
      PARAMS,
      examples(X0, np.linspace(0, 0.99, 64)),
      slide(2, 2, 3),
    )
    for process in (pure, noise.gamma_hybrid(VOCAB, gamma))
  ]
  np.testing.assert_array_equal(*losses)
  assert (losses[0] != 0).any()


def test_score_entropy_of_absorbing_noise_is_the_weighted_cross_entropy():
  """Same draws, same loss: MDLM's identity, in continuous time."""
  losses = [
    objective(
      arbitrary_denoise,
      PARAMS,
      examples(X0, np.linspace(0.01, 0.99, 64)),
      slide(2, 2, 3),
    )
    for objective in (ScoreEntropy(SCORED[0]), WeightedCrossEntropy(SCORED[0]))
  ]
  np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-5)
  assert (losses[0] > 0).any()


def test_settled_weight_is_the_formula():
  """Cross-entropy of the settled tokens, mean over them, each times b/(n-1) for its block b among
  n settled ones: 1 if there is one, nothing if none is settled."""
  tokens = np.array([0, 1, 2, 2, 1, 0, 1])
  schedule = block(7, 2, 2)
  grid = (np.arange(schedule.num_steps) + 0.5) / schedule.num_steps
  process = noise.gamma_hybrid(VOCAB, 0.3)
  counted = np.array([True] * 6 + [False])
  weight = 0.7

  def denoise(params, canvas, **kwargs):
    return jnp.tile(jnp.asarray([0.3, -1.0, 0.5])[None, None], (*canvas.shape, 1))

  without, *weighted = (
    loss_of(
      ScoreEntropy(process, settled_weight=w, width=width),
      *(denoise, {}, batch(tokens, grid, counted), schedule),
    )
    for w, width in ((0.0, 1), (weight, 1), (weight, 3))
  )
  nats = np.log(np.exp([0.3, -1.0, 0.5]).sum()) - np.array([0.3, -1.0, 0.5])[tokens]
  for ours, width in zip(weighted, (1, 3), strict=True):
    for step in range(schedule.num_steps):
      settled = np.flatnonzero(schedule.levels[step] == 0)
      expected = np.zeros(7)
      blocks = sorted({i // width for i in settled})
      for i in settled:
        share = (i // width) / (len(blocks) - 1) if len(blocks) > 1 else 1.0
        expected[i] = weight * share * nats[i] / len(settled) * 7  # callers take the mean of 7
      expected[~counted] = 0.0
      np.testing.assert_allclose(
        ours[step] - without[step], expected, atol=1e-5, err_msg=f'width {width}, step {step}'
      )
    assert (ours - without > 0.1).any()


@pytest.mark.parametrize('head', ['x0', 'score'])
@pytest.mark.parametrize('process', SCORED, ids=str)
def test_uncounted_tokens_of_score_entropy_are_given(process, head):
  """Shown clean at noise level 0, worth nothing; the loss and its gradient are finite everywhere,
  the ends of time included."""
  watched = Watched(arbitrary_denoise)
  few = examples(X0, np.append(np.linspace(0, 0.999, 62), [0.0, 1 - 2.0**-24]), [True, False])
  objective = ScoreEntropy(process, head)
  schedule = block(2, 1, 2)
  loss = objective(watched, PARAMS, few, schedule)
  call = watched.shown
  np.testing.assert_array_equal(call['canvas'][:, 1], X0[1])
  np.testing.assert_array_equal(call['sigma'][:, 1], 0.0)
  np.testing.assert_array_equal(loss[:, 1], 0.0)
  assert np.isfinite(loss).all() and (loss[:, 0] > 0).any()
  gradient = jax.grad(
    lambda params: objective(
      arbitrary_denoise,
      params,
      few._replace(keys=jax.random.clone(few.keys)),
      schedule,
    ).sum()
  )(PARAMS)
  assert np.isfinite(gradient['table']).all()


def test_bad_arguments_of_score_entropy_are_refused():
  with pytest.raises(ValueError, match='x0, score'):
    ScoreEntropy(SCORED[0], head='logits')
  with pytest.raises(ValueError, match='exact, released'):
    ScoreEntropy(SCORED[0], form='other')
  with pytest.raises(ValueError, match='absorbing, uniform or gamma_hybrid'):
    ScoreEntropy(noise.epsilon_hybrid(VOCAB, 0.1))


# Next token.

NETWORK = Transformer(TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2))
AR = autoregressive(5)


@pytest.fixture(scope='module')
def causal():
  denoiser = make_denoiser(
    NETWORK, AR, alignment='shifted', context='causal', window='causal', bos_id=10, eos_id=0
  )
  init = jax.jit(denoiser.init, static_argnums=1)
  return denoiser, nn.meta.unbox(init(jax.random.key(0), 5))


def test_next_token_is_cross_entropy_given_the_tokens_before(causal):
  """Each token's prediction is computed with everything from it on replaced by junk."""
  denoiser, params = causal
  tokens = np.random.default_rng(1).integers(0, 11, (4, 5))
  counted = np.ones((4, 5), bool)
  counted[1, :2] = False
  loss = loss_of(NextToken(), denoiser, params, batch(tokens, np.zeros(4), counted), AR)
  predict = jitted(denoiser)
  for i in range(5):
    logits = np.asarray(
      predict(
        params,
        np.where(np.arange(5) < i, tokens, 0),
        sigma=np.zeros((4, 5), np.float32),
        regions=np.zeros((4, 5), np.int8),
        settle_step=AR.settle_step,
      ),
      np.float64,
    )[:, i]
    nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), tokens[:, i]]
    np.testing.assert_allclose(loss[:, i], np.where(counted[:, i], nats, 0.0), atol=1e-5)


def test_uniform_logits_cost_log_v_per_token():
  for schedule in (autoregressive(4), block(4, 2, 3)):  # whatever the schedule
    few = batch([0, 1, 2, 0], np.zeros(2))
    loss = loss_of(NextToken(), uniform_denoise_of_vocab, {}, few, schedule)
    np.testing.assert_allclose(loss, np.log(VOCAB), rtol=1e-6)


@pytest.mark.parametrize(
  'process, schedule, continuous_time',
  pairwise(PROCESSES, [flat(8, 5), block(8, 3, 2), slide(8, 4, 3)], [True, False]),
)
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
  tokens = [0, 1, 2, 0, 1, 2, 0, 1]
  loss = loss_of(objective, uniform_denoise_of_vocab, {}, batch(tokens, grid), schedule)
  expected = np.log(VOCAB) * (1 - process.delta if continuous_time else 1.0)
  np.testing.assert_allclose(loss.mean(), expected, rtol=0.05)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match='annealed, importance'):
    WeightedCrossEntropy(PROCESSES[0], weighting='none')
  with pytest.raises(ValueError, match='absorbing or epsilon_hybrid'):
    WeightedCrossEntropy('absorbing')


def test_importance_grows_until_the_end_of_time():
  """With δ tokens are visible even there: each weighs 1/(1-t) times as much, a mask as before."""
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3, delta=0.5)
  left = np.geomspace(2e-4, 0.9, 200)  # 1 - t
  (plain, shown), (ours, _) = (
    run(
      WeightedCrossEntropy(process, 1.0, weighting),
      uniform_denoise_of_vocab,
      {},
      batch(X0, left),
      flat(2, 1),
    )
    for weighting in ('annealed', 'importance')
  )
  visible = shown['canvas'] < VOCAB
  np.testing.assert_allclose(ours, plain * np.where(visible, 1 / left[:, None], 1.0), rtol=1e-3)
  assert visible[:50].any() and plain.min() > 0.0
