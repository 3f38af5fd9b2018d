"""The network: every knob does something, and attention is what its rules say."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import masks
from ardiff_jax.models import layers, presets
from ardiff_jax.models.attention import attend, rotary_phases, rotate
from ardiff_jax.models.transformer import Transformer, TransformerConfig

BASE = TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2, remat='none')
LENGTH = 6
TOKENS = jnp.asarray([[3, 1, 4, 1, 5, 11], [2, 7, 1, 8, 2, 11]])
SIGMA = jnp.linspace(0.1, 3.0, 12).reshape(2, LENGTH)
POSITIONS = jnp.arange(LENGTH)


def init(config, seed=0, perturb=False):
  """Unboxed parameters; `perturb` moves them all, the zero-initialised ones too."""
  variables = jax.jit(Transformer(config).init)(
    jax.random.key(seed), TOKENS, sigma=SIGMA, positions=POSITIONS
  )
  variables = nn.meta.unbox(variables)
  if perturb:
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(99), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    variables = jax.tree.unflatten(tree, moved)
  return variables


@functools.partial(jax.jit, static_argnames=('config', 'num_kept', 'deterministic'))
def run(config, variables, tokens=TOKENS, sigma=SIGMA, positions=POSITIONS, **kwargs):
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
  same, other = jax.tree.map(jnp.shape, base), jax.tree.map(jnp.shape, init(config))
  assert same == other
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
def test_knob_with_parameters_of_its_own_moves_shapes_and_logits(base, fields, shapes):
  config = changed(**fields)
  variables = init(config)
  found = {
    '/'.join(k.key for k in path[1:]): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
  }
  assert {name: found[name] for name in shapes} == shapes
  assert np.abs(run(config, variables) - run(BASE, base)).max() > 1e-3


@pytest.mark.parametrize('vocab_size, rows', [(127, 128), (128, 256)])
@pytest.mark.parametrize('tie_embedding', [True, False])
def test_embedding_is_padded_with_room_for_the_mask(vocab_size, rows, tie_embedding):
  config = changed(vocab_size=vocab_size, tie_embedding=tie_embedding)
  variables = init(config)
  assert variables['params']['embedding'].shape == (rows, 16)
  tokens = jnp.full((2, LENGTH), vocab_size)
  logits = run(config, variables, tokens)
  assert logits.shape == (2, LENGTH, vocab_size) and np.isfinite(logits).all()
  moved = jax.tree.map(lambda x: x, variables)
  moved['params']['embedding'] = moved['params']['embedding'].at[vocab_size, 0].add(1.0)
  assert np.abs(run(config, moved, tokens) - logits).max() > 1e-3


def test_noise_level_moves_each_row_once_training_has_begun():
  """At the start modulation is zero; after that each row feels the noise of its own token."""
  config = changed(conditioning='adaln')
  start, later = init(config), init(config, perturb=True)
  np.testing.assert_array_equal(run(config, start), run(config, start, sigma=0.0 * SIGMA))
  other = SIGMA.at[0, 2].add(1.0)
  allowed = masks.from_regions(  # causal reading: row 2 reaches rows 2.. of its own example only
    jnp.zeros((2, LENGTH), jnp.int8),
    np.arange(1, LENGTH + 1),
    context='causal',
    sight=masks.Sight(),
  )
  moved = run(config, later, mask=allowed) != run(config, later, sigma=other, mask=allowed)
  np.testing.assert_array_equal(
    np.asarray(moved).any(axis=-1), [[False, False, True, True, True, True], [False] * LENGTH]
  )


def test_every_zero_initialised_modulation_is_used():
  """Each of the six vectors of a layer, and the two of the end, has a gradient when moved."""
  config = changed(conditioning='adaln')
  variables = init(config, perturb=True)
  weight = jax.random.normal(jax.random.key(3), (2, LENGTH, 11))
  gradient = jax.grad(lambda v: (run(config, v) * weight).sum())(variables)['params']
  layers = gradient['blocks']['modulation']['map']['kernel']
  final = gradient['final_modulation']['map']['kernel']
  assert layers.shape == (2, 4, 6, 16) and final.shape == (4, 2, 16)
  assert (np.abs(layers).max(axis=(1, 3)) > 1e-5).all()
  assert (np.abs(final).max(axis=(0, 2)) > 1e-5).all()


def test_without_conditioning_the_noise_level_is_unused(base):
  np.testing.assert_array_equal(run(BASE, base), run(BASE, base, sigma=SIGMA + 5.0))


def test_every_parameter_has_a_gradient():
  """Nothing is built and left out of the sum; `tie_embedding` False has an output of its own."""
  config = changed(conditioning='adaln', activation='swiglu', tie_embedding=False, num_kv_heads=1)
  variables = init(config, perturb=True)
  weight = jax.random.normal(jax.random.key(3), (2, LENGTH, 11))
  gradient = jax.grad(lambda v: (run(config, v) * weight).sum())(variables)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
    assert np.abs(leaf).max() > 1e-6, path


def test_dropout_draws_with_a_key_and_only_with_a_key(base):
  config = changed(dropout=0.5)
  quiet = run(config, base)
  np.testing.assert_array_equal(quiet, run(BASE, base))

  def loud(seed):
    rngs = {'dropout': jax.random.key(seed)}
    return run(config, base, deterministic=False, rngs=rngs)

  np.testing.assert_array_equal(loud(0), loud(0))
  assert np.abs(loud(0) - loud(1)).max() > 1e-3
  assert np.abs(loud(0) - quiet).max() > 1e-3
  no_rate = run(BASE, base, deterministic=False, rngs={'dropout': jax.random.key(0)})
  np.testing.assert_array_equal(no_rate, quiet)


@pytest.mark.parametrize('silenced', ['attention_out', 'mlp_out'])
def test_dropout_is_on_each_branch(base, silenced):
  """With one branch silenced, the noise is that of the other."""
  variables = jax.tree.map(lambda x: x, base)
  kernel = variables['params']['blocks'][silenced]['kernel']
  variables['params']['blocks'][silenced]['kernel'] = 0.0 * kernel
  config = changed(dropout=0.5)
  rngs = {'dropout': jax.random.key(0)}
  loud = run(config, variables, deterministic=False, rngs=rngs)
  assert np.abs(loud - run(config, variables)).max() > 1e-3


@pytest.mark.parametrize('dropout', [0.0, 0.5])
def test_remat_changes_no_value_and_no_gradient(base, dropout):
  def value_and_grad(remat):
    config = changed(remat=remat, dropout=dropout)

    def loss(variables):
      rngs = {'dropout': jax.random.key(0)}
      return (run(config, variables, deterministic=False, rngs=rngs) ** 2).sum()

    products[remat] = str(jax.make_jaxpr(jax.grad(loss))(base)).count('dot_general')
    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(base))

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
  half = run(changed(dtype='bfloat16'), base)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, run(BASE, base), atol=0.1)
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(init(changed(dtype='bfloat16'))))


@pytest.mark.parametrize('fields', [{}, dict(num_kv_heads=1), dict(rope_base=100.0)], ids=str)
def test_rotary_sees_differences_of_positions_only(fields):
  config = changed(**fields)
  variables = init(config)
  here = run(config, variables)
  np.testing.assert_allclose(run(config, variables, positions=POSITIONS + 37), here, atol=1e-4)
  spread = run(config, variables, positions=2 * POSITIONS)
  assert np.abs(spread - here).max() > 1e-3
  per_example = jnp.stack([POSITIONS, POSITIONS + 5])
  np.testing.assert_allclose(run(config, variables, positions=per_example), here, atol=1e-4)


def test_rotation_preserves_length_and_turns_products_by_the_difference():
  """The product of a query at m and a key at n depends on m - n, and does depend on it."""
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

  def at(x, position):
    return rotate(x, rotary_phases(jnp.asarray([position]), 8, 100.0))

  def product(m, n):
    return float((at(q, m) * at(k, n)).sum())

  np.testing.assert_allclose((at(q, 9) ** 2).sum(), (q**2).sum(), rtol=1e-5)
  np.testing.assert_allclose(product(7, 4), product(3, 0), atol=1e-4)
  assert abs(product(4, 7) - product(7, 4)) > 1e-2
  np.testing.assert_array_equal(at(q, 0), q)


def test_rotary_wavelengths_run_from_two_pi_to_the_base():
  cos, sin = rotary_phases(jnp.asarray([1]), 4, 10_000.0)
  np.testing.assert_allclose(jnp.arctan2(sin, cos).reshape(-1), [1.0, 0.01], rtol=1e-5)


def test_as_many_kv_heads_as_heads_is_the_default(base):
  config = changed(num_kv_heads=2)
  np.testing.assert_array_equal(run(config, base), run(BASE, base))


def test_grouped_queries_share_keys_and_values():
  """One group is two heads with the keys and values of both repeated."""
  grouped = init(changed(num_kv_heads=1))
  repeated = jax.tree.map(lambda x: x, grouped)
  for name in ('key', 'value'):
    kernel = repeated['params']['blocks'][name]['kernel']
    repeated['params']['blocks'][name]['kernel'] = jnp.repeat(kernel, 2, axis=2)
  np.testing.assert_allclose(run(changed(num_kv_heads=1), grouped), run(BASE, repeated), atol=1e-5)


def test_rows_permuted_with_their_positions_permute_the_logits():
  config = changed(conditioning='adaln')
  variables = init(config, perturb=True)
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
  leading = Transformer(BASE).apply(base, TOKENS, sigma=SIGMA, positions=POSITIONS, outputs=4)
  np.testing.assert_allclose(leading, whole[:, :4], atol=1e-6)
  some = jnp.asarray([3, 0, 4])
  np.testing.assert_allclose(run(BASE, base, outputs=some), whole[:, some], atol=1e-6)
  each = jnp.asarray([[3, 0], [1, 2]])
  expected = np.take_along_axis(np.asarray(whole), np.asarray(each)[..., None], axis=1)
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
  return masks.AttentionMask(*map(jnp.asarray, fields), sight=masks.Sight(window), **static)


@pytest.mark.parametrize('kv_heads', [1, 2])
@pytest.mark.parametrize('window, num_rows', [('full', 9), ('causal', 9), ('causal_next', 300)])
def test_attend_is_masked_softmax_and_zero_without_a_key(kv_heads, window, num_rows):
  """300 rows are more than one slice of the queries."""
  mask = random_mask(num_rows, window)
  q = jax.random.normal(jax.random.key(0), (2, num_rows, 2, 4))
  k, v = jax.random.normal(jax.random.key(1), (2, 2, num_rows, kv_heads, 4))
  allowed = np.asarray(mask.dense())
  heads = [h * kv_heads // 2 for h in range(2)]
  scores = np.einsum('bqhe,bkhe->bhqk', q, np.asarray(k)[:, :, heads]) / 2
  weights = np.where(allowed[:, None], np.exp(scores), 0.0)
  total = weights.sum(axis=-1, keepdims=True)
  weights /= np.where(total > 0, total, 1.0)
  expected = np.einsum('bhqk,bkhe->bqhe', weights, np.asarray(v)[:, :, heads])
  out = attend(q, k, v, mask)
  np.testing.assert_allclose(out, expected, atol=1e-5)
  blind = ~allowed.any(axis=-1)
  assert blind.any() and not blind.all()
  np.testing.assert_array_equal(np.asarray(out)[blind], 0.0)
  gradient = jax.grad(lambda q: attend(q, k, v, mask).sum())(q)
  assert np.isfinite(gradient).all()


def test_attend_to_a_cache_is_to_attend_to_all_rows():
  """The first five of nine keys lie in the cache."""
  whole = random_mask(9, 'causal')
  q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 9, 2, 4))
  cut = lambda part: jax.tree.map(lambda x: x[:, part], whole.keys)  # noqa: E731
  rest = jax.tree.map(lambda x: x[:, 5:], whole)
  mask = dataclasses.replace(rest, cached=cut(slice(0, 5)))
  ours = attend(q[:, 5:], k[:, 5:], v[:, 5:], mask, (k[:, :5], v[:, :5]))
  np.testing.assert_allclose(ours, attend(q, k, v, whole)[:, 5:], atol=1e-6)


def test_attend_without_a_mask_sees_everything():
  q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 9, 2, 4))
  everything = jnp.zeros((2, 9), jnp.int32)
  mask = masks.AttentionMask(everything, everything, everything - 1, everything, None)
  np.testing.assert_allclose(attend(q, k, v, None), attend(q, k, v, mask), atol=1e-6)


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


def test_gradients_of_kernels_are_added_up_in_float32():
  """Of half-precision rows: a sum in their own precision would be off by a part in 2^8."""
  x, dy = jax.random.normal(jax.random.key(0), (2, 512, 8)).astype(jnp.bfloat16)
  kernel = jax.random.normal(jax.random.key(1), (8, 8))
  y, back = jax.vjp(lambda kernel: layers.matmul(x, kernel), kernel)
  assert y.dtype == jnp.bfloat16
  exact = np.asarray(x, np.float64).T @ np.asarray(dy, np.float64)
  np.testing.assert_allclose(back(dy)[0], exact, rtol=1e-4, atol=1e-4)


def test_gradients_of_vectors_are_added_up_in_float32():
  x, dy = jax.random.normal(jax.random.key(0), (2, 1024, 8)).astype(jnp.bfloat16)
  y, back = jax.vjp(lambda vector: layers.add_vector(x, vector), jnp.ones(8))
  assert y.dtype == jnp.bfloat16
  exact = np.asarray(dy, np.float64).sum(axis=0)
  np.testing.assert_allclose(back(dy)[0], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_products_have_the_gradients_of_plain_ones(dtype):
  x = jax.random.normal(jax.random.key(0), (2, 5, 8)).astype(dtype)
  kernel = jax.random.normal(jax.random.key(1), (8, 3))

  def loss(product, x, kernel):
    return jnp.square(product(x, kernel).astype(jnp.float32)).sum()

  found = jax.grad(loss, argnums=(1, 2))(layers.matmul, x, kernel)
  plain = jax.grad(loss, argnums=(1, 2))(lambda x, kernel: x @ kernel.astype(x.dtype), x, kernel)
  for a, b in zip(found, plain, strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=0.02, atol=0.1)
