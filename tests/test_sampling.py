"""Samplers against the law of their own Markov chain, and draws against the exact CDF."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import worlds
from worlds import arbitrary_denoise, exact_denoise

from ardiff_jax import noise, rng
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, hybrid, slide
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.sampling import draws
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.steppers import AdaptiveCorrection, Analytic, Ancestral, Step

VOCAB, LENGTH = 3, 3
JOINT = worlds.random_joint(0, VOCAB, LENGTH)
EXACT = worlds.exact_params(JOINT)
ARBITRARY = worlds.arbitrary_params(1, VOCAB, LENGTH)
ABSORBING = noise.absorbing(VOCAB)
LAST = np.float32(1 - 2.0**-24)  # the largest uniform
by_name = dict(ids=lambda x: getattr(x, 'name', None))


# Draws.


def logits_with_holes(seed, vocab_size, scale=2.0):
  """float32[V], a third of the tokens impossible, the first and the last among them."""
  rng = np.random.default_rng(seed)
  logits = scale * rng.standard_normal(vocab_size).astype(np.float32)
  logits[rng.random(vocab_size) < 1 / 3] = -np.inf
  logits[vocab_size // 2] = 1.0
  logits[0] = logits[-1] = -np.inf
  return logits


def exact_cdf(logits):
  weights = np.exp(logits.astype(np.float64) - logits.max())
  return np.cumsum(weights) / weights.sum()


draw = jax.jit(draws.inverse_cdf)


@pytest.mark.parametrize('vocab_size', [3, 256, 257, 5000])
def test_inverse_cdf_is_searchsorted(vocab_size):
  """Equal, or off by a rounding of the CDF: 2 in 10^7 a block, some 10^-6 in all."""
  logits = logits_with_holes(0, vocab_size)
  uniform = np.random.default_rng(1).random(4000, np.float32)
  ours = np.asarray(draw(np.tile(logits, (4000, 1)), uniform))
  assert np.isfinite(logits[ours]).all()
  cdf = exact_cdf(logits)
  below = np.where(ours > 0, cdf[ours - 1], 0.0)
  assert ((below - 2e-6 <= uniform) & (uniform <= cdf[ours] + 2e-6)).all()
  assert (ours == np.searchsorted(cdf, uniform, side='right')).mean() > 0.99


@pytest.mark.parametrize('vocab_size', [3, 256, 257, 5000])
def test_inverse_cdf_never_gives_an_impossible_token(vocab_size):
  """Nor at the ends, nor at the very float32 where two tokens meet and its neighbours."""
  for seed in range(3):
    logits = logits_with_holes(seed, vocab_size)
    possible = np.flatnonzero(np.isfinite(logits))
    meet = np.random.default_rng(0).permutation(exact_cdf(logits).astype(np.float32))[:1332]
    uniform = np.concatenate([meet, np.nextafter(meet, 0), np.nextafter(meet, 1), [0.0, LAST]])
    uniform = np.resize(np.clip(uniform, 0.0, LAST).astype(np.float32)[::-1], 4000)
    ours = np.asarray(draw(np.tile(logits, (4000, 1)), uniform))
    assert np.isfinite(logits[ours]).all()
    assert ours[1] == possible[0]
    assert exact_cdf(logits)[ours[0]] > 1 - 1e-6  # the last of more than rounding's weight


@pytest.mark.parametrize('vocab_size', [256, 5000])
def test_inverse_cdf_survives_rounding_past_the_end(vocab_size):
  """The largest uniform times one rounding of the sum may exceed another rounding of it."""
  logits = np.random.default_rng(0).standard_normal((4000, vocab_size)).astype(np.float32)
  logits[:, vocab_size // 2 :] = -np.inf
  ours = np.asarray(draw(logits, np.full(4000, LAST)))
  assert (ours < vocab_size // 2).all()


def test_inverse_cdf_of_a_certain_token():
  logits = np.full((4000, 5000), -np.inf, np.float32)
  logits[:, 700] = -3.0
  np.testing.assert_array_equal(draw(logits, np.linspace(0, LAST, 4000, dtype=np.float32)), 700)


def test_inverse_cdf_takes_any_leading_axes():
  random = np.random.default_rng(0)
  logits = random.standard_normal((2, 2000, 257)).astype(np.float32)
  uniform = random.random((2, 2000), np.float32)
  ours = draw(logits, uniform)
  assert ours.shape == (2, 2000) and ours.dtype == jnp.int32
  flat_ones = draw(logits.reshape(4000, 257), uniform.reshape(4000))
  np.testing.assert_array_equal(np.asarray(ours).reshape(-1), flat_ones)


def test_large_vocabulary_keeps_its_entropy():
  """A Zipf law over 50,257 tokens, drawn at 2^18 evenly spaced uniforms.

  Every token then has its count to within 2 plus float32's rounding; over sums of 500 tokens the
  total variation is at most the 101 edges times 2 counts, 8e-4, plus rounding's 1e-5. One float32
  categorical with a heavy "stay" entry, or Gumbels, would lose the tail: some 10^-2.
  """
  vocab_size, n, batch = 50_257, 2**18, 2**10
  logits = -np.log(np.arange(1, vocab_size + 1, dtype=np.float32))[
    np.random.default_rng(0).permutation(vocab_size)
  ]
  grid = jnp.asarray(((np.arange(n) + 0.5) / n).astype(np.float32)).reshape(-1, batch)
  draw_many = jax.jit(
    lambda logits: jax.lax.map(
      lambda u: draws.inverse_cdf(jnp.broadcast_to(logits[None], (batch, vocab_size)), u), grid
    )
  )
  counts = np.bincount(np.asarray(draw_many(jnp.asarray(logits))).reshape(-1), minlength=vocab_size)
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum()
  edges = np.arange(0, vocab_size, 500)
  block_error = np.add.reduceat(counts / n - probs, edges)
  assert 0.5 * np.abs(block_error).sum() < 1e-3
  assert np.abs(counts - n * probs).max() < 5
  cross = -(counts / n * np.log(probs)).sum()  # an unbiased look at the entropy of what is drawn
  np.testing.assert_allclose(cross, -(probs * np.log(probs)).sum(), atol=2e-3)


@pytest.mark.full
def test_one_categorical_that_holds_the_mask_loses_rare_tokens():
  """What is not done here: at T = 256, Gumbel draws over 50,257 tokens and "stay", in float32.

  The 24 bits of a uniform end the Gumbel's tail, which is all that a reveal of probability 1/256
  has: of a law of 7.57 nats, the tokens revealed have some 5 in the mean.
  """
  vocab_size = 50_257
  logits = -np.log(np.arange(1, vocab_size + 1, dtype=np.float32))
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum()
  whole = jnp.asarray(np.append(np.log(probs / 256), np.log1p(-1 / 256)), jnp.float32)
  draw = lambda key: jax.random.categorical(key, whole, shape=(64,))  # noqa: E731
  drawn = np.asarray(
    jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(0), 128))
  )
  revealed = drawn[drawn < vocab_size]
  assert len(revealed) > 10
  assert -np.log(probs[revealed]).mean() < -(probs * np.log(probs)).sum() - 1.0


# The loop.


exact, arbitrary = worlds.jitted(exact_denoise), worlds.jitted(arbitrary_denoise)
NUM = 20_000


def sample(denoise, params, stepper, schedule, n=NUM, seed=0, process=ABSORBING, **kwargs):
  """Unconditional samples of `n` keys."""
  blank = np.zeros((n, schedule.length), np.int32)
  args = denoise, params, process, stepper, schedule, blank, blank > 0, worlds.keys(n, seed)
  return worlds.generated(*args, **kwargs)


def assert_law(tokens, law_N, vocab_size):
  """Chi-square test at a fixed seed, 0.999 quantile: one seed in a thousand would fail."""
  counts = np.bincount(worlds.index_of(tokens, vocab_size), minlength=len(law_N))
  expected = law_N / law_N.sum() * counts.sum()
  assert expected.min() > 5
  statistic = ((counts - expected) ** 2 / expected).sum()
  assert statistic < scipy.stats.chi2.ppf(0.999, len(law_N) - 1), statistic


@pytest.mark.parametrize(
  'schedule',
  [
    *(autoregressive(3), block(3, 1, 3)),
    *(pytest.param(x, marks=pytest.mark.full) for x in (block(3, 1, 1), slide(3, 1, 2))),
  ],
  **by_name,
)
def test_one_token_at_a_time_reproduces_the_world(schedule):
  tokens = sample(exact_denoise, EXACT, Ancestral(), schedule).tokens
  assert_law(tokens, JOINT.reshape(-1), VOCAB)


@pytest.mark.parametrize(
  'schedule, eta',
  [
    (flat(3, 2), 0.0),
    (block(3, 2, 2), 0.0),
    (slide(3, 3, 2), 0.5),  # levels that stand still are corrected too
    (flat(3, 3), 0.3),
    (block(3, 2, 3), 1.0),
    pytest.param(slide(3, 2, 2), 0.0, marks=pytest.mark.full),
  ],
  **by_name,
)
def test_samples_follow_the_law_of_their_own_chain(schedule, eta):
  """Of a network that knows nothing, so that every canvas has a law of its own."""
  tokens = sample(arbitrary_denoise, ARBITRARY, AdaptiveCorrection(eta), schedule).tokens
  assert_law(tokens, worlds.chain_law(arbitrary, ARBITRARY, schedule, VOCAB, eta), VOCAB)


def test_correction_of_two_tokens_by_eta():
  """ACS, η = 0.3, flat T = 3, V = L = 2. The law without correction is 0.012 away in total
  variation; 60,000 samples tell the two apart (chi-square of 75 for a quantile of 16)."""
  params = worlds.arbitrary_params(0, 2, 2)
  process = noise.absorbing(2)
  tokens = sample(
    arbitrary_denoise, params, AdaptiveCorrection(0.3), flat(2, 3), 60_000, process=process
  ).tokens
  assert_law(tokens, worlds.chain_law(arbitrary, params, flat(2, 3), 2, 0.3), 2)
  with pytest.raises(AssertionError):
    assert_law(tokens, worlds.chain_law(arbitrary, params, flat(2, 3), 2), 2)


RESAMPLING = [
  noise.uniform(VOCAB),
  noise.gamma_hybrid(VOCAB, 0.5),
  noise.gamma_hybrid(VOCAB, 0.2, delta=0.1, clock='cosine'),
  noise.epsilon_hybrid(VOCAB, 0.3),
]


@pytest.mark.parametrize(
  'process, schedule',
  [
    (RESAMPLING[0], block(3, 2, 2)),
    (RESAMPLING[1], flat(3, 2)),
    (RESAMPLING[2], hybrid(3, 2, 2)),
    (RESAMPLING[3], flat(3, 3)),
    pytest.param(RESAMPLING[0], flat(3, 3), marks=pytest.mark.full),
    pytest.param(RESAMPLING[1], block(3, 2, 2), marks=pytest.mark.full),
  ],
  ids=lambda x: getattr(x, 'name', str(x)),
)
def test_ancestral_samples_follow_the_chain_of_the_posteriors(process, schedule):
  """Of every process that resamples, for a network that knows nothing; no mask is left."""
  tokens = sample(arbitrary_denoise, ARBITRARY, Ancestral(), schedule, process=process)
  tokens = np.asarray(tokens.tokens)
  assert ((tokens >= 0) & (tokens < VOCAB)).all()
  assert_law(tokens, worlds.process_law(arbitrary, ARBITRARY, process, schedule), VOCAB)


def test_laws_of_the_processes_differ_by_more_than_the_test_of_them_forgives():
  """Samples of one process are refused by the law of another."""
  schedule = flat(3, 2)
  args = arbitrary_denoise, ARBITRARY, Ancestral(), schedule
  tokens = sample(*args, process=RESAMPLING[1]).tokens
  for other in (ABSORBING, RESAMPLING[0]):
    law = worlds.process_law(arbitrary, ARBITRARY, other, schedule)
    with pytest.raises(AssertionError):
      assert_law(tokens, law, VOCAB)


def test_uniform_noise_starts_from_uniform_tokens():
  """The canvas the network is first shown, given tokens apart: chi-square over all canvases."""
  seen = []

  @worlds.World
  def watching(params, canvas, **shown):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), canvas, ordered=True)
    return arbitrary_denoise(params, canvas, **shown)

  n, given = 5000, np.tile([[False, True, False]], (5000, 1))
  args = watching, ARBITRARY, noise.uniform(VOCAB), Ancestral(), flat(3, 2)
  worlds.generated(*args, np.full((n, 3), 2), given, worlds.keys(n, 2))
  jax.effects_barrier()
  assert len(seen) == 2
  assert (seen[0][:, 1] == 2).all()
  assert_law(seen[0][:, [0, 2]], np.ones(VOCAB**2), VOCAB)


@pytest.mark.parametrize('process', RESAMPLING[:2], ids=str)
def test_given_tokens_never_change_under_noise_that_resamples(process):
  given = np.tile(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]], bool), (200, 1))
  tokens = np.random.default_rng(0).integers(0, VOCAB, given.shape)
  args = arbitrary_denoise, ARBITRARY, process, Ancestral(), flat(3, 4), tokens, given
  samples = worlds.generated(*args, worlds.keys(len(given)), trace=10**6)
  for canvas in np.asarray(samples.trace):
    np.testing.assert_array_equal(canvas[given], tokens[given])
  assert ((samples.tokens >= 0) & (samples.tokens < VOCAB)).all()
  assert int(samples.redraws.sum()) > 0
  for i in range(3):
    assert len(np.unique(np.asarray(samples.tokens)[~given[:, i], i])) == VOCAB


@pytest.mark.parametrize('gamma, pure', [(0.0, ABSORBING), (1.0, noise.uniform(VOCAB))])
def test_gamma_at_its_ends_moves_as_absorbing_and_uniform(gamma, pure):
  """Same canvas and uniforms, same next canvas; last and first steps included."""
  rng, n = np.random.default_rng(0), 2000
  logits = rng.standard_normal((n, 3, VOCAB)).astype(np.float32)
  step = Step(
    canvas=rng.integers(0, VOCAB + (gamma == 0), (n, 3)),
    movable=np.ones((n, 3), bool),
    t=np.array([[1.0, 0.7, 0.4]], np.float32),
    s=np.array([[0.7, 0.4, 0.0]], np.float32),
    coin=rng.random((n, 3), np.float32),
    uniform=rng.random((n, 3), np.float32),
    dice=None,
  )

  @functools.partial(jax.jit, static_argnums=0)
  def moved(process, step, logits):
    stepper = Ancestral()
    decision = stepper.decide(process, step)
    if decision is None:
      return stepper.move(process, step, logits, lambda x: x).tokens
    return jnp.where(decision.redraw, draws.inverse_cdf(logits, step.uniform), step.canvas)

  processes = noise.gamma_hybrid(VOCAB, gamma), pure
  ours, theirs = (np.asarray(moved(process, step, logits)) for process in processes)
  np.testing.assert_array_equal(ours, theirs)
  assert (ours != step.canvas).any(axis=0).all()


THREE = [autoregressive(3), flat(3, 4), slide(3, 2, 3)]


@pytest.mark.parametrize(
  'schedule, eta, delta',
  [
    *((THREE[0], 0.5, 0.0), (THREE[1], 0.0, 0.05), (THREE[1], 0.5, 0.0), (THREE[2], 0.5, 0.05)),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in itertools.product(THREE, (0.0, 0.5), (0.0, 0.05))
    ),
  ],
  **by_name,
)
def test_no_mask_is_left_and_the_trace_ends_with_the_result(schedule, eta, delta):
  args = arbitrary_denoise, ARBITRARY, AdaptiveCorrection(eta), schedule, 5000
  samples = sample(*args, trace=10**6, process=noise.absorbing(VOCAB, delta))
  assert ((samples.tokens >= 0) & (samples.tokens < VOCAB)).all()
  assert samples.trace.shape == (schedule.num_steps, 5000, 3)
  np.testing.assert_array_equal(samples.trace[-1], samples.tokens)
  canvases = np.concatenate([np.full((1, 5000, 3), VOCAB), samples.trace])
  for step in range(schedule.num_steps):
    active = schedule.regions(step) == Region.ACTIVE
    np.testing.assert_array_equal(canvases[step + 1][:, ~active], canvases[step][:, ~active])
  changed = (canvases[:-1] != VOCAB) & (canvases[1:] != canvases[:-1])
  np.testing.assert_array_equal(samples.redraws, changed.sum(axis=(0, 2)))
  assert (samples.redraws == 0).all() == (eta == 0.0 or schedule.num_levels == 1)


@pytest.mark.parametrize('schedule', THREE, **by_name)
def test_given_tokens_never_change_whatever_their_number(schedule):
  """Prompts of 0 to 3 tokens, and an infill, in one batch; correction is as strong as can be."""
  given = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]], bool)
  given = np.tile(given, (200, 1))
  tokens = np.random.default_rng(0).integers(0, VOCAB, given.shape)
  args = arbitrary_denoise, ARBITRARY, ABSORBING, AdaptiveCorrection(1.0), schedule
  samples = worlds.generated(*args, tokens, given, worlds.keys(len(given)), trace=10**6)
  for canvas in np.asarray(samples.trace):
    np.testing.assert_array_equal(canvas[given], tokens[given])
  assert (samples.tokens < VOCAB).all()
  for i in range(3):
    assert len(np.unique(np.asarray(samples.tokens)[~given[:, i], i])) == VOCAB


def test_what_follows_a_prompt_is_the_worlds_conditional():
  tokens, given = (np.tile(x, (NUM, 1)) for x in ([[2, 0, 0]], [[True, False, False]]))
  args = exact_denoise, EXACT, ABSORBING, Ancestral(), autoregressive(3)
  samples = worlds.generated(*args, tokens.astype(np.int32), given, worlds.keys(NUM))
  assert_law(np.asarray(samples.tokens)[:, 1:], JOINT[2].reshape(-1), VOCAB)


def test_network_is_shown_given_tokens_without_noise():
  """And every other position at the noise of its level."""
  seen = []

  @worlds.World
  def watching(params, canvas, *, sigma, regions, settle_step):
    jax.debug.callback(
      lambda *x: seen.append([np.asarray(y) for y in x]), canvas, sigma, regions, ordered=True
    )
    return arbitrary_denoise(params, canvas, sigma=sigma, regions=regions, settle_step=settle_step)

  schedule = slide(3, 2, 3)
  given = np.array([[False, True, False], [False, False, False]])
  args = watching, ARBITRARY, ABSORBING, Analytic(), schedule
  worlds.generated(*args, np.ones((2, 3), np.int32), given, worlds.keys(2))
  jax.effects_barrier()
  assert len(seen) == schedule.num_steps
  for step, (canvas, sigma, regions) in enumerate(seen):
    assert canvas[0, 1] == 1 and sigma[0, 1] == 0.0
    expected = np.asarray(ABSORBING.sigma(schedule.levels[step] / schedule.num_levels))
    np.testing.assert_allclose(sigma[1], expected, rtol=1e-5)
    np.testing.assert_allclose(sigma[0, [0, 2]], expected[[0, 2]], rtol=1e-5)
    np.testing.assert_array_equal(regions, schedule.regions(step))  # one for the batch


@pytest.mark.parametrize(
  'schedule, prompts, calls',
  [
    (autoregressive(3), (0, 0), 3),
    (flat(3, 4), (0, 0), 4),
    (slide(3, 2, 3), (0, 0), 6),
    (autoregressive(3), (2, 1), 2),  # the common prompt is one token
    (autoregressive(3), (2, 0), 3),
    (autoregressive(3), (3, 3), 0),
    (block(3, 2, 4), (2, 3), 4),
    (block(3, 2, 4), (1, 1), 8),
    (flat(3, 4), (2, 2), 4),
  ],
  **by_name,
)
def test_network_is_called_for_rows_that_move_something(schedule, prompts, calls):
  given = np.arange(3)[None] < np.array(prompts)[:, None]
  args = arbitrary_denoise, ARBITRARY, ABSORBING, Analytic(), schedule
  samples = worlds.generated(*args, np.ones((2, 3), np.int32), given, worlds.keys(2))
  assert int(samples.network_calls) == calls


@pytest.mark.parametrize(
  'schedule, n',
  [
    *((flat(3, 20), 1), (block(3, 2, 9), 5), (slide(3, 2, 6), 5)),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in ((flat(3, 20), 5), (block(3, 2, 9), 1), (slide(3, 2, 6), 1))
    ),
  ],
  **by_name,
)
def test_network_is_called_only_where_a_token_is_to_be_drawn(schedule, n):
  """By steppers that can tell beforehand: at most once a position, whatever the steps."""
  for seed in range(5):
    samples = sample(arbitrary_denoise, ARBITRARY, Ancestral(), schedule, n, seed, trace=10**6)
    before = np.concatenate([np.full((1, n, 3), VOCAB), samples.trace[:-1]])
    drew = (np.asarray(samples.trace) != before).any(axis=(1, 2))
    assert int(samples.network_calls) == drew.sum() <= 3 * n


@pytest.mark.parametrize('schedule', THREE, **by_name)
def test_sample_depends_on_its_own_key_only(schedule):
  """The same key in another batch, at another place, among other neighbours and prompts."""
  blank, keys = np.zeros((40, 3), np.int32), worlds.keys(40, 7)
  args = arbitrary_denoise, ARBITRARY, ABSORBING, AdaptiveCorrection(0.5), schedule
  whole = np.asarray(worlds.generated(*args, blank, blank > 0, jax.random.clone(keys)).tokens)
  assert len(np.unique(whole, axis=0)) > 5
  chosen = np.array([31, 2, 17])
  given = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
  again = worlds.generated(*args, blank[:3], given, keys[chosen]).tokens
  np.testing.assert_array_equal(again[:2], whole[chosen[:2]])


@functools.partial(jax.jit, static_argnums=1)
def uniforms_of(key, size, step):
  return jax.random.uniform(rng.stream(key, 'step', step), (2, size))


@functools.partial(jax.jit, static_argnums=0)
def moved_by(stepper, logits, **step):
  decision = stepper.decide(ABSORBING, Step(**step, dice=None))
  return decision.redraw, draws.inverse_cdf(logits, step['uniform'])


@pytest.mark.parametrize(
  'schedule, eta',
  [
    *((THREE[0], 0.0), (flat(3, 3), 0.4), (THREE[2], 0.4)),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in ((THREE[0], 0.4), (flat(3, 3), 0.0), (THREE[2], 0.0))
    ),
  ],
  **by_name,
)
def test_scan_is_a_python_loop(schedule, eta):
  """Row by row: two uniforms a place of the window, from the example's key folded by the row."""
  n, stepper = 64, AdaptiveCorrection(eta)
  given = np.arange(3)[None] < np.random.default_rng(0).integers(0, 3, n)[:, None]
  tokens = np.random.default_rng(1).integers(0, VOCAB, (n, 3))
  args = arbitrary_denoise, ARBITRARY, ABSORBING, stepper, schedule, tokens, given
  ours = worlds.generated(*args, worlds.keys(n, 3))
  keys = worlds.keys(n, 3)
  canvas = np.where(given, tokens, VOCAB)
  for step in range(schedule.num_steps):
    t_L = schedule.levels[step] / np.float32(schedule.num_levels)
    s_L = schedule.levels[step + 1] / np.float32(schedule.num_levels)
    regions = schedule.regions(step)
    logits = arbitrary(ARBITRARY, canvas, sigma=None, regions=regions, settle_step=None)
    active = np.flatnonzero(regions == Region.ACTIVE)
    uniforms = np.zeros((n, 2, 3), np.float32)
    uniforms[:, :, active] = np.stack(
      [uniforms_of(jax.random.clone(key), schedule.window_size, step) for key in keys]
    )[:, :, : len(active)]
    redraw, drawn = moved_by(
      stepper,
      logits,
      canvas=canvas,
      movable=(regions == Region.ACTIVE)[None] & ~given,
      t=np.float32(t_L)[None],
      s=np.float32(s_L)[None],
      coin=uniforms[:, 0],
      uniform=uniforms[:, 1],
    )
    redraw = np.asarray(redraw) & (regions == Region.ACTIVE)[None] & ~given
    canvas = np.where(redraw, drawn, canvas)
  np.testing.assert_array_equal(ours.tokens, canvas)


def test_low_temperature_gives_the_most_likely_tokens():
  """Greedy decoding of an autoregressive chain, found by hand."""
  args = arbitrary_denoise, ARBITRARY, Ancestral(), autoregressive(3), 50
  samples = sample(*args, controls=Controls(temperature=0.0))
  canvas = np.full(3, VOCAB)
  for i in range(3):
    regions = autoregressive(3).regions(i)
    logits = arbitrary(
      ARBITRARY, np.tile(canvas, (64, 1)), sigma=None, regions=regions, settle_step=None
    )
    canvas[i] = np.argmax(logits[0, i])
  np.testing.assert_array_equal(samples.tokens, np.tile(canvas, (50, 1)))


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_temperature_divides_the_logits(temperature):
  """One token: softmax of logits/temperature."""
  params = worlds.arbitrary_params(4, VOCAB, 1)
  logits = np.asarray(params['table'])[0, VOCAB]
  law = np.exp(logits / temperature)
  args = arbitrary_denoise, params, Ancestral(), flat(1, 1)
  samples = sample(*args, controls=Controls(temperature=temperature))
  assert_law(samples.tokens, law / law.sum(), VOCAB)


@pytest.mark.parametrize('eta', [-0.1, 1.1])
def test_eta_outside_the_unit_interval_is_refused(eta):
  with pytest.raises(ValueError, match='eta'):
    AdaptiveCorrection(eta)


def test_ancestral_is_correction_of_strength_zero():
  ours, theirs = (
    sample(arbitrary_denoise, ARBITRARY, stepper, block(LENGTH, 2, 3), 200).tokens
    for stepper in (Ancestral(), AdaptiveCorrection(0.0))
  )
  np.testing.assert_array_equal(ours, theirs)


NETWORK = Transformer(TransformerConfig(vocab_size=11, model_dim=16, num_layers=1, num_heads=2))


@pytest.mark.parametrize(
  'schedule, alignment, context, window',
  [
    (slide(5, 2, 2), 'aligned', 'causal', 'causal'),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (
        (autoregressive(5), 'shifted', 'causal', 'causal'),
        (block(5, 2, 2), 'aligned', 'block_causal', 'full'),
        (flat(5, 3), 'shifted', 'full', 'full'),
      )
    ),
  ],
  **by_name,
)
def test_real_network_samples_without_and_within_jit_alike(schedule, alignment, context, window):
  denoiser = make_denoiser(
    NETWORK, schedule, alignment=alignment, context=context, window=window, bos_id=10, eos_id=0
  )
  params = worlds.random_params(lambda: denoiser.init(jax.random.key(0), 5))
  blank, free = jnp.zeros((3, 5), jnp.int32), jnp.zeros((3, 5), bool)
  args = noise.absorbing(11), AdaptiveCorrection(0.2), schedule
  results = [
    np.asarray(call(denoiser, params, *args, blank, free, worlds.keys(3, 1)).tokens)
    for call in (worlds.generated, generate)
  ]
  assert (results[0] < 11).all()
  np.testing.assert_array_equal(*results)


def test_schedule_may_be_closed_over_by_jit():
  """A constant of the program as well as an argument."""
  args = arbitrary_denoise, ARBITRARY, ABSORBING, Ancestral(), slide(3, 2, 2)
  blank, free = jnp.zeros((3, 3), jnp.int32), jnp.zeros((3, 3), bool)
  closed = jax.jit(lambda keys: generate(*args, blank, free, keys).tokens)
  assert (closed(worlds.keys(3, 1)) < VOCAB).all()
