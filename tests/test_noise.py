"""Noise against explicit (V+1)x(V+1) matrices in float64, and its edges in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import kernel, step_kernel, survivals

from ardiff_jax import noise

VOCAB = 4
STILL = [  # a visible token stays, but for the jump of the ε-hybrid at time 0
  noise.absorbing(VOCAB),
  noise.absorbing(VOCAB, delta=0.1),
  noise.absorbing(VOCAB, delta=0.1, clock='cosine'),
  noise.epsilon_hybrid(VOCAB, epsilon=0.1),
  noise.epsilon_hybrid(VOCAB, epsilon=0.3, delta=0.05),
]
PROCESSES = [
  *STILL,
  noise.uniform(VOCAB),
  noise.uniform(VOCAB, delta=0.1, clock='cosine'),
  noise.gamma_hybrid(VOCAB, gamma=0.1),
  noise.gamma_hybrid(VOCAB, gamma=0.5),
  noise.gamma_hybrid(VOCAB, gamma=0.5, delta=0.1, clock='cosine'),
]
TIMES = [(0.5, 0.25), (0.9, 0.1), (0.3, 0.0), (1.0, 0.75), (1.0, 0.0), (0.51, 0.5)]  # t, s


def p0s(seed=0, n=3):
  return np.random.default_rng(seed).dirichlet(np.ones(VOCAB), size=n)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t', [0.0, 1e-3, 0.4, 0.999, 1.0])
def test_marginal_is_the_closed_form(process, t):
  probs = process.marginal_probs(jnp.arange(VOCAB), t)
  np.testing.assert_allclose(probs, kernel(*survivals(process, t), VOCAB)[:-1], atol=1e-6)
  np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_prior_is_one_law_whatever_the_token(process):
  """All mask; uniform tokens where nothing is ever masked."""
  expected = np.eye(VOCAB + 1)[VOCAB]
  if isinstance(process, noise.Uniform):
    expected = np.array([1 / VOCAB] * VOCAB + [0.0])
  np.testing.assert_array_equal(process.prior_probs(), expected)
  assert process.mask_id == VOCAB
  np.testing.assert_array_equal(
    process.marginal_probs(jnp.arange(VOCAB), 1.0), np.tile(expected, (VOCAB, 1))
  )


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t, s', TIMES)
def test_step_from_s_to_t_composes(process, t, s):
  """Marginals at s pushed through the library's own changes are the marginals at t."""
  change_a, change_b = (float(x) for x in process.changes(t, s))
  at_s = np.asarray(process.marginal_probs(jnp.arange(VOCAB), s), np.float64)
  pushed = at_s @ kernel(1 - change_a, 1 - change_b, VOCAB)
  np.testing.assert_allclose(pushed, process.marginal_probs(jnp.arange(VOCAB), t), atol=1e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t, s', TIMES)
def test_posterior_is_bayes(process, t, s):
  start_to_s = kernel(*survivals(process, s), VOCAB)[:-1]
  forward = step_kernel(process, t, s)
  for p0 in p0s():
    at_s = p0 @ start_to_s
    joint = at_s[:, None] * forward  # x_s by x_t
    for z in range(VOCAB + 1):
      probs = process.posterior_probs(jnp.asarray(p0), jnp.asarray(z), t, s)
      assert np.isfinite(probs).all()
      if joint[:, z].sum() > 0:  # visible tokens have probability zero at t = 1
        np.testing.assert_allclose(probs, joint[:, z] / joint[:, z].sum(), atol=2e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t, s', TIMES)
def test_reveal_prob_is_the_posterior_of_a_mask(process, t, s):
  probs = process.posterior_probs(jnp.asarray(p0s()[0]), jnp.asarray(VOCAB), t, s)
  np.testing.assert_allclose(process.reveal_prob(t, s), 1.0 - probs[-1], atol=1e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_reveal_prob_of_a_short_step_has_no_cancellation(process):
  """A step of two ulps: the plain difference of survivals would be off by up to 100 %."""
  t = np.float32(0.7)
  s = np.nextafter(np.nextafter(t, np.float32(0)), np.float32(0))
  (a_t, _), (a_s, _) = survivals(process, float(t)), survivals(process, float(s))
  exact = (a_s - a_t) / (1.0 - a_t) if a_t < 1.0 else 1.0  # float64: off by 1e-9 at most
  np.testing.assert_allclose(process.reveal_prob(t, s), exact, rtol=1e-5)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('num_levels', [3, 1000, 10_000])
def test_last_step_reveals_every_mask(process, num_levels):
  """Exactly: with a reveal probability of 1 - 1e-5 a mask would be left once in a while."""
  t = jnp.arange(1, num_levels + 1) / num_levels
  np.testing.assert_array_equal(process.reveal_prob(t, 0.0), 1.0)
  jitted = jax.jit(type(process).reveal_prob, static_argnums=0)
  np.testing.assert_array_equal(jitted(process, t, jnp.zeros(num_levels)), 1.0)
  p0 = jnp.tile(p0s()[:1], (num_levels, 1))
  probs = process.posterior_probs(p0, jnp.full(num_levels, VOCAB), t, 0.0)
  np.testing.assert_array_equal(probs[:, VOCAB], 0.0)
  np.testing.assert_allclose(probs[:, :VOCAB], p0, atol=1e-7)


def test_resampling_jumps_at_zero_and_stands_still_after():
  """The ε-hybrid's resampling has no rate: all of it happens before the first time above 0."""
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  assert float(process.changes(0.2, 0.1)[1]) == 0.0
  np.testing.assert_allclose(process.changes(1e-6, 0.0)[1], 0.3)
  assert float(process.survivals(0.0)[1]) == 1.0
  np.testing.assert_allclose(process.survivals(1e-6)[1], 0.7)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t', [0.0, 0.4, 1.0])
def test_sample_frequencies_are_the_marginals(process, t):
  n = 100_000  # standard deviation of a frequency at most 0.0016; bound 0.008 is 5 of them
  x0 = jnp.full(n, 2)
  tokens = process.sample(jax.random.key(1), x0, t)
  frequency = np.bincount(tokens, minlength=VOCAB + 1) / n
  np.testing.assert_allclose(frequency, process.marginal_probs(jnp.asarray(2), t), atol=0.008)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_corrupt_says_which_coin_decided(process):
  n, t = 100_000, 0.4  # standard deviation of a frequency at most 0.0016
  noisy = process.corrupt(jax.random.key(2), jnp.full(n, 2), t)
  keep, unmixed = survivals(process, t)
  tokens, masked, resampled = (np.asarray(x) for x in noisy)
  np.testing.assert_array_equal(masked, tokens == VOCAB)
  assert not (masked & resampled).any()
  np.testing.assert_array_equal(tokens[~masked & ~resampled], 2)
  np.testing.assert_allclose(masked.mean(), 1 - keep, atol=0.008)
  np.testing.assert_allclose(resampled.mean(), keep * (1 - unmixed), atol=0.008)
  if unmixed < 1.0:  # the draw is uniform and may give x_0 back
    n_resampled = resampled.sum()  # at least 5000: standard deviation at most 0.0062
    frequency = np.bincount(tokens[resampled], minlength=VOCAB) / n_resampled
    np.testing.assert_allclose(frequency, 1 / VOCAB, atol=0.03)


def test_coins_of_different_positions_are_independent():
  noisy = noise.epsilon_hybrid(VOCAB, epsilon=0.5).corrupt(
    jax.random.key(3), jnp.zeros((100_000, 2), jnp.int32), 0.5
  )
  both = np.asarray(noisy.masked).all(axis=1).mean()
  np.testing.assert_allclose(both, 0.25, atol=0.007)  # standard deviation 0.0014
  resampled = np.asarray(noisy.resampled).all(axis=1).mean()
  np.testing.assert_allclose(resampled, 1 / 16, atol=0.004)  # standard deviation 0.0008


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('time', [0.0, 0.3, 1.0])
def test_posterior_at_the_same_time_returns_the_token(process, time):
  """Also a mask at t = 0, a state of probability zero."""
  x_t = jnp.arange(VOCAB + 1)
  probs = process.posterior_probs(jnp.tile(p0s()[:1], (VOCAB + 1, 1)), x_t, time, time)
  np.testing.assert_array_equal(probs, np.eye(VOCAB + 1))


@pytest.mark.parametrize('process', STILL, ids=str)
@pytest.mark.parametrize('t, s', [(0.5, 0.25), (1.0, 0.5)])
def test_visible_token_that_cannot_have_been_resampled_stays(process, t, s):
  """Even where the prediction excludes it."""
  p0 = jnp.asarray([0.0, 0.5, 0.5, 0.0])
  for z in (0, 1):
    probs = process.posterior_probs(p0, jnp.asarray(z), t, s)
    np.testing.assert_array_equal(probs, np.eye(VOCAB + 1)[z])


def test_visible_token_that_may_have_been_resampled_is_redrawn():
  """The last step of the ε-hybrid: p ∝ ((1-ε)[y = z] + ε/V)·p0[y], so an excluded token goes."""
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.2)
  p0 = jnp.asarray([0.0, 0.75, 0.25, 0.0])
  excluded = process.posterior_probs(p0, jnp.asarray(0), 0.5, 0.0)
  np.testing.assert_allclose(excluded, [0.0, 0.75, 0.25, 0.0, 0.0], atol=1e-6)
  possible = process.posterior_probs(p0, jnp.asarray(1), 0.5, 0.0)
  expected = np.array([0.0, 0.85 * 0.75, 0.05 * 0.25, 0.0, 0.0])
  np.testing.assert_allclose(possible, expected / expected.sum(), atol=1e-6)


def test_last_step_of_absorbing_noise_keeps_an_excluded_token():
  probs = noise.absorbing(VOCAB).posterior_probs(
    jnp.asarray([0.0, 1.0, 0.0, 0.0]), jnp.asarray(0), 0.5, 0.0
  )
  np.testing.assert_array_equal(probs, np.eye(VOCAB + 1)[0])


@pytest.mark.parametrize('delta', [0.0, 0.05])
@pytest.mark.parametrize('t, s', TIMES)
def test_epsilon_zero_is_absorbing_bit_for_bit(delta, t, s):
  hybrid = noise.epsilon_hybrid(VOCAB, epsilon=0.0, delta=delta)
  absorbing = noise.absorbing(VOCAB, delta=delta)
  x0 = jnp.arange(400) % VOCAB
  for ours, theirs in zip(
    hybrid.corrupt(jax.random.key(5), x0, t),
    absorbing.corrupt(jax.random.key(5), x0, t),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)
  p0 = jnp.tile(p0s()[:1], (VOCAB + 1, 1))
  x_t = jnp.arange(VOCAB + 1)
  np.testing.assert_array_equal(
    hybrid.posterior_probs(p0, x_t, t, s), absorbing.posterior_probs(p0, x_t, t, s)
  )


@pytest.mark.parametrize('clock', noise.CLOCKS)
@pytest.mark.parametrize('delta', [0.0, 0.05])
@pytest.mark.parametrize('gamma, name', [(0.0, 'absorbing'), (1.0, 'uniform')])
def test_gamma_at_its_ends_is_absorbing_and_uniform_bit_for_bit(gamma, name, delta, clock):
  hybrid = noise.gamma_hybrid(VOCAB, gamma, delta, clock)
  pure = getattr(noise, name)(VOCAB, delta, clock)
  t, s = (jnp.asarray(x)[:, None] for x in zip(*TIMES, strict=True))
  x0 = jnp.tile(jnp.arange(400)[None] % VOCAB, (len(TIMES), 1))
  p0 = jnp.tile(jnp.asarray(p0s()[:1])[None], (len(TIMES), VOCAB + 1, 1))
  x_t = jnp.tile(jnp.arange(VOCAB + 1)[None], (len(TIMES), 1))
  pairs = [
    (p.corrupt(jax.random.key(5), x0, t), p.posterior_probs(p0, x_t, t, s), p.survivals(t))
    for p in (hybrid, pure)
  ]
  for ours, theirs in zip(*(jax.tree.leaves(pair) for pair in pairs), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  for ours, theirs in (
    (hybrid.changes(t, s), pure.changes(t, s)),
    (hybrid.rates(0.99 * t), pure.rates(0.99 * t)),  # there is none at t = 1
    (hybrid.prior_probs(), pure.prior_probs()),
  ):
    np.testing.assert_array_equal(ours, theirs)
  assert hybrid.resamples == pure.resamples


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_rates_are_the_derivative_of_the_survivals(process):
  """Central differences of step 1e-5 in float64: relative error of order 1e-7 for t <= 0.95."""
  t, h = np.array([0.02, 0.3, 0.5, 0.8, 0.95]), 1e-5
  with jax.enable_x64(True):
    rates = process.rates(t)
    sigma_rate = process.sigma_rate(t)
    slopes = [
      -(after - before) / (2 * h) / here
      for after, before, here in zip(
        *(process.survivals(x) for x in (t + h, t - h, t)), strict=True
      )
    ]
    sigma_slope = (process.sigma(t + h) - process.sigma(t - h)) / (2 * h)
  for rate, slope in zip(rates, slopes, strict=True):
    assert rate.dtype == np.float64
    np.testing.assert_allclose(rate, slope, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(sigma_rate, sigma_slope, rtol=1e-6)


@pytest.mark.parametrize('gamma', [0.1, 0.5])
def test_cosine_clock_is_precise_near_its_end(gamma):
  """float32 at σ of 5, 9 and 12: survivals, changes and σ to 1e-4 of float64."""
  process = noise.gamma_hybrid(VOCAB, gamma, clock='cosine')
  survival = np.exp(-np.array([5.0, 9.0, 11.9]))
  t = (1 - 4 / np.pi * np.arcsin(np.sqrt(survival / 2))).astype(np.float32)  # 1 - sin = 2 sin²
  zero = np.zeros_like(t)
  ours = process.survivals(t), process.changes(t, zero), (process.sigma(t),)
  with jax.enable_x64(True):
    t, zero = t.astype(np.float64), zero.astype(np.float64)
    exact = 2 * np.sin(np.pi / 4 * (1 - t)) ** 2
  a, b = exact ** (1 - gamma), exact**gamma
  for mine, theirs in zip(ours, ((a, b), (1 - a, 1 - b), (-np.log(exact),)), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_survivals_and_changes_are_the_table_in_float64(process):
  """Changes against plain quotients of survivals, which float64 carries to 1e-15."""
  with jax.enable_x64(True):
    for t, s in [*TIMES, (0.0, 0.0)]:
      expected, before = survivals(process, t), survivals(process, s)
      np.testing.assert_allclose(process.survivals(t), expected, rtol=1e-12)
      np.testing.assert_allclose(
        process.changes(t, s),
        [1 - x / y for x, y in zip(expected, before, strict=True)],
        atol=1e-12,
      )


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_resamples_says_whether_a_token_can_turn_into_another(process):
  """By the marginals, over all times."""
  t = jnp.linspace(0.0, 1.0, 21)
  other = process.marginal_probs(jnp.zeros(21, jnp.int32), t)[:, 1]
  assert process.resamples == bool((other > 0).any())


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_every_position_has_its_own_time(process):
  x0_BxL = jnp.asarray([[0, 1, 2], [3, 3, 0]])
  t_L, s_L = jnp.asarray([1.0, 0.5, 0.0]), jnp.asarray([0.5, 0.0, 0.0])
  marginals = process.marginal_probs(x0_BxL, t_L)
  p0_BxLxV = jnp.tile(p0s()[:1, None], (2, 3, 1))
  start = 1 if isinstance(process, noise.Uniform) else VOCAB
  x_t_BxL = jnp.asarray([[start, start, 2], [start, 3, 0]])
  posteriors = process.posterior_probs(p0_BxLxV, x_t_BxL, t_L, s_L)
  for i in range(3):
    np.testing.assert_allclose(
      marginals[:, i], process.marginal_probs(x0_BxL[:, i], t_L[i]), atol=1e-7
    )
    alone = process.posterior_probs(p0_BxLxV[:, i], x_t_BxL[:, i], t_L[i], s_L[i])
    np.testing.assert_allclose(posteriors[:, i], alone, atol=1e-7)
  drawn = process.sample(jax.random.key(6), jnp.zeros((50, 3), jnp.int32), t_L)
  if isinstance(process, noise.Uniform):
    assert set(np.unique(drawn[:, 0])) == set(range(VOCAB))
  else:
    assert (drawn[:, 0] == VOCAB).all()
  assert (drawn[:, 2] == 0).all()
  assert len(np.unique(drawn[:, 1])) > 1


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_sigma_is_the_clock_clipped_at_twelve(process):
  t = np.array([0.0, 1e-6, 0.5, 0.99])
  decay = np.sin(np.pi / 2 * t) if process.clock == 'cosine' else t
  exact = -np.log(1 - (1 - process.delta) * decay)
  np.testing.assert_allclose(process.sigma(t), exact, rtol=2e-5, atol=1e-9)
  assert float(process.sigma(1.0)) == noise.MAX_SIGMA == 12.0
  near_one = process.sigma(np.float32(1 - 2.0**-24))
  assert np.isfinite(near_one) and float(near_one) <= 12.0
  np.testing.assert_allclose(process.survival(t), np.exp(-exact), rtol=1e-6)


def test_processes_are_hashable_static_arguments():
  assert noise.absorbing(5) == noise.absorbing(5)
  assert hash(noise.epsilon_hybrid(5, 0.1)) == hash(noise.epsilon_hybrid(5, 0.1))
  assert len({*PROCESSES, noise.epsilon_hybrid(VOCAB, 0.1), noise.gamma_hybrid(VOCAB, 0.2)}) == 11
  assert noise.absorbing(5) != noise.epsilon_hybrid(5, 0.0)
  assert noise.uniform(5) != noise.gamma_hybrid(5, 1.0)
  assert noise.uniform(5) != noise.uniform(5, clock='cosine')


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t, s', [*TIMES, (0.0, 0.0), (1.0, 1.0)])
def test_posterior_under_jit(process, t, s):
  """Traced times take the same branches as concrete ones."""
  p0 = jnp.tile(p0s()[:1], (VOCAB + 1, 1))
  x_t = jnp.arange(VOCAB + 1)
  jitted = jax.jit(type(process).posterior_probs, static_argnums=0)
  np.testing.assert_allclose(
    jitted(process, p0, x_t, t, s), process.posterior_probs(p0, x_t, t, s), atol=1e-6
  )


def test_gradient_of_the_posterior_is_finite_at_every_edge():
  """`where` hides a NaN from the value, but not from the gradient."""
  for process in PROCESSES:
    for t, s in [*TIMES, (0.0, 0.0), (1.0, 1.0)]:
      jacobian = jax.jacobian(process.posterior_probs)(
        jnp.asarray([0.0, 0.5, 0.5, 0.0]), jnp.asarray(0), t, s
      )
      assert np.isfinite(jacobian).all(), (process, t, s)


@pytest.mark.parametrize(
  'make, word',
  [
    (lambda: noise.absorbing(0), 'vocab_size'),
    (lambda: noise.absorbing(4, delta=-0.1), 'delta'),
    (lambda: noise.absorbing(4, delta=1.0), 'delta'),
    (lambda: noise.epsilon_hybrid(4, epsilon=-0.1), 'epsilon'),
    (lambda: noise.epsilon_hybrid(4, epsilon=1.1), 'epsilon'),
    (lambda: noise.epsilon_hybrid(0, epsilon=0.1), 'vocab_size'),
    (lambda: noise.uniform(0), 'vocab_size'),
    (lambda: noise.uniform(4, delta=1.0), r'delta .*\[0, 1\).*1\.0'),
    (lambda: noise.gamma_hybrid(4, gamma=-0.1), r'gamma .*\[0, 1\].*-0\.1'),
    (lambda: noise.gamma_hybrid(4, gamma=1.1), r'gamma .*\[0, 1\].*1\.1'),
    (lambda: noise.gamma_hybrid(4, gamma=float('nan')), r'gamma .*\[0, 1\].*nan'),
    (lambda: noise.absorbing(4, clock='linear'), 'clock .*log_linear, cosine.*linear'),
    (lambda: noise.gamma_hybrid(4, 0.1, clock='Cosine'), 'clock .*log_linear, cosine.*Cosine'),
  ],
)
def test_bad_arguments_are_named(make, word):
  with pytest.raises(ValueError, match=word):
    make()


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize(
  'x0, t, words',
  [
    ([0, VOCAB], 0.5, ('x0', '4', '0 to 3')),  # the mask is no clean token
    ([0, -1], 0.5, ('x0', '-1', '0 to 3')),
    ([0, 1], [0.5, 1.25], ('t', '1.25', '0 to 1')),
    ([0, 1], [-0.25, 0.5], ('t', '-0.25', '0 to 1')),
  ],
)
def test_tokens_and_times_out_of_range_are_named(process, x0, t, words):
  """With value and range; not under jit, where values are unknown."""
  x0, t = jnp.asarray(x0), jnp.asarray(t)
  for call in (
    lambda: process.marginal_probs(x0, t),
    lambda: process.sample(jax.random.key(0), x0, t),
    lambda: process.corrupt(jax.random.key(0), x0, t),
  ):
    with pytest.raises(ValueError) as error:
      call()
    assert str(error.value).startswith(words[0] + ' ')
    assert all(word in str(error.value) for word in words)


def test_check_of_ranges_is_left_out_under_jit():
  process = noise.gamma_hybrid(VOCAB, 0.5)
  jitted = jax.jit(type(process).marginal_probs, static_argnums=0)
  assert jitted(process, jnp.asarray([VOCAB]), jnp.asarray(1.5)).shape == (1, VOCAB + 1)


@pytest.mark.parametrize('t, s, word', [(1.5, 0.5, '1.5'), (0.5, -0.25, '-0.25')])
@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_posterior_refuses_times_out_of_range(process, t, s, word):
  with pytest.raises(ValueError, match=f'[ts] must be from 0 to 1, got {word}'):
    process.posterior_probs(jnp.asarray(p0s()[0]), jnp.asarray(0), t, s)
