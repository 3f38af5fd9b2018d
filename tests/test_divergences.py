"""Divergences against brute force in float64, and float32 against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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


STEPS = [  # t, s
  *[(0.5, 0.25), (0.9, 0.1), (0.3, 0.0), (1.0, 0.75), (1.0, 0.0), (1e-4, 0.0)],
  *[(0.5, 0.5 - 1e-6), (0.01, 0.01 - 1e-6), (0.3, 0.3), (1.0, 1.0), (0.0, 0.0)],
]
INSIDE = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])  # as many


def grid(process, times, num_predictions=3):
  """Every time, prediction, x_0 and x_t: their indices, int[K] each, the time of each, float64[K],
  and whether x_0 leads to x_t then. One shape for all, so that they share programs."""
  times, v = np.asarray(times, np.float64), process.vocab_size
  k, n, x0, x_t = (
    x.reshape(-1).astype(np.int32) for x in np.indices((len(times), num_predictions, v, v + 1))
  )
  marginals = np.stack([worlds.kernel(*worlds.survivals(process, t), v)[:-1] for t in times])
  return k, n, x0, x_t, times[k], marginals[k, x0, x_t] > 0


def softmax(logits):
  probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return probs / probs.sum(axis=-1, keepdims=True)


def kl(q, p):
  """Σ q·log(q/p) over the last axis, 0·log 0 = 0."""
  safe_q, safe_p = (np.where(q > 0, x, 1.0) for x in (q, p))
  return (q * np.log(safe_q / safe_p)).sum(axis=-1)


# The term of the bound.


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_posterior_kl_is_the_kl_of_the_posteriors(process):
  """For every x_0 and every state it leads to, relative to the size of the step: of a step of 1e-6
  the library's posteriors keep 1e-7, the quotients of the matrices 1e-6."""
  logits = log_p0s()
  k, n, x0, x_t, t, possible = grid(process, [t for t, _ in STEPS])
  s = np.array([s for _, s in STEPS])[k]
  with jax.enable_x64(True):
    ours = divergences.posterior_kl(
      process, jnp.asarray(logits[n]), *map(jnp.asarray, (x0, x_t, t, s))
    )
    truth, predicted = (
      np.asarray(process.posterior_probs(jnp.asarray(p0), *map(jnp.asarray, (x_t, t, s))))
      for p0 in (np.eye(VOCAB)[x0], softmax(logits)[n])
    )
  assert ours.dtype == np.float64
  ours = np.asarray(ours)[possible]
  np.testing.assert_allclose(ours, kl(truth, predicted)[possible], rtol=1e-7, atol=1e-14)
  by_hand = np.concatenate(
    [
      kl(
        worlds.posteriors(process, np.eye(VOCAB), t, s)[x0[k == i], x_t[k == i]],
        worlds.posteriors(process, softmax(logits), t, s)[n[k == i], x_t[k == i]],
      )
      for i, (t, s) in enumerate(STEPS)
    ]
  )
  np.testing.assert_allclose(ours, by_hand[possible], rtol=1e-6, atol=1e-11)
  assert (ours[(t > s)[possible]] > 1e-9).any() and (ours[(t == s)[possible]] == 0).all()


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_posterior_kl_is_zero_for_the_truth(process):
  """A prediction that is sure of x_0, at every edge, in float32, and its gradient is finite."""
  k, _, x0, x_t, t, possible = grid(process, [t for t, _ in STEPS])
  s = np.array([s for _, s in STEPS])[k]
  sure = jnp.where(jnp.arange(VOCAB)[None] == x0[:, None], 0.0, -1e4)

  def total(logits):
    nats = divergences.posterior_kl(
      process, logits, *map(jnp.asarray, (x0, x_t)), *map(as32, (t, s))
    )
    return jnp.where(possible, nats, 0.0).sum(), nats

  gradient, nats = jax.grad(total, has_aux=True)(sure)
  np.testing.assert_allclose(np.asarray(nats)[possible], 0.0, atol=1e-6)
  assert np.isfinite(gradient).all()


def as32(x):
  return jnp.asarray(x, jnp.float32)


# Its limit.


@pytest.mark.parametrize('process', RATED, ids=str)
def test_kl_rate_is_the_score_entropy_and_the_limit_of_short_steps(process):
  """A step of h = 1e-6 differs from its limit by h times the slope of the rate; two steps
  extrapolate to it, 2·f(h) - f(2h), within 1e-5."""
  logits, h = log_p0s(), 1e-6
  _, n, x0, x_t, t, possible = grid(process, INSIDE)
  possible &= process.resamples | (x_t == VOCAB)  # else the limit is 0 by definition
  with jax.enable_x64(True):
    logits, x0, x_t, t = (jnp.asarray(x) for x in (logits[n], x0, x_t, t))
    rate = divergences.kl_rate(process, logits, x0, x_t, t)
    one, two = (
      np.asarray(divergences.posterior_kl(process, logits, x0, x_t, t, t - m * h)) / (m * h)
      for m in (1, 2)
    )
    log_score = divergences.log_score_of(process, logits, x_t, t)
    score_form = divergences.score_entropy_rate(process, log_score, x0, x_t, t)
  assert rate.dtype == score_form.dtype == np.float64
  rate, score_form = (np.asarray(x)[possible] for x in (rate, score_form))
  np.testing.assert_allclose((2 * one - two)[possible], rate, rtol=1e-5, atol=1e-10)
  np.testing.assert_allclose(score_form, rate, rtol=1e-8, atol=1e-10)
  assert (rate > 0.01).any()


@pytest.mark.parametrize('process', RATED, ids=str)
def test_score_entropy_is_the_sum_over_rates(process):
  """σ'·Σ_{y≠x} Q(y→x)·[s_y - r_y·log s_y + r_y(log r_y - 1)] term by term for arbitrary scores, the
  rates by central differences of the noising matrix: within 1e-6."""
  h, log_score = 1e-5, log_p0s(scale=1.0)
  which, n, x0, x_t, t, possible = grid(process, INSIDE)
  marginals, rates = [], []  # rates: y into x
  for at in INSIDE:
    marginals.append(worlds.kernel(*worlds.survivals(process, at), VOCAB)[:-1])
    step = worlds.step_kernel(process, at + h, at - h)
    rates.append((step - np.eye(VOCAB + 1)) / (2 * h))
  expected = np.zeros(len(n))
  for k in np.flatnonzero(possible):
    marginal, rate = marginals[which[k]], rates[which[k]]
    for y in set(range(VOCAB)) - {x_t[k]}:
      r = marginal[x0[k], y] / marginal[x0[k], x_t[k]]
      constant = r * (np.log(r) - 1) if r > 0 else 0.0
      log_s = log_score[n[k], y]
      expected[k] += rate[y, x_t[k]] * (np.exp(log_s) - r * log_s + constant)
  with jax.enable_x64(True):
    args = (jnp.asarray(x) for x in (log_score[n], x0, x_t, t))
    ours = np.asarray(divergences.score_entropy_rate(process, *args))
  possible &= (t >= 0.2) & (t <= 0.6)  # elsewhere the differences are too coarse
  np.testing.assert_allclose(ours[possible], expected[possible], rtol=1e-4, atol=1e-9)
  assert (expected[possible] > 0.01).any()


@pytest.mark.parametrize('process', RATED, ids=str)
def test_gradient_of_the_score_entropy_is_zero_at_the_true_ratios(process):
  """Averaged over x_0 given x_t, for data of LAW; and not at other scores."""
  k, n, x0, x_t, t, possible = grid(process, INSIDE)
  marginals = np.stack([worlds.kernel(*worlds.survivals(process, t), VOCAB)[:-1] for t in INSIDE])
  mixed = LAW @ marginals  # [times, V+1]
  here = np.where(possible, mixed[k, x_t], 1.0)
  weight = np.where(possible, LAW[x0] * marginals[k, x0, x_t] / here, 0.0)
  log_ratio = np.log(np.where(mixed > 0, mixed, 1.0))[k, :VOCAB] - np.log(here)[:, None]
  group = k * (VOCAB + 1) + x_t  # of the same x_t and t: x_0 is averaged over

  def gradient(log_score):
    with jax.enable_x64(True):
      args = [jnp.asarray(x) for x in (x0, x_t, t)]
      each = jax.grad(
        lambda x: (
          jnp.asarray(weight)
          * jnp.where(possible, divergences.score_entropy_rate(process, x, *args), 0.0)
        ).sum()
      )(jnp.asarray(log_score))
    once = np.where((n == 0)[:, None], each, 0.0)  # the predictions play no part
    return np.stack([once[group == g].sum(axis=0) for g in range(group.max() + 1)])

  np.testing.assert_allclose(gradient(log_ratio), 0.0, atol=1e-11)
  elsewhere = np.abs(gradient(log_ratio + 0.3)) > 1e-6
  for g, count in enumerate(elsewhere.sum(axis=1)):
    state = g % (VOCAB + 1)
    moves = mixed[g // (VOCAB + 1), state] > 0 and (process.resamples or state == VOCAB)
    assert count == (VOCAB - (state < VOCAB) if moves else 0)  # not at x_t itself


# Gradients.


def test_gradients_are_those_of_finite_differences():
  """Through every branch of x_t, central differences of 1e-5 in float64."""
  process = noise.gamma_hybrid(VOCAB, 0.3)
  _, n, x0, x_t, t, _ = grid(process, INSIDE)
  logits, step = log_p0s()[n], 1e-5
  forms = {
    'rate': lambda x: divergences.kl_rate(process, x, x0, x_t, t),
    'step': lambda x: divergences.posterior_kl(process, x, x0, x_t, t, t / 2),
    'score': lambda x: divergences.score_entropy_rate(process, x, x0, x_t, t),
  }

  @jax.jit
  def run(x):
    slopes = {name: jax.grad(lambda x, f=f: f(x).sum())(x) for name, f in forms.items()}
    return {name: f(x) for name, f in forms.items()}, slopes

  with jax.enable_x64(True):
    _, gradients = run(logits)
    for y in range(VOCAB):
      nudge = step * np.eye(VOCAB)[y][None]
      above, below = run(logits + nudge)[0], run(logits - nudge)[0]
      for name, gradient in gradients.items():
        slope = (np.asarray(above[name]) - below[name]) / (2 * step)
        np.testing.assert_allclose(gradient[:, y], slope, rtol=1e-6, atol=1e-8, err_msg=name)


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


@functools.cache
def legendre():
  return np.polynomial.legendre.leggauss(300)


def nodes(end):
  """Times in (0, end) and their weights: Gauss-Legendre, dense at both ends, where the rate may
  grow like a logarithm; with every x_0 and x_t: float64[K], float64[K], int32[K], int32[K]."""
  u, weight = legendre()
  u, weight = (u + 1) / 2, weight / 2
  t = -end * np.expm1(4 * np.log1p(-(u**4)))
  weight = weight * end * 16 * (1 - u**4) ** 3 * u**3
  k, x0, x_t = (x.reshape(-1) for x in np.indices((len(u), VOCAB, VOCAB + 1)))
  return t[k], weight[k], x0.astype(np.int32), x_t.astype(np.int32)


def integrate(process, rate_of, end):
  """∫_0^end of the mean over LAW and its noise of rate_of(x0, x_t, t), all float64."""
  t, weight, x0, x_t = nodes(end)
  inside = jnp.asarray(t), jnp.asarray(x0), jnp.asarray(x_t)
  marginal = np.asarray(process.marginal_probs(inside[1], inside[0]))
  chance = LAW[x0] * marginal[np.arange(len(t)), x_t]
  rate = np.asarray(rate_of(inside[1], inside[2], inside[0]))
  return float(np.where(chance > 0, weight * chance * rate, 0.0).sum())


@pytest.mark.parametrize(
  'gamma, delta',
  [
    *((0.0, 0.0), (0.01, 0.0), (0.3, 0.05), (1.0, 0.0)),
    *(pytest.param(gamma, 0.0, marks=pytest.mark.full) for gamma in (0.1, 0.3)),
  ],
)
def test_gamma_integral_and_its_end_are_the_entropy(gamma, delta):
  """∫ E[kl_rate] up to t1 + E KL(q_t1(.|x_0) ‖ q_t1(.|p0)), with p0 the data's law: within 1e-6.

  At t1 = 1 - 1e-5, as far as training goes, and δ = 0 the integral alone is within 1e-3.
  """
  process = noise.gamma_hybrid(VOCAB, gamma, delta)
  logits = np.log(LAW)[None].repeat(len(nodes(1.0)[0]), axis=0)
  rate = jax.jit(lambda *args: divergences.kl_rate(process, *args))
  for end in (0.3, 0.9, 1 - 1e-5):
    with jax.enable_x64(True):
      ours = integrate(process, functools.partial(rate, logits), end)
    last = worlds.kernel(*worlds.survivals(process, end), VOCAB)[:-1]
    left = LAW @ kl(last, (LAW @ last)[None])
    np.testing.assert_allclose(ours + left, ENTROPY, atol=1e-6)
    assert left > 1e-12
    if end > 0.99 and delta == 0.0:
      np.testing.assert_allclose(ours, ENTROPY, atol=1e-3)


@pytest.mark.parametrize('gamma, published', [(0.01, 0.7253), (0.1, 0.6292), (0.3, 0.4802)])
def test_released_weighting_falls_below_the_entropy(gamma, published):
  """A fault of the public code that is kept for comparison: at its best score, the mean of its own
  ratios given x_t, its integral is below the entropy, so it bounds nothing."""
  process = noise.gamma_hybrid(VOCAB, gamma)

  def rate_of(x0, x_t, t):
    up = np.expm1(np.asarray(process.sigma(t)))
    u = up / (up + VOCAB)
    ratios, given = [], []
    for x in range(VOCAB):  # were x_0 this
      at_x = np.arange(VOCAB)[None] == x
      masked = np.where(at_x, (1 / up)[:, None], 0.0)
      other = np.where(at_x, (1 / u)[:, None], 1.0)
      visible = np.where((x_t == x)[:, None], u[:, None], other)
      ratios.append(np.where((x_t == VOCAB)[:, None], masked, visible))
      marginal = np.asarray(process.marginal_probs(jnp.full_like(x0, x), t))
      given.append(LAW[x] * marginal[np.arange(len(x_t)), x_t])
    total = np.sum(given, axis=0)
    given = np.stack(given) / np.where(total > 0, total, 1.0)
    best = (given[..., None] * np.stack(ratios)).sum(axis=0)
    best = np.where(best > 0, best, 1.0)  # states without probability
    return divergences.released_rate(process, jnp.log(jnp.asarray(best)), x0, x_t, t)

  with jax.enable_x64(True):
    ours = integrate(process, rate_of, 1 - 1e-5)
  assert ours < ENTROPY - 0.01
  np.testing.assert_allclose(ours, published, atol=1e-3)


@pytest.mark.parametrize('delta', [0.0, 0.01, 0.3])
@pytest.mark.parametrize(
  'name, gamma', [('absorbing', 0.0), ('uniform', 1.0), ('gamma_hybrid', 0.3)]
)
def test_terminal_kl_is_what_is_left_before_the_end(name, gamma, delta):
  """The library looks 6e-8 before t = 1."""
  args = (gamma,) if name == 'gamma_hybrid' else ()
  process = getattr(noise, name)(VOCAB, *args, delta)
  last = worlds.kernel(delta ** (1 - gamma), delta**gamma, VOCAB)
  expected = kl(last[0], last[:-1].mean(axis=0))
  with jax.enable_x64(True):
    exact = divergences.terminal_kl(process)
  np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(divergences.terminal_kl(process), exact, rtol=1e-4, atol=1e-6)
  assert (expected > 1e-4) == (delta > 0.0)


# float32.

SIGMAS = np.append(np.logspace(-6, 1, 8), 12.0)


def precision_cases(process):
  """float32 logits of spread, near-uniform and confident predictions, and every kind of x_t at
  every σ: the arguments of a rate, and which states x_0 leads to."""
  v = process.vocab_size
  rng = np.random.default_rng(0)
  logits = np.stack([2 * rng.standard_normal(v), 0.01 * rng.standard_normal(v)] * 2)[:3]
  logits[2, 1] += 12
  t = (-np.expm1(-(SIGMAS if v < 10_000 else SIGMAS[::2]))).astype(np.float32)
  k, n, x, kind = (y.reshape(-1) for y in np.indices((len(t), 3, 2, 3)))
  x_t = np.where(kind == 0, v, np.where(kind == 1, x, (x + 1) % 2))
  possible = (kind == 0) | (process.resamples & (kind == 2)) | (kind == 1)
  possible &= ~((kind == 0) & isinstance(process, noise.Uniform))
  return logits.astype(np.float32)[n], x.astype(np.int32), x_t.astype(np.int32), t[k], possible, n


def both(f, args):
  """f of float32 arguments, in float32 and in float64: dictionaries of arrays."""
  single = jax.tree.map(np.asarray, f(*map(jnp.asarray, args)))
  with jax.enable_x64(True):
    wide = [np.asarray(x, np.float64 if x.dtype == np.float32 else x.dtype) for x in args]
    double = jax.tree.map(np.asarray, f(*map(jnp.asarray, wide)))
  assert {x.dtype.name for x in single.values()} == {'float32'}
  assert {x.dtype.name for x in double.values()} == {'float64'}
  return single, double


KINDS = [
  ('absorbing',),
  ('uniform',),
  ('gamma_hybrid', 0.1),
  ('gamma_hybrid', 0.5),
  ('epsilon_hybrid', 0.1),
]
FORMS = {
  'rate': divergences.kl_rate,
  'short step': lambda *x: divergences.posterior_kl(*x, 0.75 * x[-1]),
  'whole step': lambda *x: divergences.posterior_kl(*x, 0.0 * x[-1]),
  'score': divergences.score_entropy_rate,
}


@pytest.mark.parametrize(
  'vocab_size, kind',
  [
    *((4, kind) for kind in KINDS),
    *((50_257, kind) for kind in KINDS if 0.5 not in kind),
    *(pytest.param(1000, kind, marks=pytest.mark.full) for kind in KINDS),
    pytest.param(50_257, KINDS[3], marks=pytest.mark.full),
  ],
  ids=str,
)
def test_losses_are_precise_in_float32(vocab_size, kind):
  """σ from 1e-6 to 12 and confident predictions too: relative 1e-4, absolute floor 1e-6."""
  process = getattr(noise, kind[0])(vocab_size, *kind[1:])
  *args, possible, _ = precision_cases(process)
  forms = dict(FORMS)
  if kind[0] == 'epsilon_hybrid':  # whose resampling has no rate
    forms = {name: forms[name] for name in ('short step', 'whole step')}
  with jax.enable_x64(True):
    log_score = divergences.log_score_of(process, *(jnp.asarray(args[i]) for i in (0, 2, 3)))
    log_score = np.asarray(log_score, np.float32)

  def losses(logits, log_score, *rest):
    given = {'score': log_score}
    return {name: form(process, given.get(name, logits), *rest) for name, form in forms.items()}

  if vocab_size > 4:  # small ones share the programs of single operations
    losses = jax.jit(losses)
  single, double = both(losses, [args[0], log_score, *args[1:]])
  for name in forms:
    ours, exact = single[name][possible], double[name][possible]
    assert np.isfinite(ours).all(), name
    np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-6, err_msg=name)
    assert (exact > 1e-3).any(), name
