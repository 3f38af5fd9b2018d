"""Bounds against exhaustive enumeration of worlds of at most 3 tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from worlds import arbitrary_denoise, exact_denoise, tiled_denoise

from ardiff_jax import bounds, divergences, noise
from ardiff_jax.hyperschedules import (
  any_order,
  autoregressive,
  block,
  flat,
  from_levels,
  hybrid,
  slide,
)
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.objectives.likelihood import ScoreEntropy, reading_nats

VOCAB, LENGTH = 3, 3
SEQUENCES = worlds.sequences(VOCAB, LENGTH)
JOINT = worlds.random_joint(0, VOCAB, LENGTH)
EXACT = worlds.exact_params(JOINT)
ARBITRARY = worlds.arbitrary_params(1, VOCAB, LENGTH)
ABSORBING = noise.absorbing(VOCAB)
EXACT_NLL = [autoregressive(3), block(3, 1, 1), block(3, 1, 4)]
BOUNDS = [flat(3, 1), flat(3, 4), block(3, 2, 2), block(3, 3, 2), slide(3, 2, 2), slide(3, 2, 5)]
by_name = dict(ids=lambda schedule: schedule.name)


@functools.partial(jax.jit, static_argnums=(0, 2))
def full_sum(denoise, params, process, schedule, tokens, counted, key):
  numbers = jnp.arange(len(tokens))
  return bounds.full_sum(denoise, params, process, schedule, tokens, counted, numbers, key)


@functools.partial(jax.jit, static_argnums=(0, 2, 7))
def monte_carlo(denoise, params, process, schedule, tokens, counted, key, num_samples):
  numbers = jnp.arange(len(tokens))
  return bounds.monte_carlo(
    denoise, params, process, schedule, tokens, counted, numbers, key, num_samples
  )


def repeated(times, sequences=SEQUENCES):
  """int32[N * times, L], every sequence many times, and which tokens count: all."""
  tokens = jnp.repeat(jnp.asarray(sequences), times, axis=0)
  return tokens, jnp.ones(tokens.shape, bool)


def mean_and_error(draws_B, times):
  """The mean of each sequence's draws, and its standard error."""
  draws = np.asarray(draws_B, np.float64).reshape(-1, times)
  return draws.mean(axis=1), draws.std(axis=1) / np.sqrt(times)


# The references themselves.


@pytest.mark.parametrize('schedule', [*EXACT_NLL, *BOUNDS], **by_name)
@pytest.mark.parametrize('seed, vocab_size', [(0, 3), (1, 2)])
def test_bound_of_the_exact_denoiser_is_at_least_the_nats(schedule, seed, vocab_size):
  """And equal where tokens come one at a time."""
  joint = worlds.random_joint(seed, vocab_size, LENGTH)
  bound = worlds.exhaustive_bound(exact_denoise, worlds.exact_params(joint), schedule, vocab_size)
  nats = -np.log(joint.reshape(-1))
  if schedule in EXACT_NLL:
    np.testing.assert_allclose(bound, nats, atol=1e-5)
  else:  # each x_0's bound is above what the sampler gives it; on average above the entropy
    law = worlds.chain_law(exact_denoise, worlds.exact_params(joint), schedule, vocab_size)
    assert (bound >= -np.log(law) - 1e-5).all()
    assert (joint.reshape(-1) * bound).sum() > worlds.entropy(joint) + 1e-3


@pytest.mark.parametrize('schedule', [*EXACT_NLL, *BOUNDS], **by_name)
def test_bound_of_any_network_is_at_least_the_nats_of_its_own_sampler(schedule):
  bound = worlds.exhaustive_bound(arbitrary_denoise, ARBITRARY, schedule, VOCAB)
  nats = -np.log(worlds.chain_law(arbitrary_denoise, ARBITRARY, schedule, VOCAB))
  assert (bound >= nats - 1e-5).all()
  if schedule in EXACT_NLL or schedule.num_steps == 1:  # nothing random beside what is drawn
    np.testing.assert_allclose(bound, nats, atol=1e-5)
  else:
    assert (bound > nats + 1e-3).any()


# The library against them.


@pytest.mark.parametrize('schedule', EXACT_NLL, **by_name)
@pytest.mark.parametrize(
  'denoise, params', [(exact_denoise, EXACT), (arbitrary_denoise, ARBITRARY)], ids=['exact', 'any']
)
def test_full_sum_without_noise_is_exact(schedule, denoise, params):
  """Tokens one at a time, one level each: no draw is left to average."""
  tokens, counted = repeated(1)
  if schedule.num_levels > 1:  # which level the token is revealed at is still random
    tokens, counted = repeated(2000)
  ours, error = mean_and_error(
    full_sum(denoise, params, ABSORBING, schedule, tokens, counted, jax.random.key(0)),
    len(tokens) // len(SEQUENCES),
  )
  expected = worlds.exhaustive_bound(denoise, params, schedule, VOCAB)
  if schedule.num_levels == 1:
    np.testing.assert_allclose(ours, expected, atol=1e-5)
  else:
    assert (np.abs(ours - expected) <= 5 * error).all() and (error < 0.03 * expected).all()


@pytest.mark.parametrize('schedule', BOUNDS, **by_name)
@pytest.mark.parametrize(
  'denoise, params', [(exact_denoise, EXACT), (arbitrary_denoise, ARBITRARY)], ids=['exact', 'any']
)
def test_full_sum_averages_to_the_exhaustive_bound(schedule, denoise, params):
  """2000 draws: within 5 measured standard errors, each below 3 % of the value."""
  tokens, counted = repeated(2000)
  ours, error = mean_and_error(
    full_sum(denoise, params, ABSORBING, schedule, tokens, counted, jax.random.key(0)), 2000
  )
  expected = worlds.exhaustive_bound(denoise, params, schedule, VOCAB)
  assert (np.abs(ours - expected) <= 5 * error + 1e-5).all()
  assert (error < 0.03 * expected).all()


@pytest.mark.parametrize('num_samples', [1, 5])
@pytest.mark.parametrize(
  'denoise, schedule',
  [
    *((arbitrary_denoise, x) for x in (autoregressive(3), flat(3, 4), slide(3, 2, 2))),
    *((tiled_denoise, x) for x in (block(3, 2, 2), block(3, 1, 4))),
    *((tiled_denoise, x) for x in (slide(3, 2, 2), slide(3, 2, 5), hybrid(3, 2, 2))),
  ],
  ids=lambda x: getattr(x, 'name', type(x).__name__),
)
def test_monte_carlo_is_unbiased(denoise, schedule, num_samples):
  """4000 draws of 4 sequences: within 5 standard errors of the exhaustive value, each below 5 %.

  Copies of a sequence lie all over the batch's grid of rows, which is evenly spaced: the standard
  error of independent draws overstates theirs.
  """
  which = [0, 7, 14, 23]
  tokens = jnp.tile(jnp.asarray(SEQUENCES[which]), (4000, 1))
  draws = monte_carlo(
    denoise,
    ARBITRARY,
    ABSORBING,
    schedule,
    tokens,
    jnp.ones(tokens.shape, bool),
    jax.random.key(1),
    num_samples,
  )
  ours, error = mean_and_error(np.asarray(draws).reshape(4000, 4).T, 4000)
  expected = worlds.exhaustive_bound(arbitrary_denoise, ARBITRARY, schedule, VOCAB)[which]
  assert (np.abs(ours - expected) <= 5 * error).all()
  assert (error < 0.05 * expected).all()


def test_a_row_of_every_block_tells_more_than_one_row():
  """Of three blocks of one token, one draw each: the errors are 0.063 of 0.117 nats."""
  tokens, counted = repeated(2000)
  errors = [
    mean_and_error(
      monte_carlo(
        *(denoise, ARBITRARY, ABSORBING, block(3, 1, 4), tokens, counted, jax.random.key(1), 1)
      ),
      2000,
    )[1]
    for denoise in (arbitrary_denoise, tiled_denoise)
  ]
  assert errors[1].mean() < 0.6 * errors[0].mean()


def test_monte_carlo_spreads_its_rows_evenly():
  """As many samples as rows: each sequence meets each row once, so AR is exact at any shift."""
  tokens, counted = repeated(1)
  for seed in range(3):
    ours = monte_carlo(
      arbitrary_denoise,
      ARBITRARY,
      ABSORBING,
      autoregressive(3),
      tokens,
      counted,
      jax.random.key(seed),
      3,
    )
    expected = worlds.exhaustive_bound(arbitrary_denoise, ARBITRARY, autoregressive(3), VOCAB)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize('estimate', [full_sum, functools.partial(monte_carlo, num_samples=2)])
def test_draws_for_a_sequence_are_its_own(estimate):
  """Whatever stands beside it, and however many: those of a number, and others of another."""
  tokens, counted = repeated(3)
  key, args = jax.random.key(4), (arbitrary_denoise, ARBITRARY, ABSORBING, flat(3, 4))
  together = estimate(*args, tokens, counted, key=key)
  few = estimate(*args, tokens[:5], counted[:5], key=key)
  np.testing.assert_allclose(few, together[:5], rtol=1e-6)
  assert len(np.unique(np.asarray(together[:3]))) > 1  # the same sequence three times


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 3)], **by_name)
def test_tokens_that_do_not_count_are_given(schedule):
  """The bound is then conditional: NLL of the rest given them, exactly so one at a time."""
  given = 1
  tokens, counted = repeated(2000)
  counted = counted.at[:, given].set(False)
  ours, error = mean_and_error(
    full_sum(exact_denoise, EXACT, ABSORBING, schedule, tokens, counted, jax.random.key(0)), 2000
  )
  if schedule.num_levels == 1:
    # position 0 is predicted before the given token is in sight, so it is not conditioned on it
    first = JOINT.sum((1, 2))
    pairs = JOINT.sum(2)
    a, b, c = SEQUENCES.T
    expected = -np.log(first[a]) - np.log(JOINT[a, b, c] / pairs[a, b])
    np.testing.assert_allclose(ours, expected, atol=1e-4)
  else:
    conditional = -np.log(JOINT / JOINT.sum((0, 2), keepdims=True)).reshape(-1)
    assert ours @ JOINT.reshape(-1) > conditional @ JOINT.reshape(-1)
    # two tokens revealed together: at most their dependence above the conditional entropy
    pair = JOINT / JOINT.sum((0, 2), keepdims=True)
    apart = pair.sum(2, keepdims=True) * pair.sum(0, keepdims=True)
    dependence = (JOINT * np.log(pair / apart)).sum()
    excess = ours @ JOINT.reshape(-1) - conditional @ JOINT.reshape(-1)
    assert excess < dependence / 3 + 5 * np.sqrt((error**2 * JOINT.reshape(-1) ** 2).sum())


def test_weights_follow_delta():
  """With δ the last levels before t = 1 keep δ: weights (A_{s+1} - A_s)/(1 - A_s), by hand.

  One position, a network that answers alike whatever it is shown: the bound is its nats times
  the chance to be revealed somewhere, which is 1.
  """
  process = noise.absorbing(VOCAB, delta=0.3)
  params = worlds.arbitrary_params(2, VOCAB, 1)
  table = jnp.broadcast_to(params['table'][:, :1], params['table'].shape)
  tokens, counted = repeated(4000, worlds.sequences(VOCAB, 1))
  ours, error = mean_and_error(
    full_sum(
      arbitrary_denoise,
      {'table': table},
      process,
      flat(1, 4),
      tokens,
      counted,
      jax.random.key(0),
    ),
    4000,
  )
  expected = -np.asarray(jax.nn.log_softmax(table[0, 0]))
  assert (np.abs(ours - expected) <= 5 * error).all() and (error < 0.02 * expected).all()


def test_rows_of_the_full_sum_draw_their_own_noise():
  """Four rows of weights 1/4, 1/3, 1/2, 1 and mask chances 1, 3/4, 1/2, 1/4, nats 1 each: the
  variance of independent rows is 0.271, of a shared draw 0.479; its relative standard deviation
  over 4000 draws is below 3 %."""
  tokens, counted = repeated(4000, worlds.sequences(2, 1)[:1])
  table = jnp.tile(jnp.log(jnp.asarray([np.exp(-1), 1 - np.exp(-1)]))[None, None], (1, 4, 1))
  totals = full_sum(
    arbitrary_denoise,
    {'table': table},
    noise.absorbing(2),
    flat(1, 4),
    tokens,
    counted,
    jax.random.key(0),
  )
  np.testing.assert_allclose(np.var(totals), 0.271, rtol=0.15)


def test_flat_bound_falls_to_the_entropy_as_levels_grow():
  """The gap is O(1/T): 0.215, 0.060 and 0.008 nats; standard error of each figure below 0.01."""
  times = 2000
  weight_N = JOINT.reshape(-1)
  tokens, counted = repeated(times)
  gaps = []
  for num_levels in (1, 4, 32):
    draws = full_sum(
      exact_denoise, EXACT, ABSORBING, flat(3, num_levels), tokens, counted, jax.random.key(0)
    )
    ours, error = mean_and_error(draws, times)
    assert np.sqrt((error**2 * weight_N**2).sum()) < 0.01
    gaps.append(ours @ weight_N - worlds.entropy(JOINT))
  alone = sum(worlds.entropy(JOINT.sum(tuple({0, 1, 2} - {i}))) for i in range(3))
  np.testing.assert_allclose(gaps[0], alone - worlds.entropy(JOINT), atol=1e-4)  # all at once
  assert gaps[0] > gaps[1] + 0.1
  assert gaps[2] < 0.04


# Every process, on every kind of schedule.

PROCESSES = [
  ABSORBING,
  noise.uniform(VOCAB),
  noise.gamma_hybrid(VOCAB, 0.3),
  noise.gamma_hybrid(VOCAB, 0.1, delta=0.1, clock='cosine'),
  noise.epsilon_hybrid(VOCAB, 0.2),
]
USER = np.array([[3, 3, 3], [3, 1, 3], [2, 1, 3], [2, 0, 1], [0, 0, 1], [0, 0, 0]])
GROUPED = [flat(3, 3), block(3, 2, 2), slide(3, 2, 3), hybrid(3, 2, 2), from_levels(USER, 3)]
IN_ONE_STEP = [autoregressive(3), any_order([2, 0, 1]), any_order([0, 1, 0]), block(3, 2, 1)]


def library_bound(process, schedule):
  """float64[N], the bound of every sequence for the arbitrary network: the library's own terms and
  marginals over all canvases of every row, [N, C, L] of them, without a draw."""
  canvases_CxL = worlds.sequences(VOCAB + 1, LENGTH)
  shape = (len(SEQUENCES), len(canvases_CxL), LENGTH)
  bound_N = np.zeros(len(SEQUENCES))
  for step in range(schedule.num_steps):
    logits_CxLxV = np.asarray(
      arbitrary_denoise(
        ARBITRARY,
        jnp.asarray(canvases_CxL),
        sigma=None,
        regions=jnp.tile(jnp.asarray(schedule.regions(step))[None], (len(canvases_CxL), 1)),
        settle_step=None,
      ),
      np.float64,
    )
    with jax.enable_x64(True):
      logits, x0, x_t, t, s = (
        jnp.asarray(np.broadcast_to(x, (*shape, *x.shape[3:])))
        for x in (
          logits_CxLxV[None],
          SEQUENCES[:, None],
          canvases_CxL[None],
          (schedule.levels[step] / schedule.num_levels)[None, None],
          (schedule.levels[step + 1] / schedule.num_levels)[None, None],
        )
      )
      if isinstance(process, noise.EpsilonHybrid):
        logits = divergences.leave_one_out(logits, x_t)
      nats = np.asarray(divergences.posterior_kl(process, logits, x0, x_t, t, s))
      marginal = np.asarray(process.marginal_probs(x0, t))
    chance = np.take_along_axis(marginal, np.asarray(x_t)[..., None], 3)[..., 0].prod(axis=2)
    total = np.where(np.asarray(t > s), nats, 0.0).sum(axis=2)
    bound_N += np.where(chance > 0, chance * total, 0.0).sum(axis=1)
  return bound_N


@pytest.mark.parametrize('process', PROCESSES, ids=str)
@pytest.mark.parametrize('schedule', [*GROUPED, *IN_ONE_STEP], **by_name)
def test_bound_of_every_process_is_at_least_the_nats_of_its_own_chain(process, schedule):
  """For a network that knows nothing, in float64, against the enumerated chain of the posteriors:
  equal within 1e-6 where tokens come in one step from masks, otherwise above (by 1e-3 for some
  sequence). And the library's terms are those of explicit matrices."""
  bound = library_bound(process, schedule)
  expected = worlds.process_bound(arbitrary_denoise, ARBITRARY, process, schedule)
  np.testing.assert_allclose(bound, expected, rtol=1e-6)
  nats = -np.log(worlds.process_law(arbitrary_denoise, ARBITRARY, process, schedule))
  assert (bound >= nats - 1e-6).all()
  if schedule in IN_ONE_STEP and not isinstance(process, noise.Uniform):
    np.testing.assert_allclose(bound, nats, atol=1e-6)
  else:
    assert (bound > nats + 1e-3).any()


@pytest.mark.parametrize('schedule', BOUNDS, **by_name)
def test_references_of_every_process_agree_with_those_of_absorbing_noise(schedule):
  """Two independent enumerations."""
  for ours, theirs in (
    (worlds.process_bound, 'exhaustive_bound'),
    (worlds.process_law, 'chain_law'),
  ):
    np.testing.assert_allclose(
      ours(arbitrary_denoise, ARBITRARY, ABSORBING, schedule),
      getattr(worlds, theirs)(arbitrary_denoise, ARBITRARY, schedule, VOCAB),
      rtol=1e-9,
    )


def taught_denoise(params, canvas, **kwargs):
  """What a weighted cross-entropy teaches: p0(y)·([y = z] + 1/V) on a visible token z."""
  logits = exact_denoise(params, canvas, **kwargs)
  vocab_size = logits.shape[-1]
  seen = jax.nn.one_hot(canvas, vocab_size) + 1 / vocab_size
  return jnp.where((canvas < vocab_size)[..., None], logits + jnp.log(seen), logits)


@pytest.mark.parametrize('num_levels', [1, 2, 5])
@pytest.mark.parametrize('delta', [0.0, 0.1])
def test_bound_of_the_leave_one_out_optimum_is_the_entropy(num_levels, delta):
  """One token of 4: exactly (1e-6, the network being float32), whatever the process and T."""
  joint = worlds.random_joint(5, 4, 1)
  params = worlds.exact_params(joint)
  for process in (
    noise.absorbing(4, delta),
    noise.uniform(4, delta),
    *(noise.gamma_hybrid(4, gamma, delta, clock) for gamma in (0.1, 0.5) for clock in noise.CLOCKS),
    noise.epsilon_hybrid(4, 0.1, delta),
  ):
    denoise = taught_denoise if isinstance(process, noise.EpsilonHybrid) else exact_denoise
    bound = worlds.process_bound(denoise, params, process, flat(1, num_levels))
    np.testing.assert_allclose(
      joint @ bound, worlds.entropy(joint), atol=1e-6, err_msg=str(process)
    )
    wrong = exact_denoise if isinstance(process, noise.EpsilonHybrid) else taught_denoise
    if num_levels > 1 and process.resamples:  # that counts the visible token twice
      assert joint @ worlds.process_bound(wrong, params, process, flat(1, num_levels)) > (
        worlds.entropy(joint) + 1e-3
      )


def spread(times, sequences=SEQUENCES):
  """int32[times * N, L] and what counts: copies of a sequence all over the batch's grid of rows."""
  tokens = jnp.tile(jnp.asarray(sequences), (times, 1))
  return tokens, jnp.ones(tokens.shape, bool)


def assert_mean(draws, times, expected, share):
  """Within 5 standard errors, each below a share of the value; evenly spread rows only help.

  Returns the standard errors.
  """
  ours, error = mean_and_error(np.asarray(draws).reshape(times, -1).T, times)
  assert (np.abs(ours - expected) <= 5 * error).all(), (ours, expected, error)
  assert (error < share * expected).all(), error / expected
  return error


@pytest.mark.parametrize('process', PROCESSES[1:], ids=str)
def test_draws_of_every_process_average_to_the_exhaustive_bound(process):
  """Both estimates, 2000 draws a sequence."""
  schedule = block(3, 2, 2)
  tokens, counted = spread(2000)
  expected = worlds.process_bound(arbitrary_denoise, ARBITRARY, process, schedule)
  args = arbitrary_denoise, ARBITRARY, process, schedule, tokens, counted
  assert_mean(full_sum(*args, jax.random.key(0)), 2000, expected, 0.03)
  if isinstance(process, noise.GammaHybrid):
    assert_mean(monte_carlo(*args, jax.random.key(1), 2), 2000, expected, 0.03)


@functools.partial(jax.jit, static_argnums=(0, 2))
def score_integral(denoise, params, objective, schedule, tokens, counted, key):
  numbers = jnp.arange(len(tokens))
  return bounds.score_integral(
    denoise, params, objective, schedule, tokens, counted, numbers, key, 8
  )


@pytest.mark.parametrize(
  'process, make, denoise',
  [
    (noise.uniform(3), flat, arbitrary_denoise),
    (noise.gamma_hybrid(3, 0.3), lambda length, levels: block(length, 1, levels), tiled_denoise),
  ],
  ids=['uniform-flat', 'gamma_hybrid-block'],
)
def test_score_integral_is_the_limit_of_fine_levels(process, make, denoise):
  """The bound at T = 64, 128 and 256 extrapolated, 2·f(2T) - f(T), whose own error is below 5e-3;
  the mean of 6000 draws of 8 rows is within 5 standard errors of it. Near t = 0 a rare wrong token
  weighs much, so that a sequence's own error may reach 10 %; that of all sequences is below 2 %."""
  params, seqs = worlds.arbitrary_params(3, 3, 2), worlds.sequences(3, 2)
  coarse, middle, fine = (
    worlds.process_bound(arbitrary_denoise, params, process, make(2, t)) for t in (64, 128, 256)
  )
  limit = 2 * fine - middle
  np.testing.assert_allclose(limit, 2 * middle - coarse, atol=5e-3)
  tokens, counted = spread(6000, seqs)
  args = denoise, params, ScoreEntropy(process), make(2, 3), tokens, counted
  draws = np.asarray(score_integral(*args, jax.random.key(1)))
  errors = assert_mean(draws, 6000, limit, 0.1)
  error_of_all = np.sqrt((errors**2).sum()) / len(errors)
  assert abs(draws.mean() - limit.mean()) <= 5 * error_of_all
  assert error_of_all < 0.02 * limit.mean()


NETWORK = Transformer(TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2))


def test_autoregressive_bound_of_a_real_network_is_its_reading_nats():
  """S masked passes of one token each, and one pass over clean text."""
  schedule = autoregressive(5)
  denoiser = make_denoiser(
    NETWORK, schedule, alignment='shifted', context='causal', window='causal', bos_id=10, eos_id=0
  )
  params = nn.meta.unbox(denoiser.init(jax.random.key(0), 5))
  tokens = jax.random.randint(jax.random.key(1), (4, 5), 0, 11)
  ours = full_sum(
    denoiser,
    params,
    noise.absorbing(11),
    schedule,
    tokens,
    jnp.ones((4, 5), bool),
    jax.random.key(2),
  )
  read = reading_nats(denoiser, params, tokens)
  np.testing.assert_allclose(ours, read.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize('window', ['full', 'causal'])
@pytest.mark.parametrize('context', ['causal', 'block_causal'])
@pytest.mark.parametrize('alignment', ['aligned', 'shifted'])
def test_a_draw_of_a_real_network_is_of_all_its_blocks(alignment, context, window):
  """Of blocks that come about in one step there is but one row each, and nothing is noised: one
  pass over clean and noisy tokens is a pass for each block. Also where tokens are given."""
  schedule = block(6, 2, 1)
  denoiser = make_denoiser(
    *(NETWORK, schedule),
    **dict(alignment=alignment, context=context, window=window, bos_id=10, eos_id=0),
  )
  params = nn.meta.unbox(denoiser.init(jax.random.key(0), 6))
  tokens = jax.random.randint(jax.random.key(1), (4, 6), 0, 11)
  counted = jnp.arange(24).reshape(4, 6) % 5 != 0
  args = denoiser, params, noise.absorbing(11), schedule, tokens, counted, jax.random.key(2)
  np.testing.assert_allclose(monte_carlo(*args, 1), full_sum(*args), atol=1e-4)


@pytest.mark.parametrize(
  'rules', [('aligned', 'causal', 'causal'), ('shifted', 'block_causal', 'causal')]
)
def test_reading_refuses_a_denoiser_that_sees_what_it_predicts(rules):
  alignment, context, window = rules
  denoiser = make_denoiser(
    NETWORK,
    autoregressive(5),
    alignment=alignment,
    context=context,
    window=window,
    bos_id=10,
    eos_id=0,
  )
  with pytest.raises(ValueError, match='shifted, context causal, window causal'):
    reading_nats(denoiser, {}, jnp.zeros((1, 5), jnp.int32))


def test_bounds_run_without_jit():
  """The levels of a schedule are numpy and the row a traced scan index."""
  tokens, counted = repeated(1)
  args = exact_denoise, EXACT, ABSORBING, autoregressive(3), tokens, counted, np.arange(len(tokens))
  for call in (
    lambda key: bounds.full_sum(*args, key),
    lambda key: bounds.monte_carlo(*args, key, 3),
  ):
    np.testing.assert_allclose(call(jax.random.key(0)), -np.log(JOINT.reshape(-1)), atol=1e-4)
