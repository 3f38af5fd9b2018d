"""Attention masks against a double loop, and gradients that must not leak through the network."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covers import pairwise

from ardiff_jax import masks
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, slide
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig

LENGTH, VOCAB, BOS = 6, 11, 10
MOVING = [block(LENGTH, 2, 2), block(LENGTH, 4, 1), slide(LENGTH, 3, 2), autoregressive(LENGTH)]
CONTEXTS = ('causal', 'block_causal', 'full')
WINDOWS = ('full', 'causal')


def may_attend(region, settle, context, window):
  """bool[R, R], query by key, from the words of the rules; row r is at position r."""
  rows = range(len(region))
  allowed = np.zeros((len(region), len(region)), bool)
  for i in rows:
    for j in rows:
      if region[i] == Region.SETTLED and region[j] == Region.SETTLED:
        allowed[i, j] = {
          'causal': (settle[j], j) <= (settle[i], i),
          'block_causal': settle[j] <= settle[i],
          'full': True,
        }[context]
      elif region[i] == Region.ACTIVE and region[j] == Region.SETTLED:
        allowed[i, j] = True
      elif region[i] == Region.ACTIVE and region[j] == Region.ACTIVE:
        allowed[i, j] = window == 'full' or j <= i
  return allowed


@functools.partial(jax.jit, static_argnums=(2, 3))
def dense(regions, settle, context, window):
  sight = masks.Sight(window)
  return masks.from_regions(regions, settle, context=context, sight=sight).dense()


@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('window', WINDOWS)
def test_dense_mask_is_the_double_loop(context, window):
  for schedule in (*MOVING, flat(LENGTH, 2), slide(LENGTH, 3, 5)):
    settle = schedule.settle_step
    for step in range(schedule.num_steps):
      regions = schedule.regions(step)
      expected = may_attend(regions, settle, context, window)
      found = dense(regions, settle, context, window)
      np.testing.assert_array_equal(found, expected, f'{schedule.name}, step {step}')


def test_causal_context_follows_the_order_of_settling_not_of_position():
  """Tokens that settle in the order 2, 0, 1."""
  settle = np.array([2, 3, 1])
  regions = np.zeros(3, np.int8)
  for context in ('causal', 'block_causal'):
    found = dense(regions, settle, context, 'full')
    np.testing.assert_array_equal(found, [[1, 0, 1], [1, 1, 1], [0, 0, 1]], context)


def test_batch_of_regions_gives_a_mask_each():
  schedule = block(LENGTH, 2, 2)
  steps = np.array([0, 3, 5])
  settle = np.asarray(schedule.settle_step)
  found = dense(schedule.regions(steps), settle, 'causal', 'causal')
  expected = [may_attend(schedule.regions(s), settle, 'causal', 'causal') for s in steps]
  np.testing.assert_array_equal(found, expected)


def test_unknown_context_rule_is_refused():
  with pytest.raises(ValueError, match='causal, block_causal, full'):
    masks.from_regions(jnp.zeros(2, jnp.int8), np.ones(2), context='blockwise', sight=masks.Sight())


# Through the network.

NETWORK = Transformer(
  TransformerConfig(
    vocab_size=VOCAB, model_dim=16, num_layers=2, num_heads=2, tie_embedding=False, remat='none'
  )
)


@pytest.fixture(scope='module')
def params():
  tokens = jnp.zeros((1, LENGTH), jnp.int32)
  variables = jax.jit(NETWORK.init)(
    jax.random.key(0), tokens, sigma=jnp.zeros((1, LENGTH)), positions=jnp.arange(LENGTH)
  )
  return nn.meta.unbox(variables)


def make(schedule, alignment, context, window):
  return make_denoiser(
    NETWORK, schedule, alignment=alignment, context=context, window=window, bos_id=BOS, eos_id=0
  )


@functools.partial(jax.jit, static_argnums=0)
def logits_of(denoiser, params, canvas, regions, settle_step):
  sigma = jnp.zeros(canvas.shape)
  return denoiser(params, canvas, sigma=sigma, regions=regions, settle_step=settle_step)


@jax.jit(static_argnums=0)
def sensitivities(denoiser, params, canvas_L, regions_L, settle_L):
  """float32[L, V+1], how much the logits of each position react to the embedding of each token."""

  def projected(embedding):
    changed = {'params': {**params['params'], 'embedding': embedding}}
    logits = denoiser(
      changed,
      canvas_L[None],
      sigma=jnp.zeros((1, LENGTH)),
      regions=regions_L,
      settle_step=settle_L,
    )
    return (logits[0] * jax.random.normal(jax.random.key(1), logits.shape[1:])).sum(axis=1)

  jacobian = jax.jacrev(projected)(params['params']['embedding'])
  return jnp.abs(jacobian).max(axis=-1)[:, : VOCAB + 1]


def accepted():
  for schedule in MOVING:
    for context in CONTEXTS:
      yield from ((schedule, 'aligned', context, window) for window in WINDOWS)
      yield schedule, 'shifted', context, 'causal'
  for alignment in ('aligned', 'shifted'):
    yield from ((flat(LENGTH, 2), alignment, 'causal', window) for window in WINDOWS)


@pytest.mark.parametrize('schedule, alignment, context, window', pairwise(cases=accepted()))
def test_each_output_reacts_to_the_tokens_it_may_see_and_to_no_other(
  schedule, alignment, context, window, params
):
  """Each position shows a token of its own, so that a gradient names the position it came from.

  Through two layers a row is reached by whatever its keys are reached by: the square of the mask.
  """
  denoiser = make(schedule, alignment, context, window)
  canvas_L, settle_L = np.array([7, 2, 5, 0, 3, 8]), schedule.settle_step
  for step in range(schedule.num_steps):
    regions_L = schedule.regions(step)
    reacts = np.asarray(sensitivities(denoiser, params, canvas_L, regions_L, settle_L))
    region, settle, shown = regions_L, settle_L, canvas_L
    if alignment == 'shifted':  # row i shows token i-1, the first BOS
      region, settle, shown = np.append(0, region), np.append(0, settle), np.append(BOS, shown)
    once = may_attend(region, settle, context, window) | np.eye(len(region), dtype=bool)
    if alignment == 'shifted' and window == 'full':
      once[:] = True  # every row, BOS included, is in one window
    twice = (once.astype(int) @ once) > 0
    expected = np.zeros((LENGTH, VOCAB + 1), bool)
    for i in range(LENGTH):
      for row, token in enumerate(shown):
        expected[i, token] |= twice[i, row]
    # below float32's noise a path that should be there would not be
    np.testing.assert_array_equal(reacts > 1e-7, expected, f'step {step}')
    np.testing.assert_array_equal(reacts[~expected], 0.0)  # not small: none

    alive = regions_L != Region.WORTHLESS
    for i in np.flatnonzero(regions_L == Region.ACTIVE):
      seen = reacts[i, canvas_L] > 0
      assert not seen[~alive].any()
      assert seen[regions_L == Region.SETTLED].all()
      if window == 'causal':
        assert not seen[i + 1 :].any()
        assert seen[i] == (alignment == 'aligned')
      elif alignment == 'aligned':
        assert seen[regions_L == Region.ACTIVE].all()


def test_dead_rows_influence_nothing(params):
  """Whatever a worthless token is, every other output is the same bit for bit."""
  schedule = block(LENGTH, 2, 2)
  denoiser = make(schedule, 'aligned', 'causal', 'full')
  regions_L, settle_L = schedule.regions(2), schedule.settle_step
  alive = regions_L != Region.WORTHLESS
  assert alive.sum() == 4
  logits = [
    np.asarray(
      logits_of(denoiser, params, np.array([[7, 2, 5, 0, *dead]] * 3), regions_L, settle_L)
    )[0]
    for dead in ((VOCAB, VOCAB), (3, 9))
  ]
  np.testing.assert_array_equal(logits[0][alive], logits[1][alive])
  assert (logits[0][~alive] != logits[1][~alive]).any()


@pytest.mark.parametrize('context', ['causal', 'block_causal'])
def test_reading_in_one_pass_is_the_autoregressive_schedule_step_by_step(context, params):
  """A shifted causal denoiser is an ordinary language model."""
  schedule = autoregressive(LENGTH)
  denoiser = make(schedule, 'shifted', context, 'causal')
  tokens = np.random.default_rng(2).integers(0, VOCAB, (3, LENGTH))
  settle_L = schedule.settle_step
  read = logits_of(denoiser, params, tokens, np.zeros(LENGTH, np.int8), settle_L)
  for step in range(LENGTH):
    canvas = np.where(np.arange(LENGTH) < step, tokens, VOCAB)
    stepped = logits_of(denoiser, params, canvas, schedule.regions(step), settle_L)
    np.testing.assert_allclose(stepped[:, step], read[:, step], atol=1e-5)
  assert np.ptp(np.asarray(read), axis=1).min() > 0.01  # rows differ, so the match says something


def test_flat_needs_no_mask_and_gives_what_the_mask_would(params):
  schedule = flat(LENGTH, 2)
  denoiser = make(schedule, 'aligned', 'causal', 'full')
  assert denoiser.always_active
  masked = make(block(LENGTH, LENGTH - 1, 2), 'aligned', 'causal', 'full')
  assert not masked.always_active
  canvas = np.array([[7, 2, 5, 0, 3, 8]] * 3)
  rest = canvas, schedule.regions(0), schedule.settle_step
  np.testing.assert_allclose(
    logits_of(denoiser, params, *rest), logits_of(masked, params, *rest), atol=1e-5
  )


@pytest.mark.parametrize(
  'alignment, context, window, message',
  [
    ('centred', 'causal', 'full', 'alignment .* one of aligned, shifted'),
    ('aligned', 'blocks', 'full', 'context .* one of causal, block_causal, full'),
    ('aligned', 'causal', 'next', 'window .* one of full, causal, causal_next'),
  ],
)
def test_unknown_names_are_refused(alignment, context, window, message):
  with pytest.raises(ValueError, match=message):
    make(flat(LENGTH, 2), alignment, context, window)
