"""Noise against explicit (V+1)x(V+1) matrices in float64, and its edges in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from worlds import kernel, survivals

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
PAIRS = [*TIMES, (0.5, 0.0), *((t, t) for t in (0.0, 0.3, 1.0))]
T_P, S_P = np.array(PAIRS).T
P0S = np.concatenate(
  [np.random.default_rng(0).dirichlet(np.ones(VOCAB), 3), [[0.0, 0.75, 0.25, 0.0]]]
)
DRAWN_AT = np.array([0.0, 0.4, 0.9, 1.0])
each_process = pytest.mark.parametrize('process', PROCESSES, ids=str)

# What follows is computed once a process, outside jit, for examples whose positions have times of
# their own: one shape for all processes, so that they share the programs of the operations.


@functools.cache
def marginals(process):
  """Times float64[T], and float32[V, T, V+1] for every x_0."""
  times = np.unique([*T_P, *S_P, 1e-3, 0.4, 0.999, *np.linspace(0, 1, 21)])
  x0 = np.tile(np.arange(VOCAB)[:, None], len(times))
  return times, np.asarray(process.marginal_probs(jnp.asarray(x0), jnp.asarray(times)))


def at(process, times):
  """float64[V, P, V+1], marginals at some of those times."""
  every, probs = marginals(process)
  return np.float64(probs[:, np.searchsorted(every, times)])


def states():
  """Every prediction, float32[N * (V+1), P, V], and state, int32[N * (V+1), P], at all PAIRS."""
  n, x_t, _ = (x.reshape(-1, len(PAIRS)) for x in np.indices((len(P0S), VOCAB + 1, len(PAIRS))))
  return jnp.asarray(P0S[n], jnp.float32), jnp.asarray(x_t, jnp.int32)


def by_state(probs):
  """[P, N, V+1, V+1]: by pair of times, prediction and x_t."""
  return np.moveaxis(np.asarray(probs).reshape(len(P0S), VOCAB + 1, len(PAIRS), VOCAB + 1), 2, 0)


@functools.cache
def posteriors(process):
  return by_state(process.posterior_probs(*states(), jnp.asarray(T_P), jnp.asarray(S_P)))


@functools.cache
def traced(process):
  """What `posteriors` gives, of traced times, and the gradient by all predictions."""

  @jax.jit
  def run(p0, x_t, t, s):
    def total(p0):
      probs = process.posterior_probs(p0, x_t, t, s)
      return probs.sum(), probs

    return jax.grad(total, has_aux=True)(p0)

  gradient, probs = run(*states(), jnp.asarray(T_P), jnp.asarray(S_P))
  return by_state(probs), np.asarray(gradient)


@functools.cache
def drawn(process):
  """Of a token 2, [100_000, T], each position at a time of DRAWN_AT."""
  x0 = jnp.full((100_000, len(DRAWN_AT)), 2)
  return jax.tree.map(
    np.asarray, process.corrupt(jax.random.key(1), x0, jnp.asarray(DRAWN_AT, jnp.float32))
  )


@each_process
def test_marginal_is_the_closed_form(process):
  times, probs = marginals(process)
  for i, t in enumerate(times):
    expected = kernel(*survivals(process, t), VOCAB)[:-1]
    np.testing.assert_allclose(probs[:, i], expected, atol=1e-6, err_msg=f't = {t}')
  np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)


@each_process
def test_prior_is_one_law_whatever_the_token(process):
  """All mask; uniform tokens where nothing is ever masked."""
  expected = np.eye(VOCAB + 1)[VOCAB]
  if isinstance(process, noise.Uniform):
    expected = np.array([1 / VOCAB] * VOCAB + [0.0])
  np.testing.assert_array_equal(process.prior_probs(), expected)
  assert process.mask_id == VOCAB
  np.testing.assert_array_equal(at(process, 1.0), np.tile(expected, (VOCAB, 1)))


@each_process
def test_step_from_s_to_t_composes(process):
  """Marginals at s pushed through the library's own changes are the marginals at t."""
  changes = (np.asarray(x) for x in process.changes(jnp.asarray(T_P), jnp.asarray(S_P)))
  for i, (change_a, change_b) in enumerate(zip(*changes, strict=True)):
    t, s = PAIRS[i]
    if s == 1.0:  # nothing is left of x_0 that a quotient could be made of
      continue
    pushed = at(process, s) @ kernel(1 - change_a, 1 - change_b, VOCAB)
    np.testing.assert_allclose(pushed, at(process, t), atol=1e-6, err_msg=f'from {s} to {t}')


@each_process
def test_posterior_is_bayes(process):
  """Every position at times of its own; at s = t, the token, also a mask at t = 0."""
  found = posteriors(process)
  assert np.isfinite(found).all()
  for i, (t, s) in enumerate(PAIRS):
    expected = worlds.posteriors(process, P0S, t, s)
    possible = expected.sum(axis=-1) > 0  # visible tokens have probability zero at t = 1
    np.testing.assert_allclose(
      found[i][possible], expected[possible], atol=2e-6, err_msg=f'from {t} to {s}'
    )
    if s == t:
      np.testing.assert_array_equal(found[i], expected, err_msg=f'at {t}')


@each_process
def test_reveal_prob_is_the_posterior_of_a_mask(process):
  revealed = process.reveal_prob(jnp.asarray(T_P), jnp.asarray(S_P))
  moves = T_P > S_P
  masks = posteriors(process)[moves, 0, VOCAB]
  np.testing.assert_allclose(revealed[moves], 1.0 - masks[:, VOCAB], atol=1e-6)


@each_process
def test_reveal_prob_of_a_short_step_has_no_cancellation(process):
  """Steps of two ulps: the plain difference of survivals would be off by up to 100 %."""
  t = np.full(len(PAIRS), 0.7, np.float32)
  s = np.nextafter(np.nextafter(t, np.float32(0)), np.float32(0))
  (a_t, _), (a_s, _) = survivals(process, float(t[0])), survivals(process, float(s[0]))
  exact = (a_s - a_t) / (1.0 - a_t) if a_t < 1.0 else 1.0  # float64: off by 1e-9 at most
  np.testing.assert_allclose(process.reveal_prob(t, s), exact, rtol=1e-5)


@each_process
def test_last_step_reveals_every_mask(process):
  """Exactly: with a reveal probability of 1 - 1e-5 a mask would be left once in a while.

  Within a program that is XLA's doing, which joins equal expressions where it optimises.
  """
  zeros = jnp.zeros(len(PAIRS))
  np.testing.assert_array_equal(process.reveal_prob(jnp.asarray(T_P), zeros), 1.0)
  last = (S_P == 0.0) & (T_P > 0.0)
  probs = posteriors(process)[last][:, :, VOCAB]
  np.testing.assert_array_equal(probs[..., VOCAB], 0.0)
  np.testing.assert_allclose(probs[..., :VOCAB], np.tile(P0S, (last.sum(), 1, 1)), atol=1e-7)

  @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': '3'})
  def run(p0, x_t, t, s):
    return process.reveal_prob(t, s), process.posterior_probs(p0, x_t, t, s)[:, VOCAB]

  t = np.concatenate([np.arange(1, n + 1) / n for n in (3, 1000, 10_000)])
  p0 = jnp.tile(jnp.asarray(P0S[:1], jnp.float32), (len(t), 1))
  reveal, left = run(p0, jnp.full(len(t), VOCAB), jnp.asarray(t), jnp.zeros(len(t)))
  np.testing.assert_array_equal(reveal, 1.0)
  np.testing.assert_array_equal(left, 0.0)


def test_resampling_jumps_at_zero_and_stands_still_after():
  """The ε-hybrid's resampling has no rate: all of it happens before the first time above 0."""
  process = noise.epsilon_hybrid(VOCAB, epsilon=0.3)
  t, s = np.tile([[0.2, 1e-6], [0.1, 0.0]], len(PAIRS) // 2)
  np.testing.assert_array_equal(process.changes(t, s)[1][0], 0.0)
  np.testing.assert_allclose(process.changes(t, s)[1][1], 0.3)
  np.testing.assert_array_equal(process.survivals(0.0 * t)[1], 1.0)
  np.testing.assert_allclose(process.survivals(t)[1], 0.7)


@each_process
def test_draws_have_the_marginals_and_say_which_coin_decided(process):
  """Each position at a time of its own."""
  n, noisy = 100_000, drawn(process)  # standard deviation of a frequency at most 0.0016
  sampled = process.sample(
    jax.random.key(1), jnp.full(noisy.tokens.shape, 2), jnp.asarray(DRAWN_AT, jnp.float32)
  )
  np.testing.assert_array_equal(sampled, noisy.tokens)
  np.testing.assert_array_equal(noisy.masked, noisy.tokens == VOCAB)
  assert not (noisy.masked & noisy.resampled).any()
  for i, t in enumerate(DRAWN_AT):
    keep, unmixed = survivals(process, t)
    tokens, masked, resampled = (x[:, i] for x in noisy)
    frequency = np.bincount(tokens, minlength=VOCAB + 1) / n
    np.testing.assert_allclose(
      frequency, kernel(keep, unmixed, VOCAB)[2], atol=0.008, err_msg=f't = {t}'
    )
    np.testing.assert_array_equal(tokens[~masked & ~resampled], 2)
    np.testing.assert_allclose(masked.mean(), 1 - keep, atol=0.008, err_msg=f't = {t}')
    np.testing.assert_allclose(resampled.mean(), keep * (1 - unmixed), atol=0.008)
    if resampled.sum() > 5000:  # the draw is uniform and may give x_0 back
      frequency = np.bincount(tokens[resampled], minlength=VOCAB) / resampled.sum()
      np.testing.assert_allclose(frequency, 1 / VOCAB, atol=0.03)  # deviation at most 0.0062
  assert process.resamples == (noisy.resampled.sum() > 5000)


def test_coins_of_different_positions_are_independent():
  process, shape = noise.epsilon_hybrid(VOCAB, epsilon=0.5), (100_000, len(DRAWN_AT))
  half = jnp.full(len(DRAWN_AT), 0.5)
  noisy = process.corrupt(jax.random.key(3), jnp.zeros(shape, jnp.int32), half)
  both = np.asarray(noisy.masked)[:, :2].all(axis=1).mean()
  np.testing.assert_allclose(both, 0.25, atol=0.007)  # standard deviation 0.0014
  resampled = np.asarray(noisy.resampled)[:, :2].all(axis=1).mean()
  np.testing.assert_allclose(resampled, 1 / 16, atol=0.004)  # standard deviation 0.0008


@pytest.mark.parametrize('process', STILL, ids=str)
def test_visible_token_that_cannot_have_been_resampled_stays(process):
  """Even where the prediction excludes it."""
  for i, (t, s) in enumerate(PAIRS):
    if s > 0.0 or not process.resamples:
      stayed = posteriors(process)[i, :, :VOCAB]
      expected = np.tile(np.eye(VOCAB + 1)[:VOCAB], (len(P0S), 1, 1))
      np.testing.assert_array_equal(stayed, expected, err_msg=f'from {t} to {s}')


def test_visible_token_that_may_have_been_resampled_is_redrawn():
  """The last step of the ε-hybrid: p ∝ ((1-ε)[y = z] + ε/V)·p0[y], so an excluded token goes."""
  last = posteriors(noise.epsilon_hybrid(VOCAB, epsilon=0.2))[PAIRS.index((0.5, 0.0)), -1]
  np.testing.assert_allclose(last[0], [0.0, 0.75, 0.25, 0.0, 0.0], atol=1e-6)
  expected = np.array([0.0, 0.85 * 0.75, 0.05 * 0.25, 0.0, 0.0])
  np.testing.assert_allclose(last[1], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize('delta', [0.0, 0.05])
def test_epsilon_zero_is_absorbing_bit_for_bit(delta):
  hybrid = noise.epsilon_hybrid(VOCAB, epsilon=0.0, delta=delta)
  absorbing = noise.absorbing(VOCAB, delta=delta)
  for ours, theirs in zip(drawn(hybrid), drawn(absorbing), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_array_equal(posteriors(hybrid), posteriors(absorbing))


@pytest.mark.parametrize('clock', noise.CLOCKS)
@pytest.mark.parametrize('delta', [0.0, 0.05])
@pytest.mark.parametrize('gamma, name', [(0.0, 'absorbing'), (1.0, 'uniform')])
def test_gamma_at_its_ends_is_absorbing_and_uniform_bit_for_bit(gamma, name, delta, clock):
  hybrid = noise.gamma_hybrid(VOCAB, gamma, delta, clock)
  pure = getattr(noise, name)(VOCAB, delta, clock)
  t, s = jnp.asarray(T_P), jnp.asarray(S_P)
  pairs = [
    (
      *(drawn(p), posteriors(p), p.survivals(t), p.changes(t, s), p.prior_probs()),
      p.rates(jnp.asarray(0.99 * T_P)),  # there is none at t = 1
    )
    for p in (hybrid, pure)
  ]
  for ours, theirs in zip(*(jax.tree.leaves(pair) for pair in pairs), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert hybrid.resamples == pure.resamples


@each_process
def test_rates_are_the_derivative_of_the_survivals(process):
  """Central differences of step 1e-5 in float64: relative error of order 1e-7 for t <= 0.95."""
  t, h = np.linspace(0.02, 0.95, len(PAIRS)), 1e-5
  with jax.enable_x64(True):
    rates = process.rates(t)
    sigma_rate = process.sigma_rate(t)
    slopes = [
      -(np.asarray(after) - before) / (2 * h) / here
      for after, before, here in zip(
        *(process.survivals(x) for x in (t + h, t - h, t)), strict=True
      )
    ]
    sigma_slope = (np.asarray(process.sigma(t + h)) - process.sigma(t - h)) / (2 * h)
  for rate, slope in zip(rates, slopes, strict=True):
    assert rate.dtype == np.float64
    np.testing.assert_allclose(rate, slope, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(sigma_rate, sigma_slope, rtol=1e-6)


@pytest.mark.parametrize('gamma', [0.1, 0.5])
def test_cosine_clock_is_precise_near_its_end(gamma):
  """float32 at σ from 5 to 11.9: survivals, changes and σ to 1e-4 of float64."""
  process = noise.gamma_hybrid(VOCAB, gamma, clock='cosine')
  survival = np.exp(-np.linspace(5.0, 11.9, len(PAIRS)))
  t = (1 - 4 / np.pi * np.arcsin(np.sqrt(survival / 2))).astype(np.float32)  # 1 - sin = 2 sin²
  ours = process.survivals(t), process.changes(t, np.zeros_like(t)), (process.sigma(t),)
  exact = 2 * np.sin(np.pi / 4 * (1 - t.astype(np.float64))) ** 2
  a, b = exact ** (1 - gamma), exact**gamma
  for mine, theirs in zip(ours, ((a, b), (1 - a, 1 - b), (-np.log(exact),)), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)


@each_process
def test_survivals_and_changes_are_the_table_in_float64(process):
  """Changes against plain quotients of survivals, which float64 carries to 1e-15."""
  with jax.enable_x64(True):
    survived, changed = (np.stack(x) for x in (process.survivals(T_P), process.changes(T_P, S_P)))
  for i, (t, s) in enumerate(PAIRS):
    if s == 1.0:
      continue
    expected, before = survivals(process, t), survivals(process, s)
    np.testing.assert_allclose(survived[:, i], expected, rtol=1e-12, err_msg=f't = {t}')
    quotients = [1 - x / y for x, y in zip(expected, before, strict=True)]
    np.testing.assert_allclose(changed[:, i], quotients, atol=1e-12, err_msg=f'from {s} to {t}')


@each_process
def test_resamples_says_whether_a_token_can_turn_into_another(process):
  """By the marginals, over all times."""
  assert process.resamples == bool((marginals(process)[1][0, :, 1] > 0).any())


@each_process
def test_sigma_is_the_clock_clipped_at_twelve(process):
  t = np.array([0.0, 1e-6, *np.linspace(0.5, 0.99, len(PAIRS) - 4), 1 - 2.0**-24, 1.0])
  decay = np.sin(np.pi / 2 * t) if process.clock == 'cosine' else t
  with np.errstate(divide='ignore'):
    exact = -np.log(1 - (1 - process.delta) * decay)
  sigma, survival = np.asarray(process.sigma(t)), np.asarray(process.survival(t))
  np.testing.assert_allclose(sigma[:-2], exact[:-2], rtol=2e-5, atol=1e-9)
  np.testing.assert_allclose(survival[:-2], np.exp(-exact[:-2]), rtol=1e-6)
  assert np.isfinite(sigma[-2]) and sigma[-2] <= 12.0
  assert sigma[-1] == noise.MAX_SIGMA == 12.0


def test_processes_are_hashable_static_arguments():
  assert noise.absorbing(5) == noise.absorbing(5)
  assert hash(noise.epsilon_hybrid(5, 0.1)) == hash(noise.epsilon_hybrid(5, 0.1))
  assert len({*PROCESSES, noise.epsilon_hybrid(VOCAB, 0.1), noise.gamma_hybrid(VOCAB, 0.2)}) == 11
  assert noise.absorbing(5) != noise.epsilon_hybrid(5, 0.0)
  assert noise.uniform(5) != noise.gamma_hybrid(5, 1.0)
  assert noise.uniform(5) != noise.uniform(5, clock='cosine')


@each_process
def test_posterior_under_jit(process):
  """Traced times take the same branches as concrete ones."""
  np.testing.assert_allclose(traced(process)[0], posteriors(process), atol=1e-6)


@each_process
def test_gradient_of_the_posterior_is_finite_at_every_edge(process):
  """`where` hides a NaN from the value, but not from the gradient."""
  assert np.isfinite(traced(process)[1]).all()


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


@pytest.mark.parametrize(
  'x0, t, words',
  [
    ([0, VOCAB], 0.5, ('x0', '4', '0 to 3')),  # the mask is no clean token
    ([0, -1], 0.5, ('x0', '-1', '0 to 3')),
    ([0, 1], [0.5, 1.25], ('t', '1.25', '0 to 1')),
    ([0, 1], [-0.25, 0.5], ('t', '-0.25', '0 to 1')),
  ],
)
def test_tokens_and_times_out_of_range_are_named(x0, t, words):
  """With value and range; not under jit, where values are unknown."""
  x0, t, key = jnp.asarray(x0), jnp.asarray(t), jax.random.key(0)
  for process in PROCESSES:
    for call in (
      process.marginal_probs,
      *(functools.partial(f, key) for f in (process.sample, process.corrupt)),
    ):
      with pytest.raises(ValueError) as error:
        call(x0, t)
      assert str(error.value).startswith(words[0] + ' '), (process, call)
      assert all(word in str(error.value) for word in words), (process, call)


def test_check_of_ranges_is_left_out_under_jit():
  process = noise.gamma_hybrid(VOCAB, 0.5)
  jitted = jax.jit(type(process).marginal_probs, static_argnums=0)
  assert jitted(process, jnp.asarray([VOCAB]), jnp.asarray(1.5)).shape == (1, VOCAB + 1)


@pytest.mark.parametrize('t, s, word', [(1.5, 0.5, '1.5'), (0.5, -0.25, '-0.25')])
def test_posterior_refuses_times_out_of_range(t, s, word):
  for process in PROCESSES:
    with pytest.raises(ValueError, match=f'[ts] must be from 0 to 1, got {word}'):
      process.posterior_probs(P0S[0], jnp.asarray(0), t, s)
