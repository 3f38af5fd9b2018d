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
# For the references; arguments by keyword.
exact, arbitrary = worlds.jitted(exact_denoise), worlds.jitted(arbitrary_denoise)
NUM = 16_200  # examples of every batch of draws, so that they share programs
FEW = SEQUENCES[[0, 3, 7, 11, 14, 18, 23, 26]]  # 2025 draws each
FEWER = SEQUENCES[[0, 7, 14, 23]]  # 4050 draws each


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


def spread(sequences=SEQUENCES, num=NUM):
  """int32[num, L] and what counts: copies of each sequence all over the batch."""
  tokens = np.tile(sequences, (num // len(sequences), 1))
  return tokens, np.ones(tokens.shape, bool)


def mean_and_error(draws_B, num_sequences):
  """The mean of each sequence's draws, and its standard error."""
  draws = np.asarray(draws_B, np.float64).reshape(-1, num_sequences)
  return draws.mean(axis=0), draws.std(axis=0) / np.sqrt(len(draws))


def assert_mean(draws_B, expected, share, floor=0.0):
  """Within 5 standard errors, each below a share of the value; evenly spread rows only help.

  Returns the standard errors.
  """
  ours, error = mean_and_error(draws_B, len(expected))
  assert (np.abs(ours - expected) <= 5 * error + floor).all(), (ours, expected, error)
  assert (error < share * expected).all(), error / expected
  return error


# The references themselves.


@pytest.mark.parametrize('schedule', [*EXACT_NLL, *BOUNDS], **by_name)
@pytest.mark.parametrize('seed, vocab_size', [(0, 3), (1, 2)])
def test_bound_of_the_exact_denoiser_is_at_least_the_nats(schedule, seed, vocab_size):
  """And equal where tokens come one at a time."""
  joint = worlds.random_joint(seed, vocab_size, LENGTH)
  bound = worlds.exhaustive_bound(exact, worlds.exact_params(joint), schedule, vocab_size)
  nats = -np.log(joint.reshape(-1))
  if schedule in EXACT_NLL:
    np.testing.assert_allclose(bound, nats, atol=1e-5)
  else:  # each x_0's bound is above what the sampler gives it; on average above the entropy
    law = worlds.chain_law(exact, worlds.exact_params(joint), schedule, vocab_size)
    assert (bound >= -np.log(law) - 1e-5).all()
    assert (joint.reshape(-1) * bound).sum() > worlds.entropy(joint) + 1e-3


@pytest.mark.parametrize('schedule', [*EXACT_NLL, *BOUNDS], **by_name)
def test_bound_of_any_network_is_at_least_the_nats_of_its_own_sampler(schedule):
  bound = worlds.exhaustive_bound(arbitrary, ARBITRARY, schedule, VOCAB)
  nats = -np.log(worlds.chain_law(arbitrary, ARBITRARY, schedule, VOCAB))
  assert (bound >= nats - 1e-5).all()
  if schedule in EXACT_NLL or schedule.num_steps == 1:  # nothing random beside what is drawn
    np.testing.assert_allclose(bound, nats, atol=1e-5)
  else:
    assert (bound > nats + 1e-3).any()


# The library against them.


@pytest.mark.parametrize(
  'denoise, params, schedule',
  [
    (exact_denoise, EXACT, EXACT_NLL[0]),
    *((arbitrary_denoise, ARBITRARY, schedule) for schedule in EXACT_NLL),
  ],
  ids=['exact-autoregressive', *(f'any-{schedule.name}' for schedule in EXACT_NLL)],
)
def test_full_sum_without_noise_is_exact(denoise, params, schedule):
  """Tokens one at a time, one level each: no draw is left to average."""
  tokens, counted = spread()
  draws = full_sum(denoise, params, ABSORBING, schedule, tokens, counted, jax.random.key(0))
  expected = worlds.exhaustive_bound(worlds.jitted(denoise), params, schedule, VOCAB)
  if schedule.num_levels == 1:
    np.testing.assert_allclose(draws, np.tile(expected, NUM // len(expected)), atol=1e-5)
  else:  # which level the token is revealed at is still random
    assert_mean(draws, expected, 0.06)


@pytest.mark.parametrize('schedule', BOUNDS, **by_name)
def test_full_sum_averages_to_the_exhaustive_bound(schedule):
  """2025 draws: within 5 measured standard errors, each below 3 % of the value."""
  args = arbitrary_denoise, ARBITRARY, ABSORBING, schedule
  draws = full_sum(*args, *spread(FEW), jax.random.key(0))
  expected = worlds.exhaustive_bound(arbitrary, ARBITRARY, schedule, VOCAB)
  assert_mean(draws, expected[worlds.index_of(FEW, VOCAB)], 0.03, floor=1e-5)


@pytest.mark.parametrize(
  'num_samples, denoise, schedule',
  [
    (1, arbitrary_denoise, autoregressive(3)),
    (5, arbitrary_denoise, flat(3, 4)),
    (5, tiled_denoise, block(3, 2, 2)),
    (1, tiled_denoise, block(3, 1, 4)),
    (1, tiled_denoise, slide(3, 2, 2)),
    (5, tiled_denoise, slide(3, 2, 5)),
    (5, tiled_denoise, hybrid(3, 2, 2)),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (
        *((n, arbitrary_denoise, slide(3, 2, 2)) for n in (1, 5)),
        (5, arbitrary_denoise, autoregressive(3)),
        (1, arbitrary_denoise, flat(3, 4)),
        *((1, tiled_denoise, x) for x in (block(3, 2, 2), slide(3, 2, 5), hybrid(3, 2, 2))),
        *((5, tiled_denoise, x) for x in (block(3, 1, 4), slide(3, 2, 2))),
      )
    ),
  ],
  ids=lambda x: str(x) if isinstance(x, int) else getattr(x, 'name', type(x).__name__),
)
def test_monte_carlo_is_unbiased(denoise, schedule, num_samples):
  """4050 draws of 4 sequences: within 5 standard errors of the exhaustive value, each below 5 %.

  Copies of a sequence lie all over the batch's grid of rows, which is evenly spaced: the standard
  error of independent draws overstates theirs.
  """
  args = denoise, ARBITRARY, ABSORBING, schedule
  draws = monte_carlo(*args, *spread(FEWER), jax.random.key(1), num_samples)
  expected = worlds.exhaustive_bound(arbitrary, ARBITRARY, schedule, VOCAB)
  assert_mean(draws, expected[worlds.index_of(FEWER, VOCAB)], 0.05)


def test_a_row_of_every_block_tells_more_than_one_row():
  """Of three blocks of one token, one draw each: the errors are 0.063 of 0.117 nats."""
  args = ARBITRARY, ABSORBING, block(3, 1, 4), *spread(), jax.random.key(1), 1
  errors = [
    mean_and_error(monte_carlo(denoise, *args), len(SEQUENCES))[1].mean()
    for denoise in (arbitrary_denoise, tiled_denoise)
  ]
  assert errors[1] < 0.6 * errors[0]


def test_monte_carlo_spreads_its_rows_evenly():
  """As many samples as rows: each sequence meets each row once, so AR is exact at any shift."""
  args = arbitrary_denoise, ARBITRARY, ABSORBING, autoregressive(3), *spread()
  expected = worlds.exhaustive_bound(arbitrary, ARBITRARY, autoregressive(3), VOCAB)
  expected = np.tile(expected, NUM // len(expected))
  for seed in range(3):
    ours = monte_carlo(*args, jax.random.key(seed), 3)
    np.testing.assert_allclose(ours, expected, atol=1e-4, err_msg=f'seed {seed}')


@pytest.mark.parametrize('estimate', [full_sum, functools.partial(monte_carlo, num_samples=5)])
def test_draws_for_a_sequence_are_its_own(estimate):
  """Whatever stands beside it, and however many: those of a number, and others of another."""
  tokens, counted = spread(FEWER)
  key, args = jax.random.key(4), (arbitrary_denoise, ARBITRARY, ABSORBING, flat(3, 4))
  together = estimate(*args, tokens, counted, key=key)
  few = estimate(*args, tokens[:5], counted[:5], key=key)
  np.testing.assert_allclose(few, together[:5], rtol=1e-6)
  assert len(np.unique(np.asarray(together[:12:4]))) > 1  # the same sequence three times


@pytest.mark.parametrize('schedule', [autoregressive(3), flat(3, 3)], **by_name)
def test_tokens_that_do_not_count_are_given(schedule):
  """The bound is then conditional: NLL of the rest given them, exactly so one at a time."""
  tokens, counted = spread()
  counted[:, 1] = False
  draws = full_sum(exact_denoise, EXACT, ABSORBING, schedule, tokens, counted, jax.random.key(0))
  ours, error = mean_and_error(draws, len(SEQUENCES))
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
  table = np.asarray(worlds.arbitrary_params(2, VOCAB, 1)['table'])
  params = {'table': jnp.asarray(np.broadcast_to(table[:, :1], table.shape))}
  args = arbitrary_denoise, params, process, flat(1, 4), *spread(worlds.sequences(VOCAB, 1))
  expected = -np.log(worlds.softmax(np.float64(table[0, 0])))
  assert_mean(full_sum(*args, jax.random.key(0)), expected, 0.02)


def test_rows_of_the_full_sum_draw_their_own_noise():
  """Four rows of weights 1/4, 1/3, 1/2, 1 and mask chances 1, 3/4, 1/2, 1/4, nats 1 each: the
  variance of independent rows is 0.271, of a shared draw 0.479; its relative standard deviation
  over 16,200 draws is below 2 %."""
  nats = np.array([np.exp(-1), 0.5 - np.exp(-1) / 2, 0.5 - np.exp(-1) / 2], np.float32)
  params = {'table': jnp.asarray(np.tile(np.log(nats), (1, VOCAB + 2, 1)))}
  args = arbitrary_denoise, params, ABSORBING, flat(1, 4), *spread(np.zeros((1, 1), np.int64))
  np.testing.assert_allclose(np.var(full_sum(*args, jax.random.key(0))), 0.271, rtol=0.1)


def test_flat_bound_falls_to_the_entropy_as_levels_grow():
  """The gap is O(1/T): 0.215, 0.060 and 0.008 nats; standard error of each figure below 0.01."""
  weight_N, gaps = JOINT.reshape(-1), []
  for num_levels in (1, 4, 32):
    args = exact_denoise, EXACT, ABSORBING, flat(3, num_levels), *spread()
    ours, error = mean_and_error(full_sum(*args, jax.random.key(0)), len(SEQUENCES))
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


def library_bounds(process, schedules):
  """float64[N] for each schedule, the bound of every sequence for the arbitrary network: the
  library's own terms and marginals over all canvases of every row, without a draw."""
  canvases_CxL = worlds.sequences(VOCAB + 1, LENGTH)
  every = [(schedule, step) for schedule in schedules for step in range(schedule.num_steps)]
  shape = len(every), len(SEQUENCES), len(canvases_CxL), LENGTH  # of a row, x_0, x_t
  logits_RxCxLxV = np.stack([worlds.outputs(arbitrary, ARBITRARY, *row, VOCAB)[0] for row in every])
  t_RxL, s_RxL = (
    np.stack([x.levels[step + i] / x.num_levels for x, step in every]) for i in (0, 1)
  )

  @jax.jit
  def terms(logits, x0, x_t, t, s):
    if isinstance(process, noise.EpsilonHybrid):
      logits = divergences.leave_one_out(logits, x_t)
    nats = divergences.posterior_kl(process, logits, x0, x_t, t, s)
    marginal = process.marginal_probs(x0, t)
    return nats, jnp.take_along_axis(marginal, x_t[..., None], axis=-1)[..., 0]

  with jax.enable_x64(True):
    nats, chance = terms(
      *(
        np.broadcast_to(x, (*shape, *x.shape[4:]))
        for x in (
          logits_RxCxLxV[:, None],
          SEQUENCES[None, :, None],
          canvases_CxL[None, None],
          t_RxL[:, None, None],
          s_RxL[:, None, None],
        )
      )
    )
  moves = (t_RxL > s_RxL)[:, None, None]
  total = np.where(moves, nats, 0.0).sum(axis=-1)
  chance = np.asarray(chance).prod(axis=-1)
  terms_RxN = np.where(chance > 0, chance * total, 0.0).sum(axis=-1)
  ends = np.cumsum([schedule.num_steps for schedule in schedules])
  return [rows.sum(axis=0) for rows in np.split(terms_RxN, ends[:-1])]


@pytest.mark.parametrize('process', PROCESSES, ids=str)
def test_bound_of_every_process_is_at_least_the_nats_of_its_own_chain(process):
  """For a network that knows nothing, in float64, against the enumerated chain of the posteriors:
  equal within 1e-6 where tokens come in one step from masks, otherwise above (by 1e-3 for some
  sequence). And the library's terms are those of explicit matrices."""
  schedules = [*GROUPED, *IN_ONE_STEP]
  found = library_bounds(process, schedules)
  for schedule, bound in zip(schedules, found, strict=True):
    name = schedule.name
    expected = worlds.process_bound(arbitrary, ARBITRARY, process, schedule)
    np.testing.assert_allclose(bound, expected, rtol=1e-6, err_msg=name)
    nats = -np.log(worlds.process_law(arbitrary, ARBITRARY, process, schedule))
    assert (bound >= nats - 1e-6).all(), name
    if schedule in IN_ONE_STEP and not isinstance(process, noise.Uniform):
      np.testing.assert_allclose(bound, nats, atol=1e-6, err_msg=name)
    else:
      assert (bound > nats + 1e-3).any(), name


@pytest.mark.parametrize('schedule', BOUNDS, **by_name)
def test_references_of_every_process_agree_with_those_of_absorbing_noise(schedule):
  """Two independent enumerations."""
  for ours, theirs in (
    (worlds.process_bound, 'exhaustive_bound'),
    (worlds.process_law, 'chain_law'),
  ):
    np.testing.assert_allclose(
      ours(arbitrary, ARBITRARY, ABSORBING, schedule),
      getattr(worlds, theirs)(arbitrary, ARBITRARY, schedule, VOCAB),
      rtol=1e-9,
    )


@worlds.jitted
def taught(params, canvas, **kwargs):
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
    denoise = taught if isinstance(process, noise.EpsilonHybrid) else exact
    bound = worlds.process_bound(denoise, params, process, flat(1, num_levels))
    np.testing.assert_allclose(
      joint @ bound, worlds.entropy(joint), atol=1e-6, err_msg=str(process)
    )
    wrong = exact if isinstance(process, noise.EpsilonHybrid) else taught
    if num_levels > 1 and process.resamples:  # that counts the visible token twice
      assert joint @ worlds.process_bound(wrong, params, process, flat(1, num_levels)) > (
        worlds.entropy(joint) + 1e-3
      )


@pytest.mark.parametrize(
  'estimate, process',
  [
    *((full_sum, process) for process in (PROCESSES[1], PROCESSES[3], PROCESSES[4])),
    (functools.partial(monte_carlo, num_samples=2), PROCESSES[2]),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (
        (full_sum, PROCESSES[2]),
        (functools.partial(monte_carlo, num_samples=2), PROCESSES[3]),
      )
    ),
  ],
  ids=lambda x: str(x) if isinstance(x, noise.Process) else type(x).__name__,
)
def test_draws_of_every_process_average_to_the_exhaustive_bound(estimate, process):
  """2025 draws a sequence."""
  schedule = block(3, 2, 2)
  draws = estimate(
    arbitrary_denoise, ARBITRARY, process, schedule, *spread(FEW), key=jax.random.key(0)
  )
  expected = worlds.process_bound(arbitrary, ARBITRARY, process, schedule)
  assert_mean(draws, expected[worlds.index_of(FEW, VOCAB)], 0.03)


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
  params, pairs = worlds.arbitrary_params(3, 3, 2), worlds.sequences(3, 2)
  coarse, middle, fine = (
    worlds.process_bound(arbitrary, params, process, make(2, t)) for t in (64, 128, 256)
  )
  limit = 2 * fine - middle
  np.testing.assert_allclose(limit, 2 * middle - coarse, atol=5e-3)
  args = denoise, params, ScoreEntropy(process), make(2, 3), *spread(pairs, 6000 * len(pairs))
  draws = np.asarray(score_integral(*args, jax.random.key(1)))
  errors = assert_mean(draws, limit, 0.1)
  error_of_all = np.sqrt((errors**2).sum()) / len(errors)
  assert abs(draws.mean() - limit.mean()) <= 5 * error_of_all
  assert error_of_all < 0.02 * limit.mean()


NETWORK = Transformer(TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2))


def real(schedule, alignment, context, window):
  return make_denoiser(
    *(NETWORK, schedule),
    **dict(alignment=alignment, context=context, window=window, bos_id=10, eos_id=0),
  )


@pytest.fixture(scope='module')
def network():
  """Parameters of NETWORK."""
  denoiser = real(autoregressive(6), 'shifted', 'causal', 'causal')
  return nn.meta.unbox(jax.jit(denoiser.init, static_argnums=1)(jax.random.key(0), 6))


TOKENS = np.random.default_rng(1).integers(0, 11, (4, 6))


def test_autoregressive_bound_of_a_real_network_is_its_reading_nats(network):
  """S masked passes of one token each, and one pass over clean text."""
  schedule = autoregressive(6)
  denoiser = real(schedule, 'shifted', 'causal', 'causal')
  args = denoiser, network, noise.absorbing(11), schedule, TOKENS, np.ones(TOKENS.shape, bool)
  ours = full_sum(*args, jax.random.key(2))
  read = jax.jit(reading_nats, static_argnums=0)(denoiser, network, TOKENS)
  np.testing.assert_allclose(ours, read.sum(axis=1), atol=1e-4)


@pytest.mark.parametrize(
  'alignment, context, window',
  [  # that the pass is that of each block under all rules is in test_layouts
    ('aligned', 'causal', 'full'),
    ('shifted', 'block_causal', 'causal'),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (
        *(('aligned', 'causal', 'causal'), ('aligned', 'block_causal', 'full')),
        *(('aligned', 'block_causal', 'causal'), ('shifted', 'causal', 'full')),
        *(('shifted', 'causal', 'causal'), ('shifted', 'block_causal', 'full')),
      )
    ),
  ],
)
def test_a_draw_of_a_real_network_is_of_all_its_blocks(alignment, context, window, network):
  """Of blocks that come about in one step there is but one row each, and nothing is noised: one
  pass over clean and noisy tokens is a pass for each block. Also where tokens are given."""
  schedule = block(6, 2, 1)
  denoiser = real(schedule, alignment, context, window)
  counted = np.arange(24).reshape(4, 6) % 5 != 0
  args = denoiser, network, noise.absorbing(11), schedule, TOKENS, counted, jax.random.key(2)
  np.testing.assert_allclose(monte_carlo(*args, 1), full_sum(*args), atol=1e-4)


@pytest.mark.parametrize(
  'rules', [('aligned', 'causal', 'causal'), ('shifted', 'block_causal', 'causal')]
)
def test_reading_refuses_a_denoiser_that_sees_what_it_predicts(rules):
  denoiser = real(autoregressive(5), *rules)
  with pytest.raises(ValueError, match='shifted, context causal, window causal'):
    reading_nats(denoiser, {}, jnp.zeros((1, 5), jnp.int32))


def test_bounds_run_without_jit():
  """The levels of a schedule are numpy and the row a traced scan index."""
  counted = np.ones(SEQUENCES.shape, bool)
  args = exact_denoise, EXACT, ABSORBING, autoregressive(3), SEQUENCES, counted, np.arange(27)
  for call in (
    lambda key: bounds.full_sum(*args, key),
    lambda key: bounds.monte_carlo(*args, key, 3),
  ):
    np.testing.assert_allclose(call(jax.random.key(0)), -np.log(JOINT.reshape(-1)), atol=1e-4)
