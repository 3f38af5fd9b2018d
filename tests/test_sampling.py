"""Samplers against the law of their own Markov chain, and draws against the exact CDF."""

import functools

import flax.linen as nn
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


@pytest.mark.parametrize('vocab_size', [3, 256, 257, 5000])
def test_inverse_cdf_is_searchsorted(vocab_size):
  """Equal, or off by a rounding of the CDF: 2 in 10^7 a block, some 10^-6 in all."""
  logits = logits_with_holes(0, vocab_size)
  uniform = np.random.default_rng(1).random(4000, np.float32)
  ours = np.asarray(draws.inverse_cdf(jnp.tile(jnp.asarray(logits), (4000, 1)), uniform))
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
    meet = exact_cdf(logits).astype(np.float32)
    uniform = np.concatenate([meet, np.nextafter(meet, 0), np.nextafter(meet, 1), [0.0, LAST]])
    uniform = jnp.asarray(np.clip(uniform, 0.0, LAST).astype(np.float32))
    ours = np.asarray(jax.vmap(lambda u, x=logits: draws.inverse_cdf(jnp.asarray(x), u))(uniform))
    assert np.isfinite(logits[ours]).all()
    possible = np.flatnonzero(np.isfinite(logits))
    assert ours[-2] == possible[0]
    assert exact_cdf(logits)[ours[-1]] > 1 - 1e-6  # the last of more than rounding's weight


@pytest.mark.parametrize('vocab_size', [256, 5000])
def test_inverse_cdf_survives_rounding_past_the_end(vocab_size):
  """The largest uniform times one rounding of the sum may exceed another rounding of it."""
  logits = np.random.default_rng(0).standard_normal((1000, vocab_size)).astype(np.float32)
  logits[:, vocab_size // 2 :] = -np.inf
  ours = np.asarray(draws.inverse_cdf(jnp.asarray(logits), jnp.full(1000, LAST)))
  assert (ours < vocab_size // 2).all()


def test_inverse_cdf_of_a_certain_token():
  logits = jnp.full((1000,), -jnp.inf).at[700].set(-3.0)
  for u in (0.0, 0.5, LAST):
    assert int(draws.inverse_cdf(logits, jnp.asarray(u, jnp.float32))) == 700


def test_inverse_cdf_takes_any_leading_axes():
  logits = jax.random.normal(jax.random.key(0), (2, 5, 300))
  uniform = jax.random.uniform(jax.random.key(1), (2, 5))
  ours = draws.inverse_cdf(logits, uniform)
  assert ours.shape == (2, 5) and ours.dtype == jnp.int32
  for b, i in np.ndindex(2, 5):
    assert int(ours[b, i]) == int(draws.inverse_cdf(logits[b, i], uniform[b, i]))


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
  draw = jax.jit(
    lambda logits: jax.lax.map(
      lambda u: draws.inverse_cdf(jnp.broadcast_to(logits[None], (batch, vocab_size)), u), grid
    )
  )
  counts = np.bincount(np.asarray(draw(jnp.asarray(logits))).reshape(-1), minlength=vocab_size)
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum()
  edges = np.arange(0, vocab_size, 500)
  block_error = np.add.reduceat(counts / n - probs, edges)
  assert 0.5 * np.abs(block_error).sum() < 1e-3
  assert np.abs(counts - n * probs).max() < 5
  cross = -(counts / n * np.log(probs)).sum()  # an unbiased look at the entropy of what is drawn
  np.testing.assert_allclose(cross, -(probs * np.log(probs)).sum(), atol=2e-3)


@pytest.mark.slow
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


@functools.partial(jax.jit, static_argnums=(0, 2, 3), static_argnames=('trace',))
def run(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs):
  return generate(denoise, params, process, stepper, schedule, tokens, given, keys, **kwargs)


def sample(denoise, params, stepper, schedule, n, seed=0, **kwargs):
  """Unconditional samples of `n` keys."""
  blank = jnp.zeros((n, schedule.length), jnp.int32)
  keys = jax.random.split(jax.random.key(seed), n)
  process = kwargs.pop('process', ABSORBING)
  return run(
    denoise, params, process, stepper, schedule, blank, jnp.zeros(blank.shape, bool), keys, **kwargs
  )


def assert_law(tokens, law_N, vocab_size):
  """Chi-square test at a fixed seed, 0.999 quantile: one seed in a thousand would fail."""
  counts = np.bincount(worlds.index_of(tokens, vocab_size), minlength=len(law_N))
  expected = law_N / law_N.sum() * counts.sum()
  assert expected.min() > 5
  statistic = ((counts - expected) ** 2 / expected).sum()
  assert statistic < scipy.stats.chi2.ppf(0.999, len(law_N) - 1), statistic


@pytest.mark.parametrize(
  'schedule', [autoregressive(3), block(3, 1, 1), block(3, 1, 3), slide(3, 1, 2)], **by_name
)
def test_one_token_at_a_time_reproduces_the_world(schedule):
  tokens = sample(exact_denoise, EXACT, Ancestral(), schedule, 20_000).tokens
  assert_law(tokens, JOINT.reshape(-1), VOCAB)


@pytest.mark.parametrize(
  'denoise, params', [(exact_denoise, EXACT), (arbitrary_denoise, ARBITRARY)], ids=['exact', 'any']
)
@pytest.mark.parametrize(
  'schedule, eta',
  [
    (flat(3, 2), 0.0),
    (block(3, 2, 2), 0.0),
    (slide(3, 2, 2), 0.0),
    (slide(3, 3, 2), 0.5),  # levels that stand still are corrected too
    (flat(3, 3), 0.3),
    (block(3, 2, 3), 1.0),
  ],
  **by_name,
)
def test_samples_follow_the_law_of_their_own_chain(denoise, params, schedule, eta):
  tokens = sample(denoise, params, AdaptiveCorrection(eta), schedule, 20_000).tokens
  assert_law(tokens, worlds.chain_law(denoise, params, schedule, VOCAB, eta), VOCAB)


def test_correction_of_two_tokens_by_eta():
  """ACS, η = 0.3, flat T = 3, V = L = 2. The law without correction is 0.012 away in total
  variation; 60,000 samples tell the two apart (chi-square of 75 for a quantile of 16)."""
  params = worlds.arbitrary_params(0, 2, 2)
  process = noise.absorbing(2)
  tokens = sample(
    arbitrary_denoise, params, AdaptiveCorrection(0.3), flat(2, 3), 60_000, process=process
  ).tokens
  assert_law(tokens, worlds.chain_law(arbitrary_denoise, params, flat(2, 3), 2, 0.3), 2)
  with pytest.raises(AssertionError):
    assert_law(tokens, worlds.chain_law(arbitrary_denoise, params, flat(2, 3), 2), 2)


RESAMPLING = [
  noise.uniform(VOCAB),
  noise.gamma_hybrid(VOCAB, 0.5),
  noise.gamma_hybrid(VOCAB, 0.2, delta=0.1, clock='cosine'),
  noise.epsilon_hybrid(VOCAB, 0.3),
]


@pytest.mark.parametrize(
  'process, schedule',
  [
    (RESAMPLING[0], flat(3, 3)),
    (RESAMPLING[0], block(3, 2, 2)),
    (RESAMPLING[1], flat(3, 2)),
    (RESAMPLING[1], block(3, 2, 2)),
    (RESAMPLING[2], hybrid(3, 2, 2)),
    (RESAMPLING[3], flat(3, 3)),
  ],
  ids=lambda x: getattr(x, 'name', str(x)),
)
def test_ancestral_samples_follow_the_chain_of_the_posteriors(process, schedule):
  """Of every process that resamples, for a network that knows nothing; no mask is left."""
  tokens = sample(arbitrary_denoise, ARBITRARY, Ancestral(), schedule, 20_000, process=process)
  tokens = np.asarray(tokens.tokens)
  assert ((tokens >= 0) & (tokens < VOCAB)).all()
  assert_law(tokens, worlds.process_law(arbitrary_denoise, ARBITRARY, process, schedule), VOCAB)


def test_laws_of_the_processes_differ_by_more_than_the_test_of_them_forgives():
  """Samples of one process are refused by the law of another."""
  schedule = flat(3, 2)
  tokens = sample(
    arbitrary_denoise, ARBITRARY, Ancestral(), schedule, 20_000, process=RESAMPLING[1]
  ).tokens
  for other in (ABSORBING, RESAMPLING[0]):
    law = worlds.process_law(arbitrary_denoise, ARBITRARY, other, schedule)
    with pytest.raises(AssertionError):
      assert_law(tokens, law, VOCAB)


def test_uniform_noise_starts_from_uniform_tokens():
  """The canvas the network is first shown, given tokens apart: chi-square over all canvases."""
  seen = []

  @worlds.World
  def watching(params, canvas, **shown):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), canvas, ordered=True)
    return arbitrary_denoise(params, canvas, **shown)

  n = 5000
  given = jnp.tile(jnp.asarray([[False, True, False]]), (n, 1))
  keys = jax.random.split(jax.random.key(2), n)
  run(
    watching,
    ARBITRARY,
    noise.uniform(VOCAB),
    Ancestral(),
    flat(3, 2),
    jnp.full((n, 3), 2),
    given,
    keys,
  )
  jax.effects_barrier()
  assert len(seen) == 2
  assert (seen[0][:, 1] == 2).all()
  assert_law(seen[0][:, [0, 2]], np.ones(VOCAB**2), VOCAB)


@pytest.mark.parametrize('process', RESAMPLING[:2], ids=str)
def test_given_tokens_never_change_under_noise_that_resamples(process):
  given = np.tile(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]], bool), (200, 1))
  tokens = np.random.default_rng(0).integers(0, VOCAB, given.shape)
  keys = jax.random.split(jax.random.key(0), len(given))
  samples = run(
    arbitrary_denoise,
    ARBITRARY,
    process,
    Ancestral(),
    flat(3, 4),
    tokens,
    given,
    keys,
    trace=10**6,
  )
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
  step = Step(
    canvas=jnp.asarray(rng.integers(0, VOCAB + (gamma == 0), (n, 3))),
    movable=jnp.ones((n, 3), bool),
    t=jnp.asarray([[1.0, 0.7, 0.4]]),
    s=jnp.asarray([[0.7, 0.4, 0.0]]),
    coin=jnp.asarray(rng.random((n, 3)), jnp.float32),
    uniform=jnp.asarray(rng.random((n, 3)), jnp.float32),
    dice=None,
  )
  logits = jnp.asarray(rng.standard_normal((n, 3, VOCAB)), jnp.float32)

  def moved(process):
    stepper = Ancestral()
    decision = stepper.decide(process, step)
    if decision is None:
      return stepper.move(process, step, logits, lambda x: x).tokens
    return jnp.where(decision.redraw, draws.inverse_cdf(logits, step.uniform), step.canvas)

  ours, theirs = (moved(p) for p in (noise.gamma_hybrid(VOCAB, gamma), pure))
  np.testing.assert_array_equal(ours, theirs)
  assert (ours != step.canvas).any(axis=0).all()


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 4), slide(3, 2, 3)], **by_name)
@pytest.mark.parametrize('eta', [0.0, 0.5])
@pytest.mark.parametrize('delta', [0.0, 0.05])
def test_no_mask_is_left_and_the_trace_ends_with_the_result(schedule, eta, delta):
  samples = sample(
    arbitrary_denoise,
    ARBITRARY,
    AdaptiveCorrection(eta),
    schedule,
    5000,
    trace=10**6,
    process=noise.absorbing(VOCAB, delta),
  )
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


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 4), slide(3, 2, 3)], **by_name)
def test_given_tokens_never_change_whatever_their_number(schedule):
  """Prompts of 0 to 3 tokens, and an infill, in one batch; correction is as strong as can be."""
  given = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]], bool)
  given = np.tile(given, (200, 1))
  tokens = np.random.default_rng(0).integers(0, VOCAB, given.shape)
  keys = jax.random.split(jax.random.key(0), len(given))
  samples = run(
    arbitrary_denoise,
    ARBITRARY,
    ABSORBING,
    AdaptiveCorrection(1.0),
    schedule,
    tokens,
    given,
    keys,
    trace=10**6,
  )
  for canvas in np.asarray(samples.trace):
    np.testing.assert_array_equal(canvas[given], tokens[given])
  assert (samples.tokens < VOCAB).all()
  for i in range(3):
    assert len(np.unique(np.asarray(samples.tokens)[~given[:, i], i])) == VOCAB


def test_what_follows_a_prompt_is_the_worlds_conditional():
  n = 20_000
  tokens = jnp.tile(jnp.asarray([[2, 0, 0]]), (n, 1))
  given = jnp.tile(jnp.asarray([[True, False, False]]), (n, 1))
  keys = jax.random.split(jax.random.key(0), n)
  samples = run(
    exact_denoise, EXACT, ABSORBING, Ancestral(), autoregressive(3), tokens, given, keys
  )
  assert_law(samples.tokens[:, 1:], JOINT[2].reshape(-1), VOCAB)


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
  given = jnp.asarray([[False, True, False], [False, False, False]])
  keys = jax.random.split(jax.random.key(0), 2)
  run(watching, ARBITRARY, ABSORBING, Analytic(), schedule, jnp.ones((2, 3), int), given, keys)
  jax.effects_barrier()
  assert len(seen) == schedule.num_steps
  for step, (canvas, sigma, regions) in enumerate(seen):
    assert canvas[0, 1] == 1 and sigma[0, 1] == 0.0
    expected = ABSORBING.sigma(schedule.levels[step] / schedule.num_levels)
    np.testing.assert_allclose(sigma[1], expected, rtol=1e-5)
    np.testing.assert_allclose(sigma[0, [0, 2]], expected[jnp.asarray([0, 2])], rtol=1e-5)
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
  keys = jax.random.split(jax.random.key(0), 2)
  samples = run(
    arbitrary_denoise,
    ARBITRARY,
    ABSORBING,
    Analytic(),
    schedule,
    jnp.ones((2, 3), int),
    given,
    keys,
  )
  assert int(samples.network_calls) == calls


@pytest.mark.parametrize('schedule', [flat(3, 20), block(3, 2, 9), slide(3, 2, 6)], **by_name)
@pytest.mark.parametrize('n', [1, 5])
def test_network_is_called_only_where_a_token_is_to_be_drawn(schedule, n):
  """By steppers that can tell beforehand: at most once a position, whatever the steps."""
  for seed in range(5):
    samples = sample(arbitrary_denoise, ARBITRARY, Ancestral(), schedule, n, seed=seed, trace=10**6)
    before = np.concatenate([np.full((1, n, 3), VOCAB), samples.trace[:-1]])
    drew = (samples.trace != before).any(axis=(1, 2))
    assert int(samples.network_calls) == drew.sum() <= 3 * n


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 4), slide(3, 2, 3)], **by_name)
def test_sample_depends_on_its_own_key_only(schedule):
  """The same key in another batch, at another place, among other neighbours and prompts."""
  keys = jax.random.split(jax.random.key(7), 40)
  blank = jnp.zeros((40, 3), jnp.int32)
  call = functools.partial(
    run, arbitrary_denoise, ARBITRARY, ABSORBING, AdaptiveCorrection(0.5), schedule
  )
  whole = np.asarray(call(blank, jnp.zeros((40, 3), bool), jax.random.clone(keys)).tokens)
  assert len(np.unique(whole, axis=0)) > 5
  chosen = np.array([31, 2, 17])
  given = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
  again = call(blank[:3], jnp.asarray(given), jax.random.clone(keys)[chosen]).tokens
  np.testing.assert_array_equal(again[:2], whole[chosen[:2]])


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 3), slide(3, 2, 3)], **by_name)
@pytest.mark.parametrize('eta', [0.0, 0.4])
def test_scan_is_a_python_loop(schedule, eta):
  """Row by row: two uniforms a place of the window, from the example's key folded by the row."""
  n, stepper = 64, AdaptiveCorrection(eta)
  given = np.arange(3)[None] < np.random.default_rng(0).integers(0, 3, n)[:, None]
  tokens = np.random.default_rng(1).integers(0, VOCAB, (n, 3))
  keys = jax.random.split(jax.random.key(3), n)
  ours = run(
    arbitrary_denoise,
    ARBITRARY,
    ABSORBING,
    stepper,
    schedule,
    tokens,
    given,
    jax.random.clone(keys),
  )
  canvas = np.where(given, tokens, VOCAB)
  for step in range(schedule.num_steps):
    t_L = schedule.levels[step] / np.float32(schedule.num_levels)
    s_L = schedule.levels[step + 1] / np.float32(schedule.num_levels)
    regions = schedule.regions(step)
    logits = arbitrary_denoise(
      ARBITRARY, jnp.asarray(canvas), sigma=None, regions=jnp.asarray(regions), settle_step=None
    )
    active = np.flatnonzero(regions == Region.ACTIVE)
    shape = 2, schedule.window_size
    uniforms = np.zeros((n, 2, 3), np.float32)
    uniforms[:, :, active] = np.stack(
      [jax.random.uniform(rng.stream(jax.random.clone(k), 'step', step), shape) for k in keys]
    )[:, :, : len(active)]
    decision = stepper.decide(
      ABSORBING,
      Step(
        canvas=jnp.asarray(canvas),
        movable=(regions == Region.ACTIVE)[None] & ~given,
        t=jnp.asarray(t_L)[None],
        s=jnp.asarray(s_L)[None],
        coin=jnp.asarray(uniforms[:, 0]),
        uniform=jnp.asarray(uniforms[:, 1]),
        dice=None,
      ),
    )
    drawn = draws.inverse_cdf(logits, jnp.asarray(uniforms[:, 1]))
    redraw = decision.redraw & (regions == Region.ACTIVE)[None] & ~given
    canvas = np.where(redraw, drawn, canvas)
  np.testing.assert_array_equal(ours.tokens, canvas)


def test_low_temperature_gives_the_most_likely_tokens():
  """Greedy decoding of an autoregressive chain, found by hand."""
  samples = sample(
    arbitrary_denoise,
    ARBITRARY,
    Ancestral(),
    autoregressive(3),
    50,
    controls=Controls(temperature=0.0),
  )
  canvas = np.full(3, VOCAB)
  for i in range(3):
    logits = arbitrary_denoise(
      ARBITRARY,
      jnp.asarray(canvas[None]),
      sigma=None,
      regions=jnp.asarray(autoregressive(3).regions(i)),
      settle_step=None,
    )
    canvas[i] = np.argmax(logits[0, i])
  np.testing.assert_array_equal(samples.tokens, np.tile(canvas, (50, 1)))


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_temperature_divides_the_logits(temperature):
  """One token: softmax of logits/temperature."""
  params = worlds.arbitrary_params(4, VOCAB, 1)
  logits = np.asarray(params['table'])[0, VOCAB]
  law = np.exp(logits / temperature)
  samples = sample(
    arbitrary_denoise,
    params,
    Ancestral(),
    flat(1, 1),
    20_000,
    controls=Controls(temperature=temperature),
  )
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
    (autoregressive(5), 'shifted', 'causal', 'causal'),
    (block(5, 2, 2), 'aligned', 'block_causal', 'full'),
    (slide(5, 2, 2), 'aligned', 'causal', 'causal'),
    (flat(5, 3), 'shifted', 'full', 'full'),
  ],
  **by_name,
)
def test_real_network_samples_without_and_within_jit_alike(schedule, alignment, context, window):
  denoiser = make_denoiser(
    NETWORK, schedule, alignment=alignment, context=context, window=window, bos_id=10, eos_id=0
  )
  params = nn.meta.unbox(denoiser.init(jax.random.key(0), 5))
  keys = jax.random.split(jax.random.key(1), 3)
  blank, free = jnp.zeros((3, 5), jnp.int32), jnp.zeros((3, 5), bool)
  results = [
    call(
      denoiser,
      params,
      noise.absorbing(11),
      AdaptiveCorrection(0.2),
      schedule,
      blank,
      free,
      jax.random.clone(keys),
    ).tokens
    for call in (run, generate)
  ]
  assert (results[0] < 11).all()
  np.testing.assert_array_equal(*results)


def test_schedule_may_be_closed_over_by_jit():
  """A constant of the program as well as an argument."""
  keys = jax.random.split(jax.random.key(1), 3)
  closed = jax.jit(
    lambda keys: (
      generate(
        arbitrary_denoise,
        ARBITRARY,
        ABSORBING,
        Ancestral(),
        slide(3, 2, 2),
        jnp.zeros((3, 3), jnp.int32),
        jnp.zeros((3, 3), bool),
        keys,
      ).tokens
    )
  )
  assert (closed(keys) < VOCAB).all()
