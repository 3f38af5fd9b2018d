"""Noise against explicit (V+1)x(V+1) matrices in float64, and its edges in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import kernel

from ardiff_jax import noise

VOCAB = 4
PROCESSES = [
  noise.absorbing(VOCAB),
  noise.absorbing(VOCAB, delta=0.1),
  noise.epsilon_hybrid(VOCAB, epsilon=0.1),
  noise.epsilon_hybrid(VOCAB, epsilon=0.3, delta=0.05),
]
TIMES = [(0.5, 0.25), (0.9, 0.1), (0.3, 0.0), (1.0, 0.75), (1.0, 0.0), (0.51, 0.5)]  # t, s


def survivals(process, t):
  """A(t) and B(t) of the table of processes."""
  epsilon = getattr(process, 'epsilon', 0.0)
  keep = 1.0 - (1.0 - process.delta) * t if t < 1.0 else 0.0
  return keep, 1.0 - epsilon if t > 0.0 else 1.0


def step_kernel(process, t, s):
  """The matrix from time s to t, from the quotients of the survivals."""
  (a_t, b_t), (a_s, b_s) = survivals(process, t), survivals(process, s)
  return kernel(a_t / a_s, b_t / b_s, process.vocab_size)


def p0s(seed=0, n=3):
  return np.random.default_rng(seed).dirichlet(np.ones(VOCAB), size=n)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t', [0.0, 1e-3, 0.4, 0.999, 1.0])
def test_marginal_is_the_closed_form(process, t):
  probs = process.marginal_probs(jnp.arange(VOCAB), t)
  np.testing.assert_allclose(probs, kernel(*survivals(process, t), VOCAB)[:-1], atol=1e-6)
  np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_prior_is_the_mask_and_nothing_else(process):
  np.testing.assert_array_equal(process.prior_probs(), np.eye(VOCAB + 1)[VOCAB])
  assert process.mask_id == VOCAB
  np.testing.assert_array_equal(  # whatever x_0
    process.marginal_probs(jnp.arange(VOCAB), 1.0), np.tile(np.eye(VOCAB + 1)[VOCAB], (VOCAB, 1))
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
  clock = 1.0 - process.delta
  exact = clock * (float(t) - float(s)) / (clock * float(t))
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


@pytest.mark.parametrize('process', PROCESSES, ids=str)
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


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_every_position_has_its_own_time(process):
  x0_BxL = jnp.asarray([[0, 1, 2], [3, 3, 0]])
  t_L, s_L = jnp.asarray([1.0, 0.5, 0.0]), jnp.asarray([0.5, 0.0, 0.0])
  marginals = process.marginal_probs(x0_BxL, t_L)
  p0_BxLxV = jnp.tile(p0s()[:1, None], (2, 3, 1))
  x_t_BxL = jnp.asarray([[4, 4, 2], [4, 3, 0]])
  posteriors = process.posterior_probs(p0_BxLxV, x_t_BxL, t_L, s_L)
  for i in range(3):
    np.testing.assert_allclose(
      marginals[:, i], process.marginal_probs(x0_BxL[:, i], t_L[i]), atol=1e-7
    )
    alone = process.posterior_probs(p0_BxLxV[:, i], x_t_BxL[:, i], t_L[i], s_L[i])
    np.testing.assert_allclose(posteriors[:, i], alone, atol=1e-7)
  drawn = process.sample(jax.random.key(6), jnp.zeros((50, 3), jnp.int32), t_L)
  assert (drawn[:, 0] == VOCAB).all() and (drawn[:, 2] == 0).all()
  assert len(np.unique(drawn[:, 1])) > 1


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_sigma_is_the_clock_clipped_at_twelve(process):
  t = np.array([0.0, 1e-6, 0.5, 0.99])
  exact = -np.log(1 - (1 - process.delta) * t)
  np.testing.assert_allclose(process.sigma(t), exact, rtol=2e-5, atol=1e-9)
  assert float(process.sigma(1.0)) == noise.MAX_SIGMA == 12.0
  near_one = process.sigma(np.float32(1 - 2.0**-24))
  assert np.isfinite(near_one) and float(near_one) <= 12.0
  np.testing.assert_allclose(process.survival(t), np.exp(-exact), rtol=1e-6)


def test_processes_are_hashable_static_arguments():
  assert noise.absorbing(5) == noise.absorbing(5)
  assert hash(noise.epsilon_hybrid(5, 0.1)) == hash(noise.epsilon_hybrid(5, 0.1))
  assert len({*PROCESSES, noise.epsilon_hybrid(VOCAB, 0.1), noise.epsilon_hybrid(VOCAB, 0.2)}) == 5
  assert noise.absorbing(5) != noise.epsilon_hybrid(5, 0.0)


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
  ],
)
def test_bad_arguments_are_named(make, word):
  with pytest.raises(ValueError, match=word):
    make()
