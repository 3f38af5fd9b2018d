"""Rows of the network: what each prediction can depend on, doubled passes and the cache."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from covers import pairwise

from ardiff_jax import rng, rows
from ardiff_jax.hyperschedules import (
  Region,
  any_order,
  ar_diffusion,
  autoregressive,
  block,
  flat,
  hybrid,
  slide,
)
from ardiff_jax.models.cache import Cache
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.noise import absorbing, epsilon_hybrid, gamma_hybrid
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.steppers import AdaptiveCorrection, Analytic, Ancestral, Remasking

LENGTH, VOCAB, BOS, EOS = 7, 20, 18, 19
NETWORK = Transformer(
  TransformerConfig(
    vocab_size=VOCAB,
    model_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    conditioning='adaln',
    tie_embedding=False,
    remat='none',
  )
)
CLEAN = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 1, EOS, 3, 4, EOS, 6]])
NOISY = np.array([[7, 8, 9, 10, 11, 12, 13], [13, 12, 11, 10, 9, 8, 7]])
RULES = [
  ('aligned', 'full'),
  ('aligned', 'causal'),
  ('shifted', 'full'),
  ('shifted', 'causal'),
  ('shifted', 'causal_next'),
]
PACKED = 'block_causal, packed, near'
# Each of these is programs of its own, so all tests choose theirs from six in which any two of
# alignment, window and context meet; the rest runs in `--full`.
CONTEXTS = ('causal', 'block_causal', PACKED)
SETS = [(*rules, context) for rules in RULES for context in ('causal', PACKED)]
MEETING = [
  ('aligned', 'full', 'causal'),
  ('aligned', 'causal', PACKED),
  ('shifted', 'full', PACKED),
  ('shifted', 'causal', 'causal'),
  ('shifted', 'causal_next', 'causal'),
  ('shifted', 'causal_next', PACKED),
]
TILING = [
  block(LENGTH, 3, 2),
  block(LENGTH, 2, 3),
  slide(LENGTH, 3, 3),
  slide(LENGTH, 3, 2),
  slide(LENGTH, 2, 5),
  hybrid(LENGTH, 3, 2),
  hybrid(LENGTH, 4, 2),
  hybrid(LENGTH, 7, 3),
]
MOVING = [*TILING, autoregressive(LENGTH), ar_diffusion(LENGTH, 3)]
# Shapes and static values are the same for all schedules, so that they share programs.
MOST_TILES = LENGTH


def under_rules(schedules, chosen=MEETING, every=SETS):
  """Parametrises over schedules and sets of rules: of the chosen ones a pairwise cover."""
  cases = pairwise(cases=[(schedule, *rules) for schedule in schedules for rules in chosen])
  left = [(schedule, *rules) for schedule in schedules for rules in every if rules not in chosen]
  cases += [
    pytest.param(*case, id='-'.join([case[0].name, *case[1:]]), marks=pytest.mark.full)
    for case in left
  ]
  return pytest.mark.parametrize('schedule, alignment, window, context', cases)


@functools.cache
def params():
  tokens = jnp.zeros((1, LENGTH), jnp.int32)
  init = jax.jit(NETWORK.init)
  variables = init(
    jax.random.key(0), tokens, sigma=jnp.zeros((1, LENGTH)), positions=jnp.arange(LENGTH)
  )
  # the modulation starts at zero, which would hide what the noise levels do
  leaves, tree = jax.tree.flatten(nn.meta.unbox(variables))
  noise = [0.2 * np.random.default_rng(i).standard_normal(x.shape) for i, x in enumerate(leaves)]
  leaves = [
    jnp.asarray(x + y, x.dtype) for x, y in zip(map(np.asarray, leaves), noise, strict=True)
  ]
  return jax.tree.unflatten(tree, leaves)


@pytest.fixture(scope='module', autouse=True)
def params_outside_jit():
  params()


def make(schedule, alignment, context, window):
  packed = context == PACKED and schedule.left_to_right  # documents need an order
  return make_denoiser(
    NETWORK,
    schedule,
    alignment=alignment,
    context='block_causal' if context == PACKED else context,
    window=window,
    bos_id=BOS,
    eos_id=EOS,
    separate_documents=packed,
    context_length=max(3, schedule.window_size) if packed else 0,
  )


UNIFORMS = (0.1, 0.55, 0.9, 0.15, 0.7)


@functools.cache
def drawn_rows(schedule):
  """Rows of UNIFORMS, as numpy."""
  drawn = jax.jit(lambda uniform: rows.tiled(schedule, uniform))(jnp.asarray(UNIFORMS))
  return jax.tree.map(np.asarray, drawn)


# What a prediction may depend on, from the words of the rules, row by row.


def reference(schedule, steps_L, denoiser, clean_L):
  """The rows of a pass over positions shown at rows `steps_L`, and bool[rows, rows] of who sees
  whom; each row is (the token it shows, of the clean or the noisy canvas, what it predicts)."""
  alignment, context = denoiser.rules.alignment, denoiser.rules.context
  window, separate = denoiser.rules.window, denoiser.rules.separate_documents
  shifted, length, back = alignment == 'shifted', schedule.length, denoiser.rules.context_length
  settle = [int(x) for x in schedule.settle_step]
  document = [sum(t == EOS for t in clean_L[:i]) for i in range(length + 1)]  # of a token, or next
  listed = []
  for j in range(-1 if shifted else 0, length):  # context; -1 is BOS
    order = (0, -1) if j < 0 else (settle[j], j)
    home = document[j + 1] if shifted else document[j]
    listed.append(dict(kind='context', token=j, order=order, doc=home, where=j, predicts=None))
  for step in sorted(set(steps_L) - {-1}):
    region = schedule.regions(step)
    active = [i for i in range(length) if region[i] == Region.ACTIVE and steps_L[i] == step]
    if not active:
      continue
    shown = [active[0] - 1, *active] if shifted else active
    if shifted and window == 'causal':
      shown = shown[:-1]
    for token in shown:
      predicts = token + 1 if shifted else token
      listed.append(
        dict(
          kind='window',
          token=token,
          noisy=token in active,
          step=step,
          doc=document[active[0]],
          where=token,
          predicts=predicts if predicts in active else None,
          hidden=active[0] - 1 if shifted else None,  # whose context row is not seen
        )
      )

  def sees(q, k):
    if separate and q['doc'] != k['doc']:
      return False
    if back and k['kind'] == 'context' and k['where'] <= q['where'] - back:
      return False
    if q['kind'] == 'context':
      if k['kind'] == 'window':
        return False
      if context == 'causal':
        return k['order'] <= q['order']
      return k['order'][0] <= q['order'][0]
    if k['kind'] == 'context':
      return k['order'][0] <= q['step'] and k['token'] != q['hidden']
    if k['step'] != q['step']:
      return False
    reach = {'full': length, 'causal': q['where'], 'causal_next': q['where'] + 1}[window]
    return k['where'] <= reach

  return listed, np.array([[sees(q, k) for k in listed] for q in listed])


def expected_reactions(schedule, steps_L, denoiser, clean_L, noisy_L):
  """bool[L, V+1]: which tokens the prediction of each position depends on, through two layers."""
  listed, seen = reference(schedule, steps_L, denoiser, clean_L)
  once = seen | np.eye(len(seen), dtype=bool)  # a row knows what it shows
  twice = once.astype(int) @ once > 0
  found = np.zeros((schedule.length, VOCAB + 1), bool)
  for r, row in enumerate(listed):
    if row['predicts'] is not None:
      for k in np.flatnonzero(twice[r]):
        source = noisy_L if listed[k].get('noisy') else clean_L
        token = BOS if listed[k]['token'] < 0 else source[listed[k]['token']]
        found[row['predicts'], token] = True
  return found


@functools.partial(jax.jit, static_argnames=('denoiser', 'num_context', 'num_tiles', 'span'))
def tiled_logits(
  denoiser,
  clean,
  noisy,
  sigma,
  tile,
  num_settled,
  settle_step,
  num_context,
  num_tiles=MOST_TILES,
  span=LENGTH,
):
  return denoiser.tiled(
    params(),
    clean,
    noisy,
    sigma=sigma,
    tiles=rows.Tiles(tile, num_settled, settle_step, num_tiles, num_context, span),
  )


@functools.partial(jax.jit, static_argnames='denoiser')
def one_row_logits(denoiser, canvas, sigma, regions, settle_step):
  return denoiser(params(), canvas, sigma=sigma, regions=regions, settle_step=settle_step)


def extend(denoiser, cache, canvas, sigma, window, step, cached_step, schedule, num_new=None):
  """Logits [B, len(window), V] and the cache after a step; one shape of windows, but for
  `num_new` of as many new slots."""
  window = np.asarray(window)
  if num_new is None:
    num_new, window = LENGTH + 1, np.append(window, np.full(LENGTH - len(window), -1))
  rest = window, step, cached_step, schedule.settle_step, num_new
  logits, entries = worlds.extend(denoiser, params(), cache, canvas, sigma, *rest)
  return logits, write(cache, entries)


write = jax.jit(Cache.write)


def sensitivities(denoiser, *arguments):
  """float32[L, V+1], how much the logits of each position react to the embedding of each token."""
  return jitted_sensitivities(denoiser, *(jnp.asarray(x, jnp.int32) for x in arguments))


@functools.partial(jax.jit, static_argnames='denoiser')
def jitted_sensitivities(denoiser, clean_L, noisy_L, tile_L, num_settled_L, settle_L):
  def projected(embedding):
    logits = denoiser.tiled(
      {'params': {**params()['params'], 'embedding': embedding}},
      clean_L[None],
      noisy_L[None],
      sigma=jnp.full((1, LENGTH), 0.5),
      tiles=rows.Tiles(tile_L[None], num_settled_L[None], settle_L, MOST_TILES, LENGTH, None),
    )
    return (logits[0] * jax.random.normal(jax.random.key(1), (1, VOCAB))).sum(axis=1)

  jacobian = jax.jacrev(projected)(params()['params']['embedding'])
  return jnp.abs(jacobian).max(axis=-1)[:, : VOCAB + 1]


def assert_reactions(reacts, expected, trained, case):
  np.testing.assert_array_equal(reacts[trained] > 1e-6, expected[trained], case)
  np.testing.assert_array_equal(reacts[trained][~expected[trained]], 0.0, case)  # not small: none


@under_rules(TILING)
def test_each_prediction_of_a_doubled_pass_reacts_to_what_it_may_see_and_to_nothing_else(
  schedule, alignment, window, context
):
  """Clean and noisy tokens have ids of their own, but for the two ends of documents; and one
  document, of which a row sees no more than its context's length."""
  denoiser = make(schedule, alignment, context, window)
  for clean_L in CLEAN:
    for b, uniform in enumerate(UNIFORMS[:3]):
      drawn = jax.tree.map(lambda x, b=b: x[b], drawn_rows(schedule))
      reacts = sensitivities(
        denoiser, clean_L, NOISY[0], drawn.tile, drawn.num_settled, schedule.settle_step
      )
      expected = expected_reactions(schedule, drawn.step.tolist(), denoiser, clean_L, NOISY[0])
      np.testing.assert_array_equal(expected.any(axis=1), drawn.tile >= 0)
      assert_reactions(np.asarray(reacts), expected, drawn.tile >= 0, f'{uniform}, {clean_L}')


HEADS = [('shifted', window, context) for window in ('full', 'causal_next') for context in CONTEXTS]


@under_rules(MOVING, [rules for rules in MEETING if rules in HEADS], HEADS)
def test_a_head_sees_the_window_and_no_window_row_its_context_row(
  schedule, alignment, window, context
):
  """One row of the hyperschedule, shifted: the case that shows the last settled token twice."""
  denoiser = make(schedule, alignment, context, window)
  canvas = np.where(np.arange(LENGTH) % 2, NOISY[0], CLEAN[0])
  for step in range(schedule.num_steps):
    regions = schedule.regions(step)
    active = regions == Region.ACTIVE
    settled = (regions == Region.SETTLED).sum()
    tile, num_settled = np.where(active, 0, -1), np.full(LENGTH, settled)
    reacts = sensitivities(denoiser, canvas, canvas, tile, num_settled, schedule.settle_step)
    steps = np.where(active, step, -1).tolist()
    expected = expected_reactions(schedule, steps, denoiser, canvas, canvas)
    assert_reactions(np.asarray(reacts), expected, active, f'step {step}')


# Doubled training.


@under_rules(TILING)
def test_a_doubled_pass_is_one_tile_at_a_time(schedule, alignment, window, context):
  """Within 1e-4, for two examples at rows of their own."""
  denoiser = make(schedule, alignment, context, window)
  drawn = jax.tree.map(lambda x: x[-2:], drawn_rows(schedule))
  sigma = (0.1 + np.random.default_rng(0).random(CLEAN.shape)).astype(np.float32)
  tiles = rows.tiles(schedule, drawn)
  together = tiled_logits(
    denoiser,
    *(CLEAN, NOISY, sigma, drawn.tile, drawn.num_settled, tiles.settle_step, tiles.num_context),
  )
  seen = 0
  for step in np.unique(drawn.step):
    regions = schedule.regions(int(step))
    active = regions == Region.ACTIVE
    canvas = np.where(regions == Region.SETTLED, CLEAN, np.where(active, NOISY, VOCAB))
    levels = np.where(active, sigma, 0.0).astype(np.float32)
    logits = one_row_logits(denoiser, canvas, levels, regions, schedule.settle_step)
    for b in range(2):
      if (drawn.step[b] == step).any():
        mine = (drawn.step[b] == step) & active
        np.testing.assert_array_equal(mine, active)  # a tile is a whole window
        np.testing.assert_allclose(logits[b][mine], together[b][mine], atol=1e-4, err_msg=f'{step}')
        seen += mine.sum()
  assert seen == (drawn.tile >= 0).sum() >= 4


@pytest.mark.parametrize(
  'make_schedule, alignment',
  [
    (block, 'aligned'),
    (slide, 'shifted'),
    *(
      pytest.param(*case, marks=pytest.mark.full)
      for case in (
        *((block, 'shifted'), (slide, 'aligned')),
        *((hybrid, 'aligned'), (hybrid, 'shifted')),
      )
    ),
  ],
)
def test_parts_and_slices_of_a_long_doubled_pass_are_the_dense_mask(make_schedule, alignment):
  """Long enough for several slices in each part: as without the promise of `span`."""
  length = 600
  schedule = make_schedule(length, 16, 7)
  denoiser = make(schedule, alignment, 'block_causal', 'full')
  drawn = jax.tree.map(lambda x: x[:1], drawn_rows(schedule))
  tiles = rows.tiles(schedule, drawn)
  tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 1, length))
  sigma = np.ones((1, length), np.float32)
  args = denoiser, *tokens, sigma, drawn.tile, drawn.num_settled, schedule.settle_step
  ours = tiled_logits(*args, tiles.num_context, num_tiles=tiles.num_tiles, span=schedule.width)
  dense = tiled_logits(*args, length, num_tiles=length, span=None)
  np.testing.assert_allclose(ours, dense, atol=1e-4)
  assert np.ptp(np.asarray(ours), axis=1).min() > 0.1


# The cache.


ANY_ORDER = any_order([2, 0, 1, 0, 2, 1, 3])


def prompts(*counts):
  """bool[B, L], given prefixes."""
  return np.arange(LENGTH)[None] < np.array(counts)[:, None]


@under_rules(MOVING)
def test_cached_logits_are_the_uncached_at_every_step(schedule, alignment, window, context):
  """Over random canvases that settle as the schedule says; atol 1e-4, and keys and values too."""
  check_cached_logits(schedule, alignment, window, context)


@pytest.mark.parametrize('context', ['causal', 'block_causal'])
def test_cached_logits_in_any_order_are_the_uncached_at_every_step(context):
  check_cached_logits(ANY_ORDER, 'aligned', 'full', context)


def check_cached_logits(schedule, alignment, window, context):
  denoiser = make(schedule, alignment, context, window)
  random = np.random.default_rng(0)
  cache = denoiser.empty_cache(2, LENGTH)
  before = -1
  for step in range(schedule.num_steps):
    regions = schedule.regions(step)
    active = np.flatnonzero(regions == Region.ACTIVE)
    if not len(active) or step % 3 == 1:
      continue  # more than one group may settle between calls
    noise = random.integers(0, VOCAB + 1, (2, LENGTH))
    canvas = np.where(regions == Region.SETTLED, CLEAN, noise)
    sigma = np.where(regions == Region.SETTLED, 0.0, random.random((2, LENGTH)))
    sigma = sigma.astype(np.float32)
    logits, cache = extend(denoiser, cache, canvas, sigma, active, step, before, schedule)
    expected = one_row_logits(denoiser, canvas, sigma, regions, schedule.settle_step)
    np.testing.assert_allclose(logits[:, : len(active)], expected[:, active], atol=1e-4)
    written = np.abs(np.asarray(cache.keys)).max(axis=(0, 1, 2, 4)) > 0
    bos = [True] if alignment == 'shifted' else []
    np.testing.assert_array_equal(written, bos + (regions == Region.SETTLED).tolist())
    before = step
  assert before > 0


BENT = dict(
  controls=Controls(guidance=0.7, repetition_penalty=1.5, top_p=0.95, banned=(3,)), stop_id=5
)
ANY_ORDER_BENT = dict(controls=BENT['controls'])  # an end needs an order
SAMPLED = [  # every kind of schedule, rule, stepper and control
  *[(slide(LENGTH, 3, 3), 'shifted', 'full', 'causal', AdaptiveCorrection(0.3), {})],
  *[(hybrid(LENGTH, 3, 2), 'shifted', 'causal_next', 'block_causal', Ancestral(), BENT)],
  *[(ANY_ORDER, 'aligned', 'full', 'block_causal', Remasking('confidence'), ANY_ORDER_BENT)],
  *[(block(LENGTH, 2, 2), 'aligned', 'full', 'block_causal', Analytic(), {})],
]
BY_CONFIDENCE = AdaptiveCorrection(0.5, by_confidence=True)
MORE_SAMPLED = [
  *[(slide(LENGTH, 3, 2), 'aligned', 'causal', 'causal', AdaptiveCorrection(0.3), {})],
  *[(ANY_ORDER, 'aligned', 'full', 'block_causal', AdaptiveCorrection(0.3), {})],
  *[(block(LENGTH, 3, 2), 'aligned', 'full', 'block_causal', AdaptiveCorrection(0.3), {})],
  *[(autoregressive(LENGTH), 'shifted', 'causal', 'causal', AdaptiveCorrection(0.3), {})],
  *[(hybrid(LENGTH, 3, 2), 'shifted', 'causal_next', 'block_causal', AdaptiveCorrection(0.3), {})],
  *(
    (schedule, 'aligned', 'full', 'block_causal', stepper, BENT)
    for schedule in (block(LENGTH, 3, 2), slide(LENGTH, 3, 2))
    for stepper in (Remasking('confidence'), BY_CONFIDENCE, Ancestral())
  ),
]
PROCESS_OF = {
  Ancestral: gamma_hybrid(VOCAB, 0.3),
  AdaptiveCorrection: epsilon_hybrid(VOCAB, 0.1),
  Remasking: absorbing(VOCAB),
  Analytic: absorbing(VOCAB),
}


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'process', 'stepper', 'controls', 'stop_id', 'use_cache'),
)
def run(denoiser, process, stepper, schedule, tokens, given, use_cache, **bent):
  keys = jax.vmap(lambda i: rng.stream(jax.random.key(0), 'sample', i))(jnp.arange(len(tokens)))
  return generate(
    *(denoiser, params(), process, stepper, schedule, tokens, given, keys),
    **dict(use_cache=use_cache, trace=10**6, **bent),
  )


def with_and_without_cache(denoiser, process, stepper, schedule, given, **bent):
  """Asserts that the tokens of all steps are the same; returns both."""
  tokens = np.random.default_rng(1).integers(0, VOCAB, given.shape)
  args = denoiser, process, stepper, schedule, tokens, given
  on, off = (run(*args, use_cache, **bent) for use_cache in (True, False))
  for name in ('tokens', 'trace', 'redraws', 'reveal_step'):
    np.testing.assert_array_equal(getattr(on, name), getattr(off, name), name)
  assert (np.asarray(on.tokens) < VOCAB).all()
  np.testing.assert_array_equal(np.asarray(on.tokens)[given], tokens[given])
  return on, off


def name_of_case(x):
  if isinstance(x, dict):
    return 'bent' if x else 'plain'
  return x if isinstance(x, str) else getattr(x, 'name', type(x).__name__)


@pytest.mark.parametrize(
  'schedule, alignment, window, context, stepper, bent',
  [*SAMPLED, *(pytest.param(*case, marks=pytest.mark.full) for case in MORE_SAMPLED)],
  ids=name_of_case,
)
def test_the_same_seed_gives_the_same_tokens_with_and_without_cache(
  schedule, alignment, window, context, stepper, bent
):
  """Prompts of lengths of their own in a batch, of one length, none, and nothing left to write;
  with guidance, a penalty and a stop."""
  denoiser = make(schedule, alignment, context, window)
  args = denoiser, PROCESS_OF[type(stepper)], stepper, schedule
  for counts in ((0, 0, 0), (3, 1, 5), (0, 3, 1), (4, 4, 4), (6, 6, 6), (7, 7, 7)):
    on, off = with_and_without_cache(*args, prompts(*counts), **bent)
    if not bent:  # else the text may end before what has settled is read
      assert int(on.network_calls) >= int(off.network_calls)
    assert (int(on.network_calls) == 0) == (min(counts) == LENGTH)


def test_filling_gaps_with_a_cache_reads_what_is_given_between():
  """Blocks 1 and 2 of 4 are given: two steps are called to read them, the rest cost nothing."""
  schedule = block(LENGTH, 2, 2)
  denoiser = make(schedule, 'aligned', 'block_causal', 'full')
  given = np.tile([False] * 2 + [True] * 4 + [False], (3, 1))
  on, off = with_and_without_cache(denoiser, absorbing(VOCAB), Analytic(), schedule, given)
  assert (int(on.network_calls), int(off.network_calls)) == (6, 4)


@pytest.mark.parametrize('alignment', ['shifted', pytest.param('aligned', marks=pytest.mark.full)])
def test_a_cache_in_half_precision_is_close_to_one_in_full(alignment):
  """bfloat16 has 8 bits: logits of standard deviation 1 within 0.1 over all steps."""
  schedule = block(LENGTH, 3, 2)
  full = make(schedule, alignment, PACKED, 'full')
  config = dataclasses.replace(NETWORK.config, dtype='bfloat16')
  half = dataclasses.replace(full, network=Transformer(config))
  caches = [denoiser.empty_cache(2, LENGTH) for denoiser in (full, half)]
  assert [cache.keys.dtype for cache in caches] == ['float32', 'bfloat16']
  sigma = np.full(CLEAN.shape, 0.5, np.float32)
  for step in range(schedule.num_steps):
    window = np.flatnonzero(schedule.regions(step) == Region.ACTIVE)
    logits = []
    for i, denoiser in enumerate((full, half)):
      one, caches[i] = extend(denoiser, caches[i], CLEAN, sigma, window, step, step - 1, schedule)
      one = np.asarray(one)[:, : len(window)]
      logits.append(one / np.std(one))
    assert 0.0 < np.abs(logits[0] - logits[1]).max() < 0.1


def test_shifted_autoregressive_with_a_cache_is_a_causal_language_model():
  """Logits and cached keys, token for token, those of one pass over the whole text."""
  schedule = autoregressive(LENGTH)
  denoiser = make(schedule, 'shifted', 'causal', 'causal')
  sigma = np.zeros(CLEAN.shape, np.float32)
  read = one_row_logits(denoiser, CLEAN, sigma, np.zeros(LENGTH, np.int8), schedule.settle_step)
  cache = denoiser.empty_cache(2, LENGTH)
  for step in range(LENGTH):
    hidden = np.where(np.arange(LENGTH) < step, CLEAN, VOCAB)
    logits, cache = extend(
      denoiser, cache, hidden, sigma, [step], step, step - 1, schedule, num_new=1
    )
    np.testing.assert_allclose(logits[:, 0], read[:, step], atol=1e-5, err_msg=f'token {step}')

  at_once = denoiser.empty_cache(2, LENGTH)
  last = LENGTH - 1
  _, at_once = extend(denoiser, at_once, CLEAN, sigma, [last], last, -1, schedule)
  for ours, theirs in zip(jax.tree.leaves(cache), jax.tree.leaves(at_once), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
  'schedule, alignment, context, window, message',
  [
    (any_order([1, 0, 2]), 'shifted', 'causal', 'causal', 'shifted is not supported for any_order'),
    (block(4, 2, 2), 'aligned', 'causal', 'causal_next', 'causal_next .* shifted'),
  ],
)
def test_what_rows_cannot_show_is_refused(schedule, alignment, context, window, message):
  with pytest.raises(ValueError, match=message):
    make(schedule, alignment, context, window)


@pytest.mark.parametrize('limit', [dict(separate_documents=True), dict(context_length=3)], ids=str)
def test_limits_of_a_context_that_is_not_there_are_refused(limit):
  rules = dict(alignment='aligned', context='causal', window='full', bos_id=BOS, eos_id=EOS)
  with pytest.raises(ValueError, match=f'{next(iter(limit))} is not supported for flat'):
    make_denoiser(NETWORK, flat(LENGTH, 2), **rules, **limit)
  for length in (-1, 1):
    with pytest.raises(ValueError, match=f'context_length must be .* window of 2.* got {length}'):
      make_denoiser(NETWORK, block(LENGTH, 2, 2), **rules, context_length=length)


def test_documents_without_an_order_are_refused():
  rules = dict(alignment='aligned', context='causal', window='full', bos_id=BOS, eos_id=EOS)
  with pytest.raises(ValueError, match='separate_documents is not supported for any_order'):
    make_denoiser(NETWORK, any_order([1, 0, 2]), **rules, separate_documents=True)


@pytest.mark.parametrize(
  'schedule, context', [(flat(LENGTH, 2), 'causal'), (block(LENGTH, 2, 2), 'full')]
)
def test_only_unchanging_context_is_cacheable(schedule, context):
  assert not make(schedule, 'aligned', context, 'full').is_cacheable
  assert make(block(LENGTH, 2, 2), 'aligned', 'causal', 'full').is_cacheable
