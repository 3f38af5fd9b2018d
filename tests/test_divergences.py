"""Divergences against brute force in float64, float32 against float64, and what they hold live."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import worlds

from ardiff_jax import divergences, noise

VOCAB = 4
RATED = [  # processes whose resampling has a rate
  noise.absorbing(VOCAB),
  noise.uniform(VOCAB),
  noise.uniform(VOCAB, delta=0.1, clock='cosine'),
  noise.gamma_hybrid(VOCAB, 0.1),
  noise.gamma_hybrid(VOCAB, 0.5, delta=0.05),
  noise.gamma_hybrid(VOCAB, 0.9, clock='cosine'),
]
PROCESSES = [
  *RATED,
  noise.absorbing(VOCAB, delta=0.1),
  noise.epsilon_hybrid(VOCAB, 0.1),
  noise.epsilon_hybrid(VOCAB, 0.3, delta=0.05),
]
# A law over one token and its entropy, 0.73726 nats.
LAW = np.random.default_rng(0).dirichlet(np.ones(VOCAB))
ENTROPY = worlds.entropy(LAW)


def log_p0s(n=3, vocab_size=VOCAB, scale=2.0):
  """float64[n, V], logits of predictions, some of them confident."""
  return scale * np.random.default_rng(1).standard_normal((n, vocab_size))


def states(process, t, n):
  """Every prediction, x_0 and x_t that x_0 leads to at time t: their indices, int[K] each."""
  marginal = worlds.kernel(*worlds.survivals(process, t), process.vocab_size)[:-1]
  n, x0, x_t = np.meshgrid(
    np.arange(n), np.arange(process.vocab_size), np.arange(process.vocab_size + 1), indexing='ij'
  )
  possible = marginal[x0, x_t] > 0
  return n[possible], x0[possible], x_t[possible]


def softmax(logits):
  probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return probs / probs.sum(axis=-1, keepdims=True)


def kl(q, p):
  """Σ q·log(q/p) over the last axis, 0·log 0 = 0."""
  safe_q, safe_p = (np.where(q > 0, x, 1.0) for x in (q, p))
  return (q * np.log(safe_q / safe_p)).sum(axis=-1)


# The term of the bound.


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize(
  't, s',
  [(0.5, 0.25), (0.9, 0.1), (0.3, 0.0), (1.0, 0.75), (1.0, 0.0), (1e-4, 0.0), (0.5, 0.5 - 1e-6)],
)
def test_posterior_kl_is_the_kl_of_the_posteriors(process, t, s):
  """For every x_0 and every state it leads to. Short steps are compared relative to their size:
  brute force loses some 1e-16/1e-6 of it."""
  logits = log_p0s()
  n, x0, x_t = states(process, t, len(logits))
  with jax.enable_x64(True):
    ours = divergences.posterior_kl(process, jnp.asarray(logits[n]), x0, x_t, t, s)
    onehot = jnp.asarray(np.eye(VOCAB)[x0])
    truth = process.posterior_probs(onehot, jnp.asarray(x_t), t, s)
    predicted = process.posterior_probs(jnp.asarray(softmax(logits)[n]), jnp.asarray(x_t), t, s)
  assert ours.dtype == np.float64 and ours.shape == n.shape
  np.testing.assert_allclose(ours, kl(np.asarray(truth), np.asarray(predicted)), rtol=1e-7, atol=1e-14)
  by_hand = worlds.posteriors(process, softmax(logits), t, s)[n, x_t]  # and against the matrices
  exact = worlds.posteriors(process, np.eye(VOCAB), t, s)[x0, x_t]
  np.testing.assert_allclose(ours, kl(exact, by_hand), rtol=1e-6, atol=1e-12)
  assert (np.asarray(ours) > 1e-9).any()


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('t', [0.0, 0.3, 1.0])
def test_posterior_kl_of_no_step_is_zero(process, t):
  logits = log_p0s()
  n, x0, x_t = states(process, t, len(logits))
  ours = divergences.posterior_kl(process, jnp.asarray(logits[n], jnp.float32), x0, x_t, t, t)
  np.testing.assert_array_equal(ours, 0.0)


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_posterior_kl_is_zero_for_the_truth(process):
  """A prediction that is sure of x_0, at every edge, in float32."""
  for t, s in [(0.5, 0.25), (1.0, 0.5), (1.0, 0.0), (0.3, 0.0)]:
    _, x0, x_t = states(process, t, 1)
    logits = jnp.where(jnp.arange(VOCAB)[None] == x0[:, None], 0.0, -jnp.inf)
    ours = divergences.posterior_kl(process, logits, x0, x_t, t, s)
    np.testing.assert_allclose(ours, 0.0, atol=1e-6)


# Its limit.


@pytest.mark.parametrize('process', RATED, ids=str)
@pytest.mark.parametrize('t', [0.01, 0.3, 0.5, 0.9])
def test_kl_rate_is_the_score_entropy_and_the_limit_of_short_steps(process, t):
  """A step of 1e-6 differs from its limit by 1e-6 times the rates and their slopes: the two steps
  of h and 2h are extrapolated, 2·f(h) - f(2h), to the limit within 1e-5."""
  logits = log_p0s()
  n, x0, x_t = states(process, t, len(logits))
  h = 1e-6
  with jax.enable_x64(True):
    args = jnp.asarray(logits[n]), x0, x_t
    rate = divergences.kl_rate(process, *args, t)
    one, two = (divergences.posterior_kl(process, *args, t, t - k * h) / (k * h) for k in (1, 2))
    log_score = divergences.log_score_of(process, args[0], jnp.asarray(x_t), t)
    score_form = divergences.score_entropy_rate(process, log_score, x0, x_t, t)
  assert rate.dtype == np.float64
  np.testing.assert_allclose(2 * one - two, rate, rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(score_form, rate, rtol=1e-9, atol=1e-12)
  assert (np.asarray(rate) > 0.01).any()


@pytest.mark.parametrize('process', RATED, ids=str)
def test_score_entropy_is_the_sum_over_rates(process):
  """σ'·Σ_{y≠x} Q(y→x)·[s_y - r_y·log s_y + r_y(log r_y - 1)] term by term, with the rates of a
  finite difference of the noising matrix, for arbitrary scores."""
  t, h = 0.4, 1e-6
  log_score = log_p0s(scale=1.0)
  n, x0, x_t = states(process, t, len(log_score))
  marginal = worlds.kernel(*worlds.survivals(process, t), VOCAB)[:-1]
  rates = (worlds.step_kernel(process, t + h, t) - worlds.step_kernel(process, t, t - h * 0.5)) / (
    0.5 * h
  )  # of y into x
  rates = (worlds.step_kernel(process, t + h, t - h) - np.eye(VOCAB + 1)) / (2 * h)
  expected = np.zeros(len(n))
  for k in range(len(n)):
    for y in range(VOCAB):
      if y != x_t[k] and rates[y, x_t[k]] > 0:
        r = marginal[x0[k], y] / marginal[x0[k], x_t[k]]
        constant = r * (np.log(r) - 1) if r > 0 else 0.0
        log_s = log_score[n[k], y]
        expected[k] += rates[y, x_t[k]] * (np.exp(log_s) - r * log_s + constant)
  with jax.enable_x64(True):
    ours = divergences.score_entropy_rate(process, jnp.asarray(log_score[n]), x0, x_t, t)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize('process', RATED, ids=str)
@pytest.mark.parametrize('t', [0.05, 0.5, 0.95])
def test_gradient_of_the_score_entropy_is_zero_at_the_true_ratios(process, t):
  """Averaged over x_0 given x_t, for data of LAW; and not at other scores."""
  marginal = worlds.kernel(*worlds.survivals(process, t), VOCAB)[:-1]
  _, x0, x_t = states(process, t, 1)
  mixed = LAW @ marginal
  weight = LAW[x0] * marginal[x0, x_t]
  log_ratio = np.log(np.where(mixed[:-1] > 0, mixed[:-1], 1.0))[None] - np.log(mixed[x_t])[:, None]

  def average(log_score, state):
    nats = divergences.score_entropy_rate(process, log_score, x0, x_t, t)
    return (jnp.where(x_t == state, weight, 0.0) * nats).sum() / mixed[state]

  with jax.enable_x64(True):
    weight = jnp.asarray(weight)
    gradient = jax.grad(average)
    for state in np.unique(x_t):
      at_truth = gradient(jnp.asarray(log_ratio), state).sum(axis=0)
      elsewhere = gradient(jnp.asarray(log_ratio + 0.3), state).sum(axis=0)
      np.testing.assert_allclose(at_truth, 0.0, atol=1e-12)
      if process.resamples or state == VOCAB:  # a visible token under absorbing noise stays
        assert (np.abs(elsewhere) > 1e-6).sum() == VOCAB - (state < VOCAB)  # not at x_t itself


# Their common reduction.


def plain_stats(logits, x0, x_t, kappa):
  log_p = jax.nn.log_softmax(logits)
  pick = lambda index: jnp.take_along_axis(log_p, index[..., None], axis=-1)[..., 0]  # noqa: E731
  d = jnp.log1p(jnp.exp(log_p) / kappa[..., None]).sum(axis=-1)
  return pick(x0), pick(jnp.minimum(x_t, logits.shape[-1] - 1)), d


def test_gradient_of_softmax_stats_is_that_of_autodiff():
  """Each output alone and all together, over kappas of 1e-6 to 1e6."""
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    logits = jnp.asarray(3 * rng.standard_normal((20, 7)))
    x0, x_t = jnp.asarray(rng.integers(0, 7, 20)), jnp.asarray(rng.integers(0, 8, 20))
    x_t = x_t.at[:3].set(x0[:3]).at[3:5].set(7)
    kappa = jnp.asarray(np.logspace(-6, 6, 20))
    for ours, plain in zip(
      divergences.softmax_stats(logits, x0, x_t, kappa),
      plain_stats(logits, x0, x_t, kappa),
      strict=True,
    ):
      np.testing.assert_allclose(ours, plain, rtol=1e-12)
    for which in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, -2.0, 0.7)):
      cotangent = tuple(w * jnp.asarray(rng.standard_normal(20)) for w in which)
      ours, plain = (
        jax.vjp(lambda x, f=f: f(x, x0, x_t, kappa), logits)[1](cotangent)[0]
        for f in (divergences.softmax_stats, plain_stats)
      )
      np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)
      assert (np.abs(ours) > 1e-3).any()


def test_gradient_of_the_kl_rate_is_that_of_finite_differences():
  """Through every branch of x_t, central differences of 1e-5 in float64."""
  process = noise.gamma_hybrid(VOCAB, 0.3)
  logits = log_p0s(2)
  n, x0, x_t = states(process, 0.4, 2)
  logits, step = logits[n], 1e-5
  with jax.enable_x64(True):
    for f in (
      lambda x: divergences.kl_rate(process, x, x0, x_t, 0.4).sum(),
      lambda x: divergences.posterior_kl(process, x, x0, x_t, 0.4, 0.2).sum(),
    ):
      gradient = jax.grad(f)(jnp.asarray(logits))
      for y in range(VOCAB):
        for k in range(0, len(n), 5):
          nudge = np.zeros_like(logits)
          nudge[k, y] = step
          slope = (f(jnp.asarray(logits + nudge)) - f(jnp.asarray(logits - nudge))) / (2 * step)
          np.testing.assert_allclose(gradient[k, y], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('vocab_size', [2, 4, 1000])
def test_leave_one_out_undoes_what_a_visible_token_adds(vocab_size):
  """p*(y) ∝ p0(y)·([y = z] + 1/V); masks are left alone."""
  logits = log_p0s(6, vocab_size)
  x_t = np.array([0, 1, vocab_size - 1, 0, vocab_size, vocab_size])
  factor = (np.arange(vocab_size)[None] == x_t[:, None]) + 1 / vocab_size
  taught = np.where(x_t[:, None] < vocab_size, np.log(softmax(logits) * factor), logits)
  with jax.enable_x64(True):
    ours = divergences.leave_one_out(jnp.asarray(taught), jnp.asarray(x_t))
  np.testing.assert_allclose(softmax(np.asarray(ours)), softmax(logits), rtol=1e-10)
  np.testing.assert_array_equal(ours[4:], logits[4:])


# One token: the integral of the rate, and what is left at its end, is the entropy.


def integral(rate_of, process, end, nodes=400):
  """∫_0^end of the mean over LAW and its noise, by Gauss-Legendre nodes dense at both ends.

  rate_of(x0, x_t, t): float64[K] -> float64[K].
  """
  u, weight = np.polynomial.legendre.leggauss(nodes)
  u, weight = (u + 1) / 2, weight / 2
  t = end * (1 - (1 - u**4) ** 4)  # singular like log t at 0, and at 1 like log(1 - t)
  slope = end * 16 * (1 - u**4) ** 3 * u**3
  t, weight, x0, x_t = (
    x.reshape(-1)
    for x in np.broadcast_arrays(
      t[:, None, None],
      (weight * slope)[:, None, None],
      np.arange(VOCAB)[None, :, None],
      np.arange(VOCAB + 1)[None, None],
    )
  )
  with jax.enable_x64(True):
    marginal = np.asarray(process.marginal_probs(jnp.asarray(x0), jnp.asarray(t)))
    chance = LAW[x0] * marginal[np.arange(len(t)), x_t]
    seen = chance > 0
    rate = np.asarray(rate_of(x0[seen], x_t[seen], jnp.asarray(t[seen])))
  return float((weight[seen] * chance[seen] * rate).sum())


@pytest.mark.parametrize('gamma', [0.0, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize('end, delta', [(0.3, 0.0), (0.9, 0.0), (1.0, 0.0), (1.0, 0.05)])
def test_gamma_integral_and_its_end_are_the_entropy(gamma, end, delta):
  """∫ E[kl_rate] up to t1 + E KL(q_t1(.|x_0) ‖ q_t1(.|p0)), with p0 the data's law, to 1e-6 (t1
  below 1). Up to t1 = 1 with δ = 0 nothing is left and the integral alone is the entropy, to 1e-4;
  with δ > 0 what is left just before t = 1 is taken at 1-."""
  process = noise.gamma_hybrid(VOCAB, gamma, delta)
  log_law = jnp.asarray(np.log(LAW), jnp.float64) if jax.config.jax_enable_x64 else np.log(LAW)
  ours = integral(
    lambda x0, x_t, t: divergences.kl_rate(
      process, jnp.tile(jnp.asarray(log_law)[None], (len(x0), 1)), x0, x_t, t
    ),
    process,
    end,
  )
  last = worlds.kernel(*worlds.survivals(process, min(end, 1 - 1e-12)), VOCAB)[:-1]
  left = LAW @ kl(last, (LAW @ last)[None])
  np.testing.assert_allclose(ours + left, ENTROPY, atol=1e-6 if end < 1 else 1e-4)
  if end == 1.0 and delta == 0.0:
    np.testing.assert_allclose(ours, ENTROPY, atol=1e-3)
  else:
    assert left > 1e-4


@pytest.mark.parametrize('gamma, published', [(0.01, 0.7253), (0.1, 0.6292), (0.3, 0.4802)])
def test_released_weighting_falls_below_the_entropy(gamma, published):
  """A fault of the public code that is kept for comparison: at its best score, the mean of its own
  ratios given x_t, its integral is below the entropy, so it bounds nothing."""
  process = noise.gamma_hybrid(VOCAB, gamma)

  def rate_of(x0, x_t, t):
    sigma = np.asarray(process.sigma(t))
    up, u = np.expm1(sigma), np.expm1(sigma) / (np.expm1(sigma) + VOCAB)
    marginal = np.stack([process.marginal_probs(np.full(len(x0), x), t) for x in range(VOCAB)])
    given = LAW[:, None] * marginal[:, np.arange(len(x0)), x_t]
    given /= given.sum(axis=0)  # of x_0, [V, K]
    y = np.arange(VOCAB)[None]
    score = np.zeros((len(x0), VOCAB))
    for x in range(VOCAB):
      masked = np.where(y == x, (1 / up)[:, None], 0.0)
      same = np.broadcast_to(u[:, None], score.shape)
      other = np.where(y == x, (1 / u)[:, None], 1.0)
      ratio = np.where((x_t == x)[:, None], same, other)
      score += given[x][:, None] * np.where((x_t == VOCAB)[:, None], masked, ratio)
    return divergences.released_rate(process, jnp.log(jnp.asarray(score)), x0, x_t, t)

  ours = integral(rate_of, process, 1.0)
  assert ours < ENTROPY - 0.01
  np.testing.assert_allclose(ours, published, atol=2e-3)


@pytest.mark.parametrize('delta', [0.0, 0.01, 0.3])
@pytest.mark.parametrize('name, gamma', [('absorbing', 0.0), ('uniform', 1.0), ('gamma_hybrid', 0.3)])
def test_terminal_kl_is_what_is_left_before_the_end(name, gamma, delta):
  args = (gamma,) if name == 'gamma_hybrid' else ()
  process = getattr(noise, name)(VOCAB, *args, delta)
  a, b = delta ** (1 - gamma), delta**gamma
  last = worlds.kernel(a, b, VOCAB)
  expected = kl(last[0], last[:-1].mean(axis=0))
  with jax.enable_x64(True):  # the time is 6e-8 before the end
    np.testing.assert_allclose(divergences.terminal_kl(process), expected, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(divergences.terminal_kl(process), expected, rtol=1e-3, atol=1e-4)
  assert (expected > 1e-3) == (delta > 0.0)
