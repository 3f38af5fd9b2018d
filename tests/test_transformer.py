"""The network: every knob does something, and attention is what its rules say."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

from ardiff_jax import masks, rows
from ardiff_jax.hyperschedules import block
from ardiff_jax.models import layers, presets
from ardiff_jax.models.attention import attend, rotary_phases, rotate
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig

BASE = TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2, remat='none')
LENGTH = 6
TOKENS = np.array([[3, 1, 4, 1, 5, 11], [2, 7, 1, 8, 2, 11]], np.int32)
SIGMA = np.linspace(0.1, 3.0, 12, dtype=np.float32).reshape(2, LENGTH)
POSITIONS = np.arange(LENGTH)


def new(config):
  """Boxed parameters."""
  return Transformer(config).init(jax.random.key(0), TOKENS, sigma=SIGMA, positions=POSITIONS)


@functools.cache
def init(config):
  """Those that training starts from."""
  return jax.jit(lambda: nn.unbox(new(config)))()


@functools.cache
def moved(config):
  """Those that none is zero of."""
  return worlds.random_params(lambda: new(config))


def run(config, variables, tokens=TOKENS, sigma=SIGMA, positions=POSITIONS, **kwargs):
  return np.asarray(_run(config, variables, tokens, sigma, positions, **kwargs))


@functools.partial(jax.jit, static_argnums=0, static_argnames=('num_kept', 'deterministic'))
def _run(config, variables, tokens, sigma, positions, dropout_seed=None, **kwargs):
  if dropout_seed is not None:
    kwargs['rngs'] = {'dropout': jax.random.key(dropout_seed)}
  return Transformer(config).apply(variables, tokens, sigma=sigma, positions=positions, **kwargs)


def changed(**fields):
  return dataclasses.replace(BASE, **fields)


@pytest.fixture(scope='module')
def base():
  return init(BASE)


def test_logits_cover_the_vocabulary_without_the_mask(base):
  logits = run(BASE, base)
  assert logits.shape == (2, LENGTH, 11) and logits.dtype == jnp.float32
  assert (np.asarray(logits).std(axis=-1) > 0.01).all()


@pytest.mark.parametrize(
  'fields',
  [dict(norm='rmsnorm'), dict(rope_base=100.0), dict(dtype='bfloat16')],
  ids=str,
)
def test_knob_without_parameters_of_its_own_moves_the_logits(base, fields):
  config = changed(**fields)
  shapes = nn.unbox(jax.eval_shape(lambda: new(config)))
  assert jax.tree.map(jnp.shape, base) == jax.tree.map(jnp.shape, shapes)
  assert np.abs(run(config, base) - run(BASE, base)).max() > 1e-5


@pytest.mark.parametrize(
  'fields, shapes',
  [
    (dict(activation='swiglu'), {'blocks/mlp_gate/kernel': (2, 16, 64)}),
    (dict(tie_embedding=False), {'head': (16, 128)}),
    (dict(num_kv_heads=1), {f'blocks/{x}/kernel': (2, 16, 1, 8) for x in ('key', 'value')}),
    (dict(mlp_dim=24), {'blocks/mlp_in/kernel': (2, 16, 24), 'blocks/mlp_out/kernel': (2, 24, 16)}),
    (dict(num_layers=3), {'blocks/query/kernel': (3, 16, 2, 8)}),
    (dict(model_dim=32), {'embedding': (128, 32)}),
    (dict(num_heads=4), {'blocks/query/kernel': (2, 16, 4, 4)}),
  ],
  ids=str,
)
def test_knob_with_parameters_of_its_own_moves_shapes_and_logits(fields, shapes):
  config = changed(**fields)
  variables = moved(config)
  found = {
    '/'.join(k.key for k in path[1:]): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
  }
  assert {name: found[name] for name in shapes} == shapes
  assert np.abs(run(config, variables) - run(BASE, moved(BASE))).max() > 1e-3


@pytest.mark.parametrize(
  'vocab_size, rows, tie_embedding',
  [
    *((127, 128, True), (128, 256, False)),
    *(pytest.param(*x, marks=pytest.mark.full) for x in ((127, 128, False), (128, 256, True))),
  ],
)
def test_embedding_is_padded_with_room_for_the_mask(vocab_size, rows, tie_embedding):
  config = changed(vocab_size=vocab_size, tie_embedding=tie_embedding)
  variables = moved(config)
  assert variables['params']['embedding'].shape == (rows, 16)
  tokens = np.full((2, LENGTH), vocab_size, np.int32)
  logits = run(config, variables, tokens)
  assert logits.shape == (2, LENGTH, vocab_size) and np.isfinite(logits).all()
  embedding = np.array(variables['params']['embedding'])
  embedding[vocab_size, 0] += 1.0
  other = {'params': variables['params'] | {'embedding': embedding}}
  assert np.abs(run(config, other, tokens) - logits).max() > 1e-3


def test_noise_level_moves_each_row_once_training_has_begun():
  """At the start modulation is zero; after that each row feels the noise of its own token."""
  config = changed(conditioning='adaln')
  start, later = init(config), moved(config)
  allowed = jax.jit(
    lambda: masks.from_regions(  # causal reading: row 2 reaches rows 2.. of its own example only
      jnp.zeros((2, LENGTH), jnp.int8),
      np.arange(1, LENGTH + 1),
      context='causal',
      sight=masks.Sight(),
    )
  )()
  np.testing.assert_array_equal(
    run(config, start, mask=allowed), run(config, start, sigma=0.0 * SIGMA, mask=allowed)
  )
  other = SIGMA.copy()
  other[0, 2] += 1.0
  differs = run(config, later, mask=allowed) != run(config, later, sigma=other, mask=allowed)
  np.testing.assert_array_equal(
    differs.any(axis=-1), [[False, False, True, True, True, True], [False] * LENGTH]
  )


def test_every_parameter_has_a_gradient():
  """Nothing is built and left out of the sum; `tie_embedding` False has an output of its own. So
  have each of the six vectors of modulation of a layer, and the two of the end."""
  config = changed(conditioning='adaln', activation='swiglu', tie_embedding=False, num_kv_heads=1)
  weight = np.random.default_rng(3).standard_normal((2, LENGTH, 11)).astype(np.float32)
  total = lambda v: (_run(config, v, TOKENS, SIGMA, POSITIONS) * weight).sum()  # noqa: E731
  gradient = jax.device_get(jax.jit(jax.grad(total))(moved(config)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.abs(leaf).max() > 1e-6, path
  layers = gradient['params']['blocks']['modulation']['map']['kernel']
  final = gradient['params']['final_modulation']['map']['kernel']
  assert layers.shape == (2, 4, 6, 16) and final.shape == (4, 2, 16)
  assert (np.abs(layers).max(axis=(1, 3)) > 1e-5).all()
  assert (np.abs(final).max(axis=(0, 2)) > 1e-5).all()


def test_without_conditioning_the_noise_level_is_unused(base):
  np.testing.assert_array_equal(run(BASE, base), run(BASE, base, sigma=SIGMA + 5.0))


def test_dropout_draws_with_a_key_and_only_with_a_key(base):
  config = changed(dropout=0.5)
  quiet = run(config, base)
  np.testing.assert_array_equal(quiet, run(BASE, base))

  def loud(seed):
    return run(config, base, deterministic=False, dropout_seed=seed)

  np.testing.assert_array_equal(loud(0), loud(0))
  assert np.abs(loud(0) - loud(1)).max() > 1e-3
  assert np.abs(loud(0) - quiet).max() > 1e-3
  no_rate = run(BASE, base, deterministic=False, dropout_seed=0)
  np.testing.assert_array_equal(no_rate, quiet)


@pytest.mark.parametrize('silenced', ['attention_out', 'mlp_out'])
def test_dropout_is_on_each_branch(base, silenced):
  """With one branch silenced, the noise is that of the other."""
  blocks = base['params']['blocks']
  silent = {silenced: {'kernel': np.zeros_like(blocks[silenced]['kernel'])}}
  variables = {'params': base['params'] | {'blocks': blocks | silent}}
  config = changed(dropout=0.5)
  loud = run(config, variables, deterministic=False, dropout_seed=0)
  assert np.abs(loud - run(config, variables)).max() > 1e-3


@pytest.mark.parametrize('dropout', [pytest.param(0.0, marks=pytest.mark.full), 0.5])
def test_remat_changes_no_value_and_no_gradient(base, dropout):
  def value_and_grad(remat):
    config = changed(remat=remat, dropout=dropout)

    def loss(variables):
      shown = TOKENS, SIGMA, POSITIONS
      return (_run(config, variables, *shown, deterministic=False, dropout_seed=0) ** 2).sum()

    traced = jax.jit(jax.value_and_grad(loss)).trace(base)
    products[remat] = str(traced.jaxpr).count('dot_general')
    return jax.tree.leaves(traced.lower().compile()(base))

  products = {}
  expected = value_and_grad('none')
  for remat in ('full', 'dots'):
    for ours, theirs in zip(value_and_grad(remat), expected, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
  again = {remat: count - products['none'] for remat, count in products.items()}
  assert again['full'] - again['dots'] >= 5  # with kernels: q, k, v, out of attention, MLP
  assert again['dots'] > 0  # of attention


def test_bfloat16_is_close_to_float32(base):
  """Eight bits of mantissa through two layers: a few hundredths of logits of size one."""
  config = changed(dtype='bfloat16')
  half = run(config, base)
  assert half.dtype == np.float32
  np.testing.assert_allclose(half, run(BASE, base), atol=0.1)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(jax.eval_shape(lambda: new(config))))


@pytest.mark.parametrize(
  'fields',
  [{}, dict(num_kv_heads=1), pytest.param(dict(rope_base=100.0), marks=pytest.mark.full)],
  ids=str,
)
def test_rotary_sees_differences_of_positions_only(fields):
  config = changed(**fields)
  variables = moved(config)
  here = run(config, variables)
  np.testing.assert_allclose(run(config, variables, positions=POSITIONS + 37), here, atol=1e-4)
  spread = run(config, variables, positions=2 * POSITIONS)
  assert np.abs(spread - here).max() > 1e-3
  per_example = np.stack([POSITIONS, POSITIONS + 5])
  np.testing.assert_allclose(run(config, variables, positions=per_example), here, atol=1e-4)


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_rotation_preserves_length_and_turns_products_by_the_difference():
  """The product of a query at m and a key at n depends on m - n, and does depend on it."""
  q, k = normal(0, 2, 1, 1, 1, 8)

  @jax.jit
  def _at(x, position):
    return rotate(x, rotary_phases(position[None], 8, 100.0))

  def at(x, position):
    return np.asarray(_at(x, np.int32(position)))

  def product(m, n):
    return float((at(q, m) * at(k, n)).sum())

  np.testing.assert_allclose((at(q, 9) ** 2).sum(), (q**2).sum(), rtol=1e-5)
  np.testing.assert_allclose(product(7, 4), product(3, 0), atol=1e-4)
  assert abs(product(4, 7) - product(7, 4)) > 1e-2
  np.testing.assert_array_equal(at(q, 0), q)


def test_rotary_wavelengths_run_from_two_pi_to_the_base():
  cos, sin = jax.jit(lambda: rotary_phases(jnp.asarray([1]), 4, 10_000.0))()
  np.testing.assert_allclose(np.arctan2(sin, cos).reshape(-1), [1.0, 0.01], rtol=1e-5)


def test_as_many_kv_heads_as_heads_is_the_default(base):
  config = changed(num_kv_heads=2)
  np.testing.assert_array_equal(run(config, base), run(BASE, base))


def test_grouped_queries_share_keys_and_values():
  """One group is two heads with the keys and values of both repeated."""
  config = changed(num_kv_heads=1)
  grouped = moved(config)
  blocks = grouped['params']['blocks']
  both = {x: {'kernel': np.repeat(blocks[x]['kernel'], 2, axis=2)} for x in ('key', 'value')}
  repeated = {'params': grouped['params'] | {'blocks': blocks | both}}
  np.testing.assert_allclose(run(config, grouped), run(BASE, repeated), atol=1e-5)


def test_rows_permuted_with_their_positions_permute_the_logits():
  config = changed(conditioning='adaln')
  variables = moved(config)
  order = np.array([3, 0, 5, 1, 4, 2])
  permuted = run(config, variables, TOKENS[:, order], SIGMA[:, order], POSITIONS[order])
  straight = run(config, variables)
  np.testing.assert_allclose(permuted, straight[:, order], atol=1e-5)
  unmoved = run(config, variables, TOKENS[:, order], SIGMA[:, order], POSITIONS)
  assert np.abs(unmoved - straight[:, order]).max() > 1e-3


def test_examples_of_a_batch_do_not_mix(base):
  together = run(BASE, base)
  for b in range(2):
    alone = run(BASE, base, TOKENS[b : b + 1], SIGMA[b : b + 1])
    np.testing.assert_allclose(together[b : b + 1], alone, atol=1e-5)


def test_outputs_are_the_rows_asked_for(base):
  whole = run(BASE, base)
  leading = jax.jit(
    lambda v: Transformer(BASE).apply(v, TOKENS, sigma=SIGMA, positions=POSITIONS, outputs=4)
  )
  np.testing.assert_allclose(leading(base), whole[:, :4], atol=1e-6)
  some = np.array([3, 0, 4])
  np.testing.assert_allclose(run(BASE, base, outputs=some), whole[:, some], atol=1e-6)
  each = np.array([[3, 0], [1, 2]])
  expected = np.take_along_axis(whole, each[..., None], axis=1)
  np.testing.assert_allclose(run(BASE, base, outputs=each), expected, atol=1e-6)


def random_mask(num_rows, window, seed=0, **static):
  """Two examples of context, window and dead rows of two documents, seen by nobody's rule."""
  random = np.random.default_rng(seed)
  shape = 2, num_rows
  kind = random.integers(0, 3, shape)
  rank = np.where(kind == 0, random.integers(0, num_rows, shape), masks.NEVER)
  reach = np.where(kind == 2, -1, random.integers(-1, num_rows, shape))
  tile = np.where(kind == 1, random.integers(0, 2, shape), -1)
  position = np.tile(np.arange(num_rows), (2, 1))
  fields = rank, reach, tile, position, random.integers(0, 2, shape)
  fields = [x.astype(np.int32) for x in fields]
  return masks.AttentionMask(*fields, sight=masks.Sight(window), **static)


_dense = jax.jit(masks.AttentionMask.dense)
_attend = jax.jit(attend)


@pytest.mark.parametrize(
  'window, num_rows, kv_heads',
  [
    *(('full', 9, 2), ('causal', 9, 1), ('causal_next', 300, 1)),
    *(
      pytest.param(*x, marks=pytest.mark.full)
      for x in (('full', 9, 1), ('causal', 9, 2), ('causal_next', 300, 2))
    ),
  ],
)
def test_attend_is_masked_softmax_and_zero_without_a_key(window, num_rows, kv_heads):
  """300 rows are more than one slice of the queries."""
  mask = random_mask(num_rows, window)
  q = normal(0, 2, num_rows, 2, 4)
  k, v = normal(1, 2, 2, num_rows, kv_heads, 4)
  allowed = np.asarray(_dense(mask))
  heads = [h * kv_heads // 2 for h in range(2)]
  scores = np.einsum('bqhe,bkhe->bhqk', q, k[:, :, heads]) / 2
  weights = np.where(allowed[:, None], np.exp(scores), 0.0)
  total = weights.sum(axis=-1, keepdims=True)
  weights /= np.where(total > 0, total, 1.0)
  expected = np.einsum('bhqk,bkhe->bqhe', weights, v[:, :, heads])

  @jax.jit
  def attended(q):
    def total(q):
      out = attend(q, k, v, mask)
      return out.sum(), out

    return jax.grad(total, has_aux=True)(q)

  gradient, out = jax.device_get(attended(q))
  np.testing.assert_allclose(out, expected, atol=1e-5)
  blind = ~allowed.any(axis=-1)
  assert blind.any() and not blind.all()
  np.testing.assert_array_equal(out[blind], 0.0)
  assert np.isfinite(gradient).all()


def test_attend_to_a_cache_is_to_attend_to_all_rows():
  """The first five of nine keys lie in the cache."""
  whole = random_mask(9, 'causal')
  q, k, v = normal(0, 3, 2, 9, 2, 4)

  @jax.jit
  def cached(q, k, v, whole):
    cut = lambda part: jax.tree.map(lambda x: x[:, part], whole.keys)  # noqa: E731
    rest = jax.tree.map(lambda x: x[:, 5:], whole)
    mask = dataclasses.replace(rest, cached=cut(slice(0, 5)))
    return attend(q[:, 5:], k[:, 5:], v[:, 5:], mask, (k[:, :5], v[:, :5]))

  ours, theirs = cached(q, k, v, whole), np.asarray(_attend(q, k, v, whole))
  np.testing.assert_allclose(ours, theirs[:, 5:], atol=1e-6)


def test_attend_without_a_mask_sees_everything():
  q, k, v = normal(0, 3, 2, 9, 2, 4)
  everything = np.zeros((2, 9), np.int32)
  mask = masks.AttentionMask(everything, everything, everything - 1, everything, None)
  np.testing.assert_allclose(_attend(q, k, v, None), _attend(q, k, v, mask), atol=1e-6)


def test_parameters_carry_logical_axes_of_their_rank():
  config = changed(conditioning='adaln', activation='swiglu', tie_embedding=False)
  boxed = jax.eval_shape(
    lambda: Transformer(config).init(jax.random.key(0), TOKENS, sigma=SIGMA, positions=POSITIONS)
  )
  leaves = jax.tree_util.tree_leaves_with_path(
    boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )
  for path, leaf in leaves:
    assert isinstance(leaf, nn.LogicallyPartitioned), path
    assert len(leaf.names) == leaf.value.ndim, path
    assert (leaf.names[0] == 'layers') == ('blocks' in str(path)), path
  assert boxed['params']['embedding'].names == ('vocab', 'embed')
  assert boxed['params']['embedding'].value.shape[0] % 128 == 0
  assert boxed['params']['head'].value.shape[1] % 128 == 0


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(model_dim=18), 'model_dim 18'),  # a head width of 9 cannot be rotated
    (dict(num_kv_heads=3), 'num_kv_heads 3'),
    (dict(norm='batchnorm'), r'norm .* layernorm, rmsnorm'),
    (dict(activation='relu'), r'activation .* gelu, swiglu'),
    (dict(conditioning='film'), r'conditioning .* none, adaln'),
    (dict(dtype='float16'), r'dtype .* float32, bfloat16'),
  ],
)
def test_bad_configs_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    changed(**fields)


@pytest.mark.parametrize('preset', [presets.TINY, presets.SMALL])
def test_presets_are_valid(preset):
  config = TransformerConfig(vocab_size=11, **preset)
  assert config.head_dim * config.num_heads == config.model_dim


@functools.partial(jax.jit, static_argnums=0)
def pulled_back(function, x, parameter, dy):
  """What a function of half-precision rows gives, and its parameter's gradient."""
  y, back = jax.vjp(lambda parameter: function(x, parameter), parameter)
  return y, back(dy)[0]


def test_gradients_of_kernels_are_added_up_in_float32():
  """Of half-precision rows: a sum in their own precision would be off by a part in 2^8."""
  x, dy = normal(0, 2, 512, 8).astype(jnp.bfloat16)
  y, found = pulled_back(layers.matmul, x, normal(1, 8, 8), dy)
  assert y.dtype == jnp.bfloat16
  exact = np.asarray(x, np.float64).T @ np.asarray(dy, np.float64)
  np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


def test_gradients_of_vectors_are_added_up_in_float32():
  x, dy = normal(0, 2, 1024, 8).astype(jnp.bfloat16)
  y, found = pulled_back(layers.add_vector, x, np.ones(8, np.float32), dy)
  assert y.dtype == jnp.bfloat16
  exact = np.asarray(dy, np.float64).sum(axis=0)
  np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_products_have_the_gradients_of_plain_ones(dtype):
  x, kernel = normal(0, 2, 5, 8).astype(dtype), normal(1, 8, 3)

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(product, x, kernel):
    loss = lambda x, kernel: jnp.square(product(x, kernel).astype(jnp.float32)).sum()  # noqa: E731
    return jax.grad(loss, argnums=(0, 1))(x, kernel)

  found = gradients(layers.matmul, x, kernel)
  plain = gradients(lambda x, kernel: x @ kernel.astype(x.dtype), x, kernel)
  for a, b in zip(found, plain, strict=True):
    assert a.dtype == b.dtype
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    np.testing.assert_allclose(a, b, rtol=0.02, atol=0.1)


def test_a_denoiser_draws_dropout_with_a_key_and_only_with_a_key():
  """Reading, one row and both passes over clean and noisy tokens: without one it is as if it had
  none."""
  schedule = block(LENGTH, 2, 2)
  rules = dict(alignment='aligned', context='block_causal', window='full', bos_id=0, eos_id=0)
  quiet, loud = (
    make_denoiser(Transformer(config), schedule, **rules) for config in (BASE, changed(dropout=0.5))
  )
  variables, tokens = nn.meta.unbox(quiet.init(jax.random.key(0), LENGTH)), TOKENS % 11
  shown = dict(
    sigma=SIGMA, regions=schedule.regions(2), settle_step=jnp.asarray(schedule.settle_step)
  )
  tiles = rows.tiles(schedule, rows.tiled(schedule, jnp.asarray([0.1, 0.6])))
  for call in (
    lambda denoise, **key: denoise(variables, tokens, **shown, **key),
    lambda denoise, **key: denoise.tiled(
      variables, tokens, TOKENS, sigma=SIGMA, tiles=tiles, **key
    ),
  ):
    np.testing.assert_array_equal(call(loud), call(quiet))
    assert np.abs(call(loud, dropout_key=jax.random.key(0)) - call(quiet)).max() > 1e-3
