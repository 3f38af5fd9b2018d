"""Each stepper against the law of its own chain, enumerated from the formulas in float64."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import worlds
from worlds import arbitrary_denoise

from ardiff_jax import noise
from ardiff_jax.hyperschedules import Region, block, flat, from_levels, hybrid, plateau, slide
from ardiff_jax.sampling import draws, loop
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.steppers import (
  AdaptiveCorrection,
  Analytic,
  Ancestral,
  Euler,
  FirstHitting,
  Remasking,
)

VOCAB, LENGTH = 2, 2
PARAMS = worlds.arbitrary_params(1, VOCAB, LENGTH)
ABSORBING, UNIFORM = noise.absorbing(VOCAB), noise.uniform(VOCAB)
GAMMA = noise.gamma_hybrid(VOCAB, 0.1)
STILL = from_levels(np.array([[4, 4], [2, 4], [2, 2], [2, 2], [1, 1], [0, 0]]), 4)
NUM = 20_000
by_name = dict(ids=lambda x: getattr(x, 'name', str(x)))


arbitrary = worlds.jitted(arbitrary_denoise)  # for the references


def left_out(*cases):
  return [pytest.param(*case, marks=pytest.mark.full) for case in cases]


def sample(stepper, schedule, process=ABSORBING, n=NUM, seed=0, params=PARAMS, **kwargs):
  blank, keys = np.zeros((n, schedule.length), np.int32), worlds.keys(n, seed)
  args = arbitrary_denoise, params, process, stepper, schedule, blank, blank > 0, keys
  return worlds.generated(*args, **kwargs)


def assert_law(tokens, law_N, vocab_size=VOCAB):
  """Chi-square test at a fixed seed, 0.999 quantile."""
  counts = np.bincount(worlds.index_of(tokens, vocab_size), minlength=len(law_N))
  expected = law_N / law_N.sum() * counts.sum()
  statistic = ((counts - expected) ** 2 / expected).sum()
  assert statistic < scipy.stats.chi2.ppf(0.999, len(law_N) - 1), (counts, expected)


def mix(change, law_V, symbol):
  return (1 - change) * np.eye(VOCAB + 1)[symbol] + change * np.append(law_V, 0.0)


# Masking again.


def remasking_move(kind, eta):
  """The law of the next symbol, of kinds that do not look at confidence; A = 1 - t."""

  def move(logits, symbol, t, s):
    a, a_next = 1 - t, 1 - s
    most = 1.0 if a == 0 else min(1.0, (1 - a_next) / a)
    sigma = {
      'remask': 1 - a_next,
      'cap': min(eta, most),
      'rescale': eta * most,
      'loop': min(eta, most) if t == s else 0.0,
    }[kind]
    if symbol < VOCAB:
      return (1 - sigma) * np.eye(VOCAB + 1)[symbol] + sigma * np.eye(VOCAB + 1)[VOCAB]
    return mix((a_next - (1 - sigma) * a) / (1 - a), worlds.softmax(logits), symbol)

  return move


@pytest.mark.parametrize(
  'kind, eta, schedule',
  [
    ('remask', 0.0, flat(2, 4)),
    ('cap', 0.4, slide(2, 2, 3)),
    ('rescale', 0.9, STILL),
    ('loop', 0.6, plateau(2, 6, start=0.7, stop=0.3, survival=0.6)),
    *left_out(
      ('remask', 0.0, block(2, 1, 3)),
      ('cap', 0.3, flat(2, 4)),
      ('rescale', 0.5, flat(2, 4)),
      ('loop', 0.5, STILL),
    ),
  ],
  **by_name,
)
def test_remasking_follows_its_chain(kind, eta, schedule):
  law = worlds.law_of_moves(arbitrary, PARAMS, schedule, VOCAB, remasking_move(kind, eta))
  samples = sample(Remasking(kind, eta), schedule)
  assert_law(samples.tokens, law)
  plain = worlds.chain_law(arbitrary, PARAMS, schedule, VOCAB)
  if schedule.name.startswith(('flat', 'plateau')):  # so that the test can tell
    with pytest.raises(AssertionError):
      assert_law(samples.tokens, plain)


def law_with_memory(schedule, step_states, start):
  """float64[N]: a chain over (canvas, memory), {state: probability} moved by `step_states`."""
  states = {start: 1.0}
  for step in range(schedule.num_steps):
    probs_CxLxV, canvases_CxL = worlds.predictions(arbitrary, PARAMS, schedule, step, VOCAB)
    codes = {tuple(canvas): code for code, canvas in enumerate(canvases_CxL.tolist())}
    t_L, s_L = (schedule.levels[step + i] / schedule.num_levels for i in (0, 1))
    active = schedule.regions(step) == Region.ACTIVE
    after = {}
    for state, chance in states.items():
      p0_LxV = probs_CxLxV[codes[state[0]]]
      for new, probability in step_states(state, p0_LxV, t_L, s_L, active):
        if probability > 0:
          after[new] = after.get(new, 0.0) + chance * probability
    states = after
  law = np.zeros(VOCAB**LENGTH)
  for (canvas, _), chance in states.items():
    assert max(canvas) < VOCAB
    law[worlds.index_of(np.array([canvas]), VOCAB)[0]] += chance
  return law


def product(options):
  """Joins independent [(symbol, memory, probability)] of each position into states."""
  for chosen in itertools.product(*options):
    symbols, memory, probabilities = zip(*chosen, strict=True)
    yield (symbols, memory), np.prod(probabilities)


@pytest.mark.parametrize('schedule', [slide(2, 2, 3), STILL, *left_out([flat(2, 3)])], **by_name)
def test_remasking_by_confidence_follows_its_chain(schedule):
  """The memory is the probability each token had when it was drawn."""

  def step_states(state, p0_LxV, t_L, s_L, active):
    canvas, drawn = state
    visible = [i for i in range(LENGTH) if active[i] and canvas[i] < VOCAB]
    weight = {i: np.exp(-drawn[i]) for i in visible}
    options = []
    for i in range(LENGTH):
      if not active[i]:
        options.append([(canvas[i], drawn[i], 1.0)])
        continue
      a, a_next = 1 - t_L[i], 1 - s_L[i]
      most = 1.0 if a == 0 else min(1.0, (1 - a_next) / a)
      if i in weight:
        sigma = most * weight[i] / sum(weight.values())
        options.append([(canvas[i], drawn[i], 1 - sigma), (VOCAB, 1.0, sigma)])
      else:
        reveal = (a_next - a) / (1 - a)
        new = [(y, round(float(p0_LxV[i, y]), 12), reveal * p0_LxV[i, y]) for y in range(VOCAB)]
        options.append([(VOCAB, 1.0, 1 - reveal), *new])
    return product(options)

  law = law_with_memory(schedule, step_states, ((VOCAB,) * LENGTH, (1.0,) * LENGTH))
  assert_law(sample(Remasking('confidence'), schedule).tokens, law)


# Correction by confidence.


@pytest.mark.parametrize(
  'eta, schedule', [(0.3, flat(2, 4)), (0.6, STILL), *left_out([1.0, flat(2, 3)])], **by_name
)
def test_correction_by_confidence_follows_its_chain(eta, schedule):
  def step_states(state, p0_LxV, t_L, s_L, active):
    canvas, _ = state
    reveal = [(t - s) / t if t > 0 else 0.0 for t, s in zip(t_L, s_L, strict=True)]
    visible = [i for i in range(LENGTH) if active[i] and canvas[i] < VOCAB]
    mean = sum(eta * (1 - reveal[i]) for i in visible)
    ranked = sorted(visible, key=lambda i: (p0_LxV[i, canvas[i]], i))
    for extra, chance in ((1, mean - np.floor(mean)), (0, 1 - (mean - np.floor(mean)))):
      redrawn = ranked[: int(np.floor(mean)) + extra]
      options = []
      for i in range(LENGTH):
        change = float(i in redrawn)
        if active[i] and canvas[i] == VOCAB:
          change = reveal[i]
        drawn = [(y, 0, change * p0_LxV[i, y]) for y in range(VOCAB)]
        options.append([(canvas[i], 0, 1 - change), *drawn])
      for new, probability in product(options):
        yield new, chance * probability

  law = law_with_memory(schedule, step_states, ((VOCAB,) * LENGTH, (0,) * LENGTH))
  assert_law(sample(AdaptiveCorrection(eta, by_confidence=True), schedule).tokens, law)


def test_correction_of_strength_zero_by_confidence_is_ancestral():
  schedule = block(LENGTH, 2, 3)
  ours = sample(AdaptiveCorrection(0.0, by_confidence=True), schedule, n=300)
  theirs = sample(Ancestral(), schedule, n=300)
  np.testing.assert_array_equal(ours.tokens, theirs.tokens)


# Steps by the score.


def scores(process, head, logits, symbol, t):
  """float64[V], s_y at a time short of 1, and s of the mask."""
  t = min(t, 1 - 1e-5)
  a, b = worlds.survivals(process, t)
  if head == 'x0':
    q = worlds.kernel(a, b, VOCAB)
    marginal = worlds.softmax(logits) @ q[:-1]
    return marginal[:-1] / marginal[symbol], marginal[-1] / marginal[symbol]
  survival = 1 - t  # the linear clock, δ = 0
  score = np.exp(logits - np.log(1 / survival - 1) - np.log(VOCAB))
  if symbol < VOCAB:
    score[symbol] = 1.0
  return score, 1.0


def tweedie_move(process, head):
  def move(logits, symbol, t, s):
    score, mask = scores(process, head, logits, symbol, t)
    (a_t, b_t), (a_s, b_s) = (worlds.survivals(process, x) for x in (min(t, 1 - 1e-5), s))
    a, b, total = a_t / a_s, b_t / b_s, score.sum()
    value = np.append((score - (1 - b) * total / VOCAB) / (a * b), mask - (1 - a) * total / a)
    value[-1] *= s > 0
    if t == 1:  # x_t says nothing
      leads = np.append(np.ones(VOCAB), symbol == VOCAB)
    elif symbol < VOCAB:
      leads = np.append(b * (np.arange(VOCAB) == symbol) + (1 - b) / VOCAB, 0.0)
    else:
      leads = np.append(np.full(VOCAB, 1 - a), 1.0)
    law = np.maximum(value, 0.0) * leads
    return law / law.sum()

  return move


def euler_move(process, head):
  def move(logits, symbol, t, s):
    if t == 1 or s == 0:
      return tweedie_move(process, head)(logits, symbol, t, s)
    score, _ = scores(process, head, logits, symbol, t)
    time = min(t, 1 - 1e-5)
    speed = 1 / (1 - time)  # of σ
    gamma = {'Absorbing': 0.0, 'Uniform': 1.0}.get(type(process).__name__, 0.1)
    rate = speed * ((1 - gamma) if symbol == VOCAB else gamma / VOCAB)
    others = np.where(np.arange(VOCAB) == symbol, 0.0, score)
    return mix(min(1.0, (t - s) * rate * others.sum()), others / others.sum(), symbol)

  return move


MOVES = {Analytic: tweedie_move, Euler: euler_move}
BY_THE_SCORE = [  # both steppers and heads on every process
  *((*kind, GAMMA, flat(2, 4)) for kind in ((Analytic, 'score'), (Euler, 'x0'))),
  *((*kind, GAMMA, block(2, 1, 3)) for kind in ((Analytic, 'x0'), (Euler, 'score'))),
  (Analytic, 'score', UNIFORM, flat(2, 3)),
  (Euler, 'x0', UNIFORM, flat(2, 3)),
  (Analytic, 'x0', ABSORBING, slide(2, 2, 3)),
  (Euler, 'score', ABSORBING, flat(2, 3)),
]
LEFT = [
  (stepper, head, process, schedule)
  for stepper in MOVES
  for head in ('x0', 'score')
  for process, schedule in (
    *((ABSORBING, flat(2, 3)), (ABSORBING, slide(2, 2, 3)), (UNIFORM, flat(2, 3))),
    *((GAMMA, flat(2, 4)), (GAMMA, block(2, 1, 3))),
  )
]


@pytest.mark.parametrize('stepper, head, process, schedule', [*BY_THE_SCORE, *left_out(*LEFT)])
def test_steps_by_the_score_follow_their_chain(stepper, head, process, schedule):
  prior = worlds.kernel(*worlds.survivals(process, 1.0), VOCAB)[0]
  move = MOVES[stepper](process, head)
  law = worlds.law_of_moves(arbitrary, PARAMS, schedule, VOCAB, move, prior)
  assert_law(sample(stepper(head), schedule, process).tokens, law)


@pytest.mark.parametrize(
  'process',
  [
    *(UNIFORM, noise.absorbing(VOCAB, 0.2), noise.gamma_hybrid(VOCAB, 0.3, 0.2)),
    *left_out([ABSORBING], [GAMMA]),
  ],
  **by_name,
)
def test_the_analytic_step_of_a_prediction_of_x0_is_ancestral(process):
  schedule = hybrid(2, 2, 2)
  law = worlds.process_law(arbitrary, PARAMS, process, schedule)
  assert_law(sample(Analytic(), schedule, process).tokens, law)


@pytest.mark.parametrize(
  'stepper, head, process',
  [
    *((Analytic, 'x0', UNIFORM), (Analytic, 'score', GAMMA)),
    *((Euler, 'score', UNIFORM), (Euler, 'x0', GAMMA)),
    *left_out(
      *((Analytic, 'score', UNIFORM), (Analytic, 'x0', GAMMA)),
      *((Euler, 'x0', UNIFORM), (Euler, 'score', GAMMA)),
    ),
  ],
  **by_name,
)
def test_banned_tokens_are_gone_in_the_end(stepper, head, process):
  """Also those that the noise put there at the start."""
  params, schedule = worlds.arbitrary_params(9, 3, 2), flat(2, 4)
  process = dataclasses.replace(process, vocab_size=3)
  samples = sample(
    stepper(head), schedule, process, n=2000, params=params, controls=Controls(banned=(1,))
  )
  assert set(np.unique(samples.tokens)) == {0, 2}


def test_controls_bend_the_prediction_of_all_other_tokens():
  """An ε-hybrid's own chain, T = 0.5: p0 is taken leave-one-out before it is bent."""
  process, temperature, v = noise.epsilon_hybrid(VOCAB, 0.3), 0.5, VOCAB

  def move(logits, symbol, t, s):
    p0 = worlds.softmax(logits)
    if symbol < v:
      p0[symbol] /= v + 1
    p0 = p0 ** (1 / temperature) / (p0 ** (1 / temperature)).sum()
    return worlds.posteriors(process, p0, t, s)[symbol]

  schedule = flat(2, 3)
  law = worlds.law_of_moves(arbitrary, PARAMS, schedule, VOCAB, move)
  controls = Controls(temperature=temperature)
  assert_law(sample(Ancestral(), schedule, process, controls=controls).tokens, law)


def test_controls_leave_the_rate_of_reveals_alone():
  """Of a score head: how many masks are left after each step does not depend on temperature."""
  left = []
  for temperature in (1.0, 0.2):
    samples = sample(
      Analytic('score'), flat(2, 6), trace=6, controls=Controls(temperature=temperature)
    )
    left.append((np.asarray(samples.trace) == VOCAB).mean(axis=(1, 2)))
  # the canvases differ, and so do the totals that the network gives for them: the first step alone
  np.testing.assert_allclose(left[0][0], left[1][0], atol=0.01)
  assert 0.0 < left[0][0] < 1.0


EPSILON = noise.epsilon_hybrid(VOCAB, 0.2)


@pytest.mark.parametrize(
  'process, schedule',
  [
    *((UNIFORM, block(3, 1, 3)), (GAMMA, block(3, 1, 1)), (EPSILON, block(3, 1, 3))),
    *left_out((UNIFORM, block(3, 1, 1)), (GAMMA, block(3, 1, 3)), (EPSILON, block(3, 1, 1))),
  ],
  **by_name,
)
def test_one_token_at_a_time_reproduces_a_world_under_every_noise(process, schedule):
  """With the best prediction of each token from all others; an ε-hybrid's network, trained by
  weighted cross-entropy, gives it times [y = z] + 1/V on a visible token z."""
  joint = worlds.random_joint(2, VOCAB, 3)

  @worlds.World
  def taught(params, canvas, **shown):
    logits = worlds.exact_denoise(params, canvas, **shown)
    if isinstance(process, noise.EpsilonHybrid):
      logits += jax.nn.one_hot(canvas, VOCAB) * np.log1p(VOCAB)
    return logits

  blank = np.zeros((NUM, 3), np.int32)
  args = taught, worlds.exact_params(joint), process, Ancestral(), schedule
  samples = worlds.generated(*args, blank, blank > 0, worlds.keys(NUM))
  assert_law(samples.tokens, joint.reshape(-1))


# First hitting.


def test_first_hitting_in_continuous_time_is_a_random_order():
  """Three tokens: every order alike, each token drawn from the prediction at its turn."""
  params, length = worlds.arbitrary_params(3, VOCAB, 3), 3
  probs_CxLxV, canvases = worlds.predictions(arbitrary, params, flat(3, 3), 0, VOCAB)
  code = {tuple(canvas): i for i, canvas in enumerate(canvases.tolist())}
  law = np.zeros(VOCAB**length)
  for tokens in itertools.product(range(VOCAB), repeat=length):
    for order in itertools.permutations(range(length)):
      canvas, chance = [VOCAB] * length, 1 / 6
      for i in order:
        chance *= probs_CxLxV[code[tuple(canvas)], i, tokens[i]]
        canvas[i] = tokens[i]
      law[worlds.index_of(np.array([tokens]), VOCAB)[0]] += chance
  samples = sample(FirstHitting(), flat(3, 3), params=params, trace=3)
  assert_law(samples.tokens, law)
  assert int(samples.network_calls) == 3
  left = (np.asarray(samples.trace) == VOCAB).sum(axis=2)
  np.testing.assert_array_equal(left, [[2] * NUM, [1] * NUM, [0] * NUM])


def test_first_hitting_shows_the_noise_of_each_examples_own_times():
  """σ = -log A with A uniform: the means of the order statistics of three uniforms."""
  seen = []

  @worlds.World
  def watching(params, canvas, *, sigma, regions, settle_step):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), sigma, ordered=True)
    return arbitrary_denoise(params, canvas, sigma=sigma, regions=regions, settle_step=settle_step)

  n, schedule = 4000, flat(3, 3)
  given = np.zeros((n, 3), bool)
  given[: n // 2, 0] = True
  params = worlds.arbitrary_params(3, VOCAB, 3)
  args = watching, params, ABSORBING, FirstHitting(), schedule, np.ones((n, 3), np.int32)
  result = worlds.generated(*args, given, worlds.keys(n))
  jax.effects_barrier()
  assert len(seen) == 3 and (np.asarray(result.tokens)[: n // 2, 0] == 1).all()
  survival = np.exp(-np.stack(seen))  # [step, n, position]
  np.testing.assert_allclose(survival[:, n // 2 :, 0].mean(axis=1), [0.25, 0.5, 0.75], atol=0.02)
  np.testing.assert_allclose(survival[:2, : n // 2, 1].mean(axis=1), [1 / 3, 2 / 3], atol=0.02)
  np.testing.assert_array_equal(survival[:, : n // 2, 0], 1.0)


# What all have in common.

EVERY = [
  (Ancestral(), ABSORBING),
  (Ancestral(), GAMMA),
  (AdaptiveCorrection(0.5), ABSORBING),
  (AdaptiveCorrection(0.5, True), ABSORBING),
  (Analytic('score'), GAMMA),
  (Euler(), UNIFORM),
  (Remasking('cap', 0.5), ABSORBING),
  (Remasking('confidence'), ABSORBING),
  (Remasking('loop', 0.5), ABSORBING),
  (FirstHitting(), ABSORBING),
  *left_out(
    (Ancestral(), EPSILON),
    (Remasking('remask'), ABSORBING),
    (Remasking('rescale', 0.5), ABSORBING),
  ),
]


@pytest.mark.parametrize('stepper, process', EVERY, ids=lambda x: f'{x}'.split('(vocab')[0])
def test_a_sample_is_its_own_given_kept_and_no_mask_left(stepper, process):
  params = worlds.arbitrary_params(5, VOCAB, 4)
  schedule = flat(4, 4) if isinstance(stepper, FirstHitting) else slide(4, 3, 4)
  given = np.array([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]] * 2, bool)
  tokens = np.random.default_rng(0).integers(0, VOCAB, given.shape)
  args = arbitrary_denoise, params, process, stepper, schedule
  together = worlds.generated(*args, tokens, given, worlds.keys(8), trace=10**6)
  assert ((together.tokens >= 0) & (together.tokens < VOCAB)).all()
  for canvas in np.asarray(together.trace):
    np.testing.assert_array_equal(canvas[given], tokens[given])
  first = np.where(given, -1, together.reveal_step)
  np.testing.assert_array_equal(np.asarray(together.reveal_step)[given], -1)
  masked = np.asarray(together.trace) == VOCAB
  for i, j in np.argwhere(first >= 0):
    assert not masked[first[i, j] :, i, j].any()
    assert first[i, j] == 0 or masked[first[i, j] - 1, i, j]
  keep, order = np.arange(8) % 3 > 0, np.roll(np.arange(8), 3)  # others' places and neighbours
  keys = worlds.keys(8)[jnp.asarray(order)]
  tokens, given = tokens[order], given[order]
  given[~keep[order]] ^= True
  again = worlds.generated(*args, tokens, given, keys, trace=10**6)
  np.testing.assert_array_equal(
    np.asarray(again.tokens)[keep[order]], np.asarray(together.tokens)[order][keep[order]]
  )


# Stopping, drafts and guidance.


def test_stopping_changes_the_work_and_not_the_text():
  """Token 1 ends a text: up to it nothing differs, after it nothing else comes."""
  params = worlds.arbitrary_params(6, VOCAB, 4)
  schedule, n = block(4, 2, 3), 5
  fewer = 0
  for seed in range(4):
    full, short = (
      sample(AdaptiveCorrection(0.3), schedule, n=n, seed=seed, params=params, stop_id=stop)
      for stop in (None, 1)
    )
    for ours, theirs in zip(np.asarray(short.tokens), np.asarray(full.tokens), strict=True):
      end = np.flatnonzero(theirs == 1)[0] if 1 in theirs else 4
      np.testing.assert_array_equal(ours[:end], theirs[:end])
      assert (ours[end:] == 1).all()
    fewer += int(full.network_calls) - int(short.network_calls)
  assert fewer > 0


def test_an_end_that_is_given_does_not_stop():
  params = worlds.arbitrary_params(6, VOCAB, 4)
  given = np.array([[True, False, False, False]])
  args = arbitrary_denoise, params, ABSORBING, Ancestral(), block(4, 2, 2)
  tokens = np.ones((1, 4), np.int32)
  short, whole = (
    worlds.generated(*args, tokens, given, worlds.keys(1, 1), stop_id=stop) for stop in (1, None)
  )
  np.testing.assert_array_equal(short.tokens[0, 1], whole.tokens[0, 1])


def test_a_draft_is_where_the_canvas_starts():
  """Nothing is masked, so ancestral sampling leaves it and correction does not."""
  draft = np.random.default_rng(0).integers(0, VOCAB, (400, LENGTH))
  kept = sample(Ancestral(), flat(LENGTH, 4), n=400, draft=draft)
  np.testing.assert_array_equal(kept.tokens, draft)
  assert int(kept.network_calls) == 0
  moved = sample(AdaptiveCorrection(0.5), flat(LENGTH, 4), n=400, draft=draft)
  assert int(moved.redraws.sum()) > 100
  partly = np.where(np.arange(LENGTH)[None] == 0, VOCAB, draft)
  filled = sample(Ancestral(), flat(LENGTH, 4), n=400, draft=partly)
  np.testing.assert_array_equal(np.asarray(filled.tokens)[:, 1], draft[:, 1])


def test_guidance_pulls_from_what_is_predicted_without_the_prompt():
  """(1+w)·given the prompt - w·with it masked, softmax of that, for the token behind it."""
  weight, schedule, n = 1.5, block(2, 1, 1), NUM
  args = arbitrary_denoise, PARAMS, ABSORBING, Ancestral(), schedule, np.ones((n, 2), np.int32)
  given = np.tile([[True, False]], (n, 1))
  samples = worlds.generated(*args, given, worlds.keys(n, 2), controls=Controls(guidance=weight))
  predicted, _ = worlds.outputs(arbitrary, PARAMS, schedule, 1, VOCAB)
  logits = [
    predicted[worlds.index_of(np.array([[first, VOCAB]]), VOCAB + 1)[0], 1] for first in (1, VOCAB)
  ]
  law = np.exp((1 + weight) * logits[0] - weight * logits[1])
  counts = np.bincount(np.asarray(samples.tokens)[:, 1], minlength=VOCAB)
  assert_law(np.asarray(samples.tokens)[:, 1:], law)
  assert (counts > 0).all() and (np.asarray(samples.tokens)[:, 0] == 1).all()


def test_given_tokens_behind_an_end_are_kept():
  params = worlds.arbitrary_params(6, VOCAB, 4)
  given = np.tile([[False, False, False, True]], (200, 1))
  args = arbitrary_denoise, params, ABSORBING, Ancestral(), block(4, 2, 2)
  tokens = np.zeros((200, 4), np.int32)
  samples = worlds.generated(*args, tokens, given, worlds.keys(200, 1), stop_id=1)
  stopped = np.asarray(samples.tokens)
  assert (stopped[:, :3] == 1).any(axis=1).sum() > 50
  assert (stopped[:, 3] == 0).all()


def test_a_wide_window_draws_as_a_narrow_one(monkeypatch):
  """Positions projected onto the vocabulary a few at a time: the same tokens."""
  params, stepper = worlds.arbitrary_params(8, VOCAB, 5), Remasking('confidence')
  args = arbitrary_denoise, params, ABSORBING, stepper, flat(5, 3)
  blank = np.zeros((50, 5), np.int32)
  usual = worlds.generated(*args, blank, blank > 0, worlds.keys(50))
  monkeypatch.setattr(loop, '_CHUNK', 2)
  monkeypatch.setattr(draws, '_BLOCK', 2)
  other = jax.jit(generate, static_argnums=(0, 2, 3))(*args, blank, blank > 0, worlds.keys(50))
  np.testing.assert_array_equal(usual.tokens, other.tokens)
