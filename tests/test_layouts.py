"""Rows of the network: what each prediction can depend on, doubled passes and the cache."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
by_name = dict(ids=lambda schedule: schedule.name)
# Shapes and static values are the same for all schedules, so that they share programs.
MOST_TILES = LENGTH

both_contexts = pytest.mark.parametrize('context', ['causal', 'block_causal'])
contexts_and_documents = pytest.mark.parametrize(
  'context, separate', [('causal', False), ('block_causal', True)], ids=['causal', 'packed, near']
)
all_rules = pytest.mark.parametrize('alignment, window', RULES)


@functools.cache
def params():
  with jax.ensure_compile_time_eval():
    return make_params()


def make_params():
  tokens = jnp.zeros((1, LENGTH), jnp.int32)
  init = jax.jit(NETWORK.init)
  variables = init(
    jax.random.key(0), tokens, sigma=jnp.zeros((1, LENGTH)), positions=jnp.arange(LENGTH)
  )
  # the modulation starts at zero, which would hide what the noise levels do
  leaves, tree = jax.tree.flatten(nn.meta.unbox(variables))
  noise = [0.2 * np.random.default_rng(i).standard_normal(x.shape) for i, x in enumerate(leaves)]
  leaves = [x + jnp.asarray(y, x.dtype) for x, y in zip(leaves, noise, strict=True)]
  return jax.tree.unflatten(tree, leaves)


def make(schedule, alignment, context, window, separate=False):
  return make_denoiser(
    NETWORK,
    schedule,
    alignment=alignment,
    context=context,
    window=window,
    bos_id=BOS,
    eos_id=EOS,
    separate_documents=separate,
    context_length=max(3, schedule.window_size) if separate else 0,
  )


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


@functools.partial(jax.jit, static_argnames=('denoiser', 'num_new'))
def extend(denoiser, cache, canvas, sigma, window, step, cached_step, settle_step, num_new):
  features, entries = denoiser.extend(
    params(),
    cache,
    canvas,
    sigma=sigma,
    window=window,
    step=step,
    cached_step=cached_step,
    settle_step=settle_step,
    num_new=num_new,
  )
  return denoiser.project(params(), features), cache.write(entries)


@functools.partial(jax.jit, static_argnames='denoiser')
def sensitivities(denoiser, clean_L, noisy_L, tile_L, num_settled_L, settle_L):
  """float32[L, V+1], how much the logits of each position react to the embedding of each token."""

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


@contexts_and_documents
@all_rules
@pytest.mark.parametrize('schedule', TILING, **by_name)
def test_each_prediction_of_a_doubled_pass_reacts_to_what_it_may_see_and_to_nothing_else(
  schedule, alignment, window, context, separate
):
  """Clean and noisy tokens have ids of their own, but for the two ends of documents."""
  denoiser = make(schedule, alignment, context, window, separate)
  clean_L, noisy_L = CLEAN[1], NOISY[0]
  for uniform in (0.1, 0.55, 0.9):
    drawn = jax.tree.map(lambda x: np.asarray(x)[0], rows.tiled(schedule, jnp.asarray([uniform])))
    reacts = np.asarray(
      sensitivities(
        denoiser,
        *map(jnp.asarray, (clean_L, noisy_L, drawn.tile, drawn.num_settled, schedule.settle_step)),
      )
    )
    expected = expected_reactions(schedule, drawn.step.tolist(), denoiser, clean_L, noisy_L)
    trained = drawn.tile >= 0
    np.testing.assert_array_equal(expected.any(axis=1), trained)
    np.testing.assert_array_equal(reacts[trained] > 1e-6, expected[trained], f'{uniform}')
    np.testing.assert_array_equal(reacts[trained][~expected[trained]], 0.0)  # not small: none


@both_contexts
@pytest.mark.parametrize('window', ['full', 'causal_next'])
@pytest.mark.parametrize('schedule', MOVING, **by_name)
def test_a_head_sees_the_window_and_no_window_row_its_context_row(schedule, window, context):
  """One row of the hyperschedule, shifted: the case that shows the last settled token twice."""
  denoiser = make(schedule, 'shifted', context, window)
  canvas = np.where(np.arange(LENGTH) % 2, NOISY[0], CLEAN[0])
  for step in range(schedule.num_steps):
    regions = schedule.regions(step)
    active = regions == Region.ACTIVE
    settled = (regions == Region.SETTLED).sum()
    reacts = np.asarray(
      sensitivities(
        denoiser,
        jnp.asarray(canvas),
        jnp.asarray(canvas),
        jnp.asarray(np.where(active, 0, -1)),
        jnp.full(LENGTH, settled),
        jnp.asarray(schedule.settle_step),
      )
    )
    steps = np.where(active, step, -1).tolist()
    listed = expected_reactions(schedule, steps, denoiser, canvas, canvas)
    np.testing.assert_array_equal(reacts[active] > 1e-6, listed[active])
    np.testing.assert_array_equal(reacts[active][~listed[active]], 0.0)


# Doubled training.


@contexts_and_documents
@all_rules
@pytest.mark.parametrize('schedule', TILING, **by_name)
def test_a_doubled_pass_is_one_tile_at_a_time(schedule, alignment, window, context, separate):
  """Within 1e-4, for two examples at rows of their own."""
  denoiser = make(schedule, alignment, context, window, separate)
  drawn = rows.tiled(schedule, jnp.asarray([0.15, 0.7]))
  sigma = jnp.asarray(0.1 + np.random.default_rng(0).random(CLEAN.shape), jnp.float32)
  settle_step = jnp.asarray(schedule.settle_step)
  together = tiled_logits(
    denoiser,
    jnp.asarray(CLEAN),
    jnp.asarray(NOISY),
    sigma,
    drawn.tile,
    drawn.num_settled,
    jnp.asarray(rows.tiles(schedule, drawn).settle_step),
    rows.tiles(schedule, drawn).num_context,
  )
  seen = 0
  for b in range(2):
    for step in np.unique(drawn.step[b]):
      regions = jnp.asarray(schedule.regions(int(step)))
      mine = np.asarray((drawn.step[b] == step) & (regions == Region.ACTIVE))
      assert (mine == np.asarray(regions == Region.ACTIVE)).all()  # a tile is a whole window
      canvas = jnp.where(regions == Region.SETTLED, CLEAN[b], jnp.where(mine, NOISY[b], VOCAB))
      levels = jnp.where(mine, sigma[b], 0.0)
      logits = one_row_logits(denoiser, canvas[None], levels[None], regions, settle_step)
      np.testing.assert_allclose(logits[0][mine], together[b][mine], atol=1e-4)
      seen += mine.sum()
  assert seen == (np.asarray(drawn.tile) >= 0).sum() >= 4


@pytest.mark.parametrize('alignment', ['aligned', 'shifted'])
@pytest.mark.parametrize('make_schedule', [block, slide, hybrid])
def test_parts_and_slices_of_a_long_doubled_pass_are_the_dense_mask(make_schedule, alignment):
  """Long enough for several slices in each part: as without the promise of `span`."""
  length = 600
  schedule = make_schedule(length, 16, 7)
  denoiser = make(schedule, alignment, 'block_causal', 'full')
  drawn = rows.tiled(schedule, jnp.asarray([0.3]))
  tokens = jax.random.randint(jax.random.key(0), (2, 1, length), 0, VOCAB)
  ours, dense = (
    tiled_logits(
      denoiser,
      *tokens,
      jnp.ones((1, length)),
      drawn.tile,
      drawn.num_settled,
      jnp.asarray(schedule.settle_step),
      rows.tiles(schedule, drawn).num_context if span else length,
      num_tiles=rows.tiles(schedule, drawn).num_tiles,
      span=span,
    )
    for span in (schedule.width, None)
  )
  np.testing.assert_allclose(ours, dense, atol=1e-4)
  assert np.ptp(np.asarray(ours), axis=1).min() > 0.1


# The cache.


def cacheable():
  for schedule in MOVING:
    for alignment, window in RULES:
      yield schedule, alignment, window
  yield any_order([2, 0, 1, 0, 2, 1, 3]), 'aligned', 'full'


def prompts(*counts):
  """bool[B, L], given prefixes."""
  return jnp.arange(LENGTH)[None] < jnp.asarray(counts)[:, None]


@contexts_and_documents
@pytest.mark.parametrize(
  'schedule, alignment, window',
  [pytest.param(*x, id='-'.join([x[0].name, *x[1:]])) for x in cacheable()],
)
def test_cached_logits_are_the_uncached_at_every_step(
  schedule, alignment, window, context, separate
):
  """Over random canvases that settle as the schedule says; atol 1e-4, and keys and values too."""
  separate &= schedule.left_to_right  # documents need an order
  denoiser = make(schedule, alignment, context, window, separate)
  settle_step = jnp.asarray(schedule.settle_step)
  random = np.random.default_rng(0)
  cache = denoiser.empty_cache(2, LENGTH)
  before = -1
  for step in range(schedule.num_steps):
    regions = schedule.regions(step)
    active = np.flatnonzero(regions == Region.ACTIVE)
    if not len(active) or step % 3 == 1:
      continue  # more than one group may settle between calls
    noise = random.integers(0, VOCAB + 1, (2, LENGTH))
    canvas = jnp.asarray(np.where(regions == Region.SETTLED, CLEAN, noise))
    sigma = jnp.asarray(np.where(regions == Region.SETTLED, 0.0, random.random((2, LENGTH))))
    sigma = sigma.astype(jnp.float32)
    window = jnp.asarray(np.append(active, np.full(LENGTH - len(active), -1)))
    logits, cache = extend(
      denoiser, cache, canvas, sigma, window, step, before, settle_step, num_new=LENGTH + 1
    )
    expected = one_row_logits(denoiser, canvas, sigma, jnp.asarray(regions), settle_step)
    np.testing.assert_allclose(logits[:, : len(active)], expected[:, active], atol=1e-4)
    written = np.abs(np.asarray(cache.keys)).max(axis=(0, 1, 2, 4)) > 0
    bos = [True] if alignment == 'shifted' else []
    np.testing.assert_array_equal(written, bos + (regions == Region.SETTLED).tolist())
    before = step
  assert before > 0


@pytest.mark.parametrize(
  'schedule, alignment, window, context',
  [
    (block(LENGTH, 3, 2), 'aligned', 'full', 'block_causal'),
    (slide(LENGTH, 3, 2), 'aligned', 'causal', 'causal'),
    (slide(LENGTH, 3, 3), 'shifted', 'full', 'causal'),
    (hybrid(LENGTH, 3, 2), 'shifted', 'causal_next', 'block_causal'),
    (autoregressive(LENGTH), 'shifted', 'causal', 'causal'),
    (any_order([2, 0, 1, 0, 2, 1, 3]), 'aligned', 'full', 'block_causal'),
  ],
  ids=lambda x: getattr(x, 'name', x),
)
def test_the_same_seed_gives_the_same_tokens_with_and_without_cache(
  schedule, alignment, window, context
):
  """Prompts of lengths of their own in a batch, of one length, none, and nothing left to write."""
  denoiser = make(schedule, alignment, context, window)
  keys = jax.vmap(lambda i: rng.stream(jax.random.key(0), 'sample', i))(jnp.arange(3))
  tokens = jax.random.randint(jax.random.key(1), (3, LENGTH), 0, VOCAB)
  stepper, process = AdaptiveCorrection(0.3), epsilon_hybrid(VOCAB, 0.1)
  run = jax.jit(
    lambda given, use_cache: generate(
      denoiser,
      params(),
      process,
      stepper,
      schedule,
      tokens,
      given,
      keys,
      use_cache=use_cache,
      trace=10**6,
    ),
    static_argnums=1,
  )
  for counts in ((0, 0, 0), (3, 1, 5), (4, 4, 4), (6, 6, 6), (7, 7, 7)):
    given = prompts(*counts)
    on, off = run(given, True), run(given, False)
    np.testing.assert_array_equal(on.tokens, off.tokens)
    np.testing.assert_array_equal(on.trace, off.trace)
    np.testing.assert_array_equal(on.redraws, off.redraws)
    assert int(on.network_calls) >= int(off.network_calls)  # some to read what has settled
    assert (int(on.network_calls) == 0) == (min(counts) == LENGTH)
    assert (np.asarray(on.tokens) < VOCAB).all()
    np.testing.assert_array_equal(on.tokens[given], tokens[given])


@pytest.mark.parametrize(
  'stepper, process',
  [
    (Remasking('confidence'), absorbing(VOCAB)),
    (AdaptiveCorrection(0.5, by_confidence=True), epsilon_hybrid(VOCAB, 0.1)),
    (Ancestral(), gamma_hybrid(VOCAB, 0.3)),
  ],
  ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize('schedule', [block(LENGTH, 3, 2), slide(LENGTH, 3, 2)], **by_name)
def test_every_stepper_and_control_writes_the_same_with_a_cache(schedule, stepper, process):
  """With guidance, a penalty and a stop, behind prompts of three lengths."""
  denoiser = make(schedule, 'aligned', 'block_causal', 'full')
  keys = jax.vmap(lambda i: rng.stream(jax.random.key(0), 'sample', i))(jnp.arange(3))
  tokens = jax.random.randint(jax.random.key(1), (3, LENGTH), 0, VOCAB)
  controls = Controls(guidance=0.7, repetition_penalty=1.5, top_p=0.95, banned=(3,))
  run = jax.jit(
    lambda use_cache: generate(
      denoiser,
      params(),
      process,
      stepper,
      schedule,
      tokens,
      prompts(0, 3, 1),
      keys,
      controls=controls,
      stop_id=5,
      use_cache=use_cache,
      trace=100,
    ),
    static_argnums=0,
  )
  on, off = run(True), run(False)
  np.testing.assert_array_equal(on.tokens, off.tokens)
  np.testing.assert_array_equal(on.trace, off.trace)
  np.testing.assert_array_equal(on.reveal_step, off.reveal_step)


def test_filling_gaps_with_a_cache_reads_what_is_given_between():
  """Blocks 1 and 2 of 4 are given: two steps are called to read them, the rest cost nothing."""
  schedule = block(8, 2, 2)
  denoiser = make(schedule, 'aligned', 'block_causal', 'full')
  keys = jax.vmap(lambda i: rng.stream(jax.random.key(0), 'sample', i))(jnp.arange(2))
  tokens = jax.random.randint(jax.random.key(1), (2, 8), 0, VOCAB)
  given = jnp.tile(jnp.asarray([False] * 2 + [True] * 4 + [False] * 2)[None], (2, 1))
  run = jax.jit(
    lambda use_cache: generate(
      denoiser,
      params(),
      absorbing(VOCAB),
      Analytic(),
      schedule,
      tokens,
      given,
      keys,
      use_cache=use_cache,
      trace=10**6,
    ),
    static_argnums=0,
  )
  on, off = run(True), run(False)
  np.testing.assert_array_equal(on.tokens, off.tokens)
  np.testing.assert_array_equal(on.trace, off.trace)
  assert (int(on.network_calls), int(off.network_calls)) == (6, 4)


@pytest.mark.parametrize('alignment', ['aligned', 'shifted'])
def test_a_cache_in_half_precision_is_close_to_one_in_full(alignment):
  """bfloat16 has 8 bits: logits of standard deviation 1 within 0.1 over all steps."""
  schedule = block(LENGTH, 3, 2)
  full = make(schedule, alignment, 'block_causal', 'full')
  config = dataclasses.replace(NETWORK.config, dtype='bfloat16')
  half = dataclasses.replace(full, network=Transformer(config))
  caches = [denoiser.empty_cache(2, LENGTH) for denoiser in (full, half)]
  assert [cache.keys.dtype for cache in caches] == ['float32', 'bfloat16']
  for step in range(schedule.num_steps):
    (window,) = np.nonzero(schedule.regions(step) == Region.ACTIVE)
    window = jnp.asarray(np.append(window, np.full(3 - len(window), -1)))
    logits = []
    for i, denoiser in enumerate((full, half)):
      one, caches[i] = extend(
        denoiser,
        caches[i],
        jnp.asarray(CLEAN),
        jnp.full(CLEAN.shape, 0.5),
        window,
        step,
        step - 1,
        jnp.asarray(schedule.settle_step),
        num_new=4,
      )
      logits.append(np.asarray(one) / np.std(one))
    assert 0.0 < np.abs(logits[0] - logits[1]).max() < 0.1


def test_shifted_autoregressive_with_a_cache_is_a_causal_language_model():
  """Logits and cached keys, token for token, those of one pass over the whole text."""
  schedule = autoregressive(LENGTH)
  denoiser = make(schedule, 'shifted', 'causal', 'causal')
  settle_step = jnp.asarray(schedule.settle_step)
  canvas, sigma = jnp.asarray(CLEAN), jnp.zeros(CLEAN.shape)
  read = denoiser(
    params(), canvas, sigma=sigma, regions=jnp.zeros(LENGTH, jnp.int8), settle_step=settle_step
  )
  cache = denoiser.empty_cache(2, LENGTH)
  stepwise = []
  for step in range(LENGTH):
    hidden = jnp.where(jnp.arange(LENGTH)[None] < step, canvas, VOCAB)
    window = jnp.asarray([step])
    logits, cache = extend(
      denoiser, cache, hidden, sigma, window, step, step - 1, settle_step, num_new=1
    )
    stepwise.append(logits[:, 0])
  np.testing.assert_allclose(jnp.stack(stepwise, axis=1), read, atol=1e-5)

  at_once = denoiser.empty_cache(2, LENGTH)
  window = jnp.asarray([LENGTH - 1])
  _, at_once = extend(
    denoiser, at_once, canvas, sigma, window, LENGTH - 1, -1, settle_step, num_new=LENGTH + 1
  )
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
  with pytest.raises(ValueError, match='separate_documents is not supported for any_order'):
    make(any_order([1, 0, 2]), 'aligned', 'causal', 'full', separate=True)


@pytest.mark.parametrize(
  'schedule, context', [(flat(LENGTH, 2), 'causal'), (block(LENGTH, 2, 2), 'full')]
)
def test_only_unchanging_context_is_cacheable(schedule, context):
  assert not make(schedule, 'aligned', context, 'full').is_cacheable
  assert make(block(LENGTH, 2, 2), 'aligned', 'causal', 'full').is_cacheable
