"""TPU kernels, interpreted: the same attention as plain products, wherever the mask is known."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import masks, mesh, rows
from ardiff_jax.hyperschedules import Region, block, slide
from ardiff_jax.masks import AttentionMask
from ardiff_jax.models import attention, layouts, splash
from ardiff_jax.models.attention import attend
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.noise import absorbing
from ardiff_jax.objectives.likelihood import Examples, NextToken, WeightedCrossEntropy
from configs import base

EOS = 1
RULES = layouts.Rules('aligned', 'block_causal', 'full', 0, EOS, False)


def mask_of(kind, num_rows=150):
  """A mask over two examples, from traced tokens where documents are kept apart."""
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2, num_rows)))
  zeros, uniform = jnp.zeros((2, num_rows)), jnp.asarray([0.3, 0.6])
  rules = RULES
  if kind.startswith('documents'):
    rules = dataclasses.replace(rules, separate_documents=True)
  if kind.endswith('shifted'):
    rules = dataclasses.replace(rules, alignment='shifted', window='causal_next')
  if kind.endswith('reading'):
    rules = dataclasses.replace(rules, alignment='shifted', context='causal', window='causal')
    settled = np.full(num_rows, Region.SETTLED)
    return layouts.one_row(rules, tokens, zeros, settled, np.arange(num_rows), False).mask
  if kind == 'rows that see nothing':
    index = np.arange(num_rows)[None].repeat(2, axis=0)
    dead = index % 7 == 3
    vectors = np.where(dead, masks.NEVER, index), np.where(dead, -1, index), index * 0 - 1, index
    return masks.fix(AttentionMask(*vectors, None))
  schedule = block(num_rows, 16, 4)
  tiles = rows.tiles(schedule, rows.tiled(schedule, uniform))
  return layouts.tiled(rules, tokens, tokens, zeros, tiles).mask


KINDS = [
  'doubled',
  'doubled shifted',
  'reading',
  'documents, doubled',
  'documents, reading',
  'rows that see nothing',
  'no mask',
]


@pytest.mark.parametrize('kind', KINDS)
def test_splash_is_plain_attention_and_so_are_its_gradients(kind):
  """Two query heads to a key head; rows that are no multiple of the kernel's blocks."""

  @jax.jit(static_argnames='kernel')
  def run(q, k, v, kernel):
    mask = None if kind == 'no mask' else mask_of(kind)
    num_rows = 150 if mask is None else mask.rank.shape[1]
    weight = jnp.cos(jnp.arange(num_rows, dtype=jnp.float32))[None, :, None, None]

    def total(q, k, v):
      out = attend(*(x[:, :num_rows] for x in (q, k, v)), mask, None, kernel)
      return (weight * out).sum(), out

    return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)

  keys = jax.random.split(jax.random.key(0), 3)
  q, k, v = (
    jax.random.normal(key, (2, 320, n, 32)) for key, n in zip(keys, (4, 2, 2), strict=True)
  )
  plain, ours = (run(q, k, v, kernel=kernel) for kernel in ('xla', 'splash'))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 2e-5), plain, ours)
  if kind == 'rows that see nothing':
    assert (np.asarray(ours[0][1])[:, 3::7] == 0.0).all()


def test_blocks_of_the_mask_are_the_dense_mask():
  """More rows than one block of the kernel holds; every block, asked for on its own."""
  mask = mask_of('doubled', num_rows=600)
  blocks = splash._Blocks(mask.fixed, mask.sight, 1536)
  parts = [slice(start, start + 512) for start in range(0, 1536, 512)]
  whole = np.block([[blocks[q, k] for k in parts] for q in parts])
  dense = np.asarray(mask.dense()[0])
  num_rows = len(dense)
  np.testing.assert_array_equal(whole[:num_rows, :num_rows], dense)
  np.testing.assert_array_equal(whole[num_rows:, num_rows:], np.eye(1536 - num_rows, dtype=bool))
  assert not whole[:num_rows, num_rows:].any() and not whole[num_rows:, :num_rows].any()
  twin = splash._Blocks(mask.fixed, mask.sight, 1536)
  assert twin == blocks and hash(twin) == hash(blocks)
  assert splash._Blocks(mask.fixed, masks.Sight('causal'), 1536) != blocks


def test_which_masks_are_known_while_compiling():
  """Reading and block's doubled pass, whatever the data; not slide's, whose offset is drawn."""
  seen = {}

  @jax.jit
  def trace(uniform, tokens):
    zeros = jnp.zeros((2, 48))
    for schedule in (block(48, 16, 4), slide(48, 16, 4)):
      tiles = rows.tiles(schedule, rows.tiled(schedule, uniform))
      layout = layouts.tiled(RULES, tokens, tokens, zeros, tiles)
      seen[schedule.tiling] = layout.mask.fixed is not None
    seen['reading'] = mask_of('reading').fixed is not None
    return uniform

  trace(jnp.asarray([0.1, 0.8]), jnp.zeros((2, 48), jnp.int32))
  assert seen == {'block': True, 'slide': False, 'reading': True}
  differing = jnp.asarray([[0, 1], [1, 0]])
  assert masks.fix(AttentionMask(differing, differing, differing, differing, None)).fixed is None


def loss_and_gradient(method, kernel):
  """Of a small network on eight devices that split batch, parameters and heads."""
  config = TransformerConfig(
    vocab_size=11, model_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, attention=kernel
  )
  schedule = block(24, 4, 3)
  read = method == 'reading'
  denoiser = make_denoiser(
    Transformer(config),
    schedule,
    alignment='shifted' if read else 'aligned',
    context='causal' if read else 'block_causal',
    window='causal' if read else 'full',
    bos_id=0,
    eos_id=EOS,
  )
  objective = NextToken() if read else WeightedCrossEntropy(absorbing(11), doubled=True)
  tokens = jax.random.randint(jax.random.key(0), (4, 24), 0, 11)
  shape = base.get_base().mesh
  shape.data, shape.fsdp, shape.tensor = 2, 2, 2
  with mesh.use(mesh.make_mesh(shape)):
    params = jax.jit(denoiser.init, static_argnums=1)(jax.random.key(1), 24)

    def loss(params):
      keys = jax.random.split(jax.random.key(2), 4)
      examples = Examples(tokens, jnp.ones((4, 24), bool), jnp.asarray([0.1, 0.4, 0.6, 0.9]), keys)
      return objective(denoiser, params, examples, schedule).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize('method', ['reading', 'doubled'])
def test_training_with_splash_on_eight_devices(method):
  plain, ours = (loss_and_gradient(method, kernel) for kernel in ('xla', 'splash'))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), plain, ours)


@pytest.mark.parametrize('kind', ['doubled', 'documents, reading', 'no mask'])
def test_tpu_takes_the_kernels(kind, monkeypatch):
  """Lowered for TPU, both ways, they are kernels of its compiler; 'xla' has none."""
  tpu = types.SimpleNamespace(platform='tpu')
  monkeypatch.setattr(attention, '_device', lambda: tpu)

  def loss(x, kernel):
    mask = None if kind == 'no mask' else mask_of(kind)
    num_rows = 150 if mask is None else mask.rank.shape[1]
    x = x[:, :num_rows]
    return attend(x, x, x, mask, None, kernel).astype(jnp.float32).sum()

  x = jnp.ones((2, 320, 4, 64), jnp.bfloat16)
  for kernel, count in (('auto', 3), ('xla', 0)):
    traced = jax.jit(jax.grad(loss), static_argnums=1).trace(x, kernel)
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    assert text.count('tpu_custom_call') == count


@pytest.mark.parametrize(
  'platform, capability, dtype, width, applies',
  [
    ('gpu', '9.0', 'bfloat16', 64, True),
    ('gpu', '8.0', 'float16', 128, True),
    ('gpu', '7.5', 'bfloat16', 64, False),
    ('gpu', 'gfx942', 'bfloat16', 64, False),
    ('gpu', '9.0', 'float32', 64, False),
    ('gpu', '9.0', 'bfloat16', 60, False),
    ('gpu', '9.0', 'bfloat16', 192, False),
    ('cpu', '', 'bfloat16', 64, False),
  ],
)
def test_where_cudnn_applies(platform, capability, dtype, width, applies):
  device = types.SimpleNamespace(platform=platform, compute_capability=capability)
  rows = jax.ShapeDtypeStruct((2, 16, 4, width), dtype)
  assert attention._cudnn_applies(device, rows) is applies
