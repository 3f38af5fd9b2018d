"""The network: every knob does something, and attention is what its rules say."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import masks
from ardiff_jax.models.attention import attend, rotary_phases, rotate
from ardiff_jax.models.transformer import PRESETS, Transformer, TransformerConfig

BASE = TransformerConfig(vocab_size=11, model_dim=16, num_layers=2, num_heads=2, remat=False)
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
    (dict(tie_embedding=False), {'head/kernel': (16, 128)}),
    (dict(num_kv_heads=1), {'blocks/key/kernel': (2, 16, 1, 8), 'blocks/value/kernel': (2, 16, 1, 8)}),
    (dict(mlp_dim=24), {'blocks/mlp_in/kernel': (2, 16, 24), 'blocks/mlp_out/kernel': (2, 24, 16)}),
    (dict(num_layers=3), {'blocks/query/kernel': (3, 16, 2, 8)}),
    (dict(model_dim=32), {'embedding': (128, 32)}),
    (dict(num_heads=4), {'blocks/query/kernel': (2, 16, 4, 4)}),
    (dict(vocab_size=128), {'embedding': (256, 16)}),  # the mask's row needs another 128
    (dict(vocab_size=127), {'embedding': (128, 16)}),
  ],
  ids=lambda x: str(x) if 'kernel' not in str(x) else '',
)  # fmt: skip
def test_knob_with_parameters_of_its_own_moves_shapes_and_logits(base, fields, shapes):
  config = changed(**fields)
  variables = init(config)
  found = {
    '/'.join(k.key for k in path[1:]): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
  }
  assert {name: found[name] for name in shapes} == shapes
  assert np.abs(run(config, variables)[..., :11] - run(BASE, base)).max() > 1e-3


def test_noise_level_moves_each_row_of_its_own_once_training_has_begun():
  """At the start modulation is zero; after that each row feels the noise it shows."""
  config = changed(conditioning='adaln')
  start = init(config)
  np.testing.assert_array_equal(run(config, start, sigma=SIGMA), run(config, start, sigma=0 * SIGMA))
  np.testing.assert_array_equal(run(config, start), 0.0 * run(config, start))  # gates are shut? no
