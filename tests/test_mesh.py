"""Sharding changes where arrays lie, not what is computed; and it is what saves memory."""

import itertools
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from ml_collections import ConfigDict
from steps import BATCH, VOCAB, assert_same_gradients, make_mesh, make_state, make_step, run_steps

from ardiff_jax import masks
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.divergences import cross_entropy
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import block
from ardiff_jax.models import attention
from ardiff_jax.models.attention import attend
from ardiff_jax.models.cache import Cache, Entries
from ardiff_jax.tokenwise import tokenwise
from ardiff_jax.training.state import abstract_state, make_optimizer
from configs import gamma_hybrid

MESHES = {
  'data': dict(data=8),
  'fsdp': dict(fsdp=8),
  'fsdp x tensor': dict(fsdp=4, tensor=2),
  'fsdp x tensor x sequence': dict(fsdp=2, tensor=2, sequence=2),
}
METHODS = ('ar', 'epsilon_hybrid', 'gamma_hybrid')
ALONG_ALL = 'fsdp x tensor x sequence'


def on_meshes(*few, meshes=MESHES):
  """Every method on the mesh of most axes, and those few on others; all others are `full`."""
  for name, mesh in itertools.product(METHODS, meshes):
    left_out = mesh != ALONG_ALL and (name, mesh) not in few
    yield pytest.param(name, mesh, marks=pytest.mark.full if left_out else ())


def config_of(name, text_file='unused'):
  config = small_config(name, text_file)
  if name == 'epsilon_hybrid':
    config.hyperschedule.name, config.hyperschedule.width = 'block', 8
    config.objective.doubled = True
  return config


@pytest.fixture(scope='module')
def on_one_device():
  return {name: run_steps(config_of(name), make_mesh()) for name in METHODS}


@pytest.mark.parametrize(
  'name, mesh',
  on_meshes(*(('ar', mesh) for mesh in MESHES)),
)
def test_eight_devices_equal_one(name, mesh, on_one_device):
  state, losses = run_steps(config_of(name), make_mesh(**MESHES[mesh]))
  one, one_losses = on_one_device[name]
  np.testing.assert_allclose(losses, one_losses, rtol=1e-5)
  assert_same_gradients(state, one)


@pytest.mark.parametrize('name', METHODS)
def test_state_takes_an_eighth_of_the_bytes_on_each_of_eight_devices(name):
  state = make_state(config_of(name), make_mesh(fsdp=8))
  for tree in (state.params, state.ema, state.opt_state):
    leaves = jax.tree.leaves(tree)
    whole = sum(x.nbytes for x in leaves)
    on_first = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    # what embeds the noise level is small, and lies everywhere
    assert whole / 8 <= on_first < whole / 8 * (1.001 if name != 'gamma_hybrid' else 1.5)


def test_state_of_the_papers_size_takes_an_eighth():
  """Of the method with most parameters besides the blocks', where what lies everywhere is small."""
  config, mesh = gamma_hybrid.get_config(), make_mesh(fsdp=8)
  method = method_lib.build(config, 50_257, bos_id=0, eos_id=0)
  optimizer, _ = make_optimizer(config.train)
  abstract = abstract_state(method.denoise, optimizer, config.data.length, 0, mesh)
  leaves = jax.tree.leaves(abstract)
  whole = sum(math.prod(x.shape) for x in leaves)
  on_one = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
  assert whole > 3e8 and on_one < whole / 8 * 1.01


def test_parameters_moments_and_average_are_sharded_alike():
  state = make_state(config_of('epsilon_hybrid'), make_mesh(data=2, fsdp=2, tensor=2))
  kernel = state.params['params']['blocks']['mlp_in']['kernel']
  assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, 'fsdp', 'tensor')
  assert kernel.addressable_shards[0].data.size * 4 == kernel.size
  specs = jax.tree.map(lambda x: x.sharding.spec, state.params)
  moments = state.opt_state[1][0]
  for tree in (state.ema, moments.mu, moments.nu):
    assert jax.tree.map(lambda x: x.sharding.spec, tree) == specs


def test_a_step_takes_the_state_it_is_given():
  config, mesh = config_of('ar'), make_mesh(fsdp=8)
  step, arguments, _ = make_step(config, mesh)
  state = make_state(config, mesh)
  with mesh_lib.use(mesh):
    step(state, *arguments)
  assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_a_cache_is_split_like_activations():
  entries = Entries(jnp.arange(3), *jnp.ones((2, 1, 4, 3, 2, 8)))
  with mesh_lib.use(make_mesh(fsdp=2, tensor=2, sequence=2)):
    empty = jax.jit(lambda: Cache.empty(1, 4, 16, 2, 8, 'float32'))()
    written = jax.jit(Cache.write)(empty, entries)
  for x in (empty.keys, empty.values, written.keys, written.values):
    assert x.addressable_shards[0].data.shape == (1, 2, 1, 8, 8)


@pytest.mark.parametrize(
  'name, mesh', on_meshes(('ar', 'fsdp x tensor'), meshes=['fsdp x tensor', ALONG_ALL])
)
def test_no_device_gathers_logits(name, mesh):
  """Nor rows of others, but for their keys: what is gathered is smaller than one device's logits
  would be if they were whole, and of no whole batch."""
  config = config_of(name)
  devices = make_mesh(**MESHES[mesh])
  step, arguments, abstract = make_step(config, devices)
  with mesh_lib.use(devices):
    text = step.lower(abstract, *arguments).compile().as_text()
  results = re.findall(r'= (.*) all-gather(?:-start)?\(', text)
  gathered = [
    tuple(map(int, shape.split(',')))
    for result in results
    for shape in re.findall(r'f32\[([\d,]+)\]', result)
  ]
  length = config.data.length // devices.shape['sequence']
  sizes = [math.prod(shape) for shape in gathered]
  batch = BATCH // devices.shape['fsdp']
  assert sizes and max(sizes) < batch * length * VOCAB
  assert not re.search(rf'\[({batch},{length}|{batch * length}),{VOCAB}\]', text)  # nor has them
  assert not [
    shape for shape in gathered if len(shape) > 2 and shape[0] == BATCH and shape[1] >= length
  ]


@pytest.mark.parametrize('mask_of', ['block', 'none'])
def test_attention_over_rows_that_devices_share(mask_of):
  """Enough of them for several slices, and a number that no two devices can share evenly."""
  q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 301, 2, 4))
  schedule = block(301, 7, 2)
  mask = None
  if mask_of == 'block':
    mask = masks.from_regions(
      jnp.broadcast_to(schedule.regions(41), (2, 301)),
      schedule.settle_step,
      context='causal',
      sight=masks.Sight(),
    )

  def loss(q, k, v):
    return jnp.square(attend(q, k, v, mask)).sum()

  wanted = jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
  mesh = make_mesh(fsdp=2, sequence=4)
  with mesh_lib.use(mesh):
    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*mesh_lib.repeat(mesh, (q, k, v)))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, wanted)


def test_cudnn_takes_no_rows_that_devices_share():
  gpu = types.SimpleNamespace(platform='gpu', compute_capability='9.0')
  rows = jax.ShapeDtypeStruct((2, 16, 4, 64), 'bfloat16')
  for sizes, applies in ((dict(fsdp=8), True), (dict(fsdp=2, sequence=4), False)):
    with mesh_lib.use(make_mesh(**sizes)):
      assert attention._cudnn_applies(gpu, rows) is applies


def test_slices_of_tokens_that_devices_share():
  logits = jax.random.normal(jax.random.key(0), (2, 64, 4096))
  tokens = jax.random.randint(jax.random.key(1), (2, 64), 0, 4096)
  loss = jax.value_and_grad(lambda x: jnp.square(tokenwise(cross_entropy, x, tokens)).sum())
  mesh = make_mesh(fsdp=2, sequence=4)
  with mesh_lib.use(mesh):
    placed = jax.device_put(logits, jax.NamedSharding(mesh, jax.P('fsdp', 'sequence')))
    found = jax.jit(loss)(placed)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), found, loss(logits))


def test_mesh_must_use_the_devices_present():
  with pytest.raises(UserError, match=r'data=3 .* does not make the 8 devices'):
    make_mesh(data=3)
  assert make_mesh(data=-1, fsdp=2).shape['data'] == 4


class Chip:
  """A TPU as far as its place goes."""

  platform, device_kind, core_on_chip, process_index = 'tpu', 'TPU v6 lite', 0, 0

  def __init__(self, number, place, slice_index):
    self.id, self.coords, self.slice_index = number, (*place, 0), slice_index


def chips(width, slices):
  places = [(x, y) for x in range(width) for y in range(width)]
  return [Chip(s * width**2 + i, p, s) for s in range(slices) for i, p in enumerate(places)]


def test_slices_lie_along_data_or_fsdp():
  one = mesh_lib.arrange((1, 32, 2, 1), chips(8, 1))
  assert one.shape == (1, 32, 2, 1) and len(set(one.flat)) == 64
  two = mesh_lib.arrange((2, 4, 2, 1), chips(2, 4))
  assert two.shape == (2, 4, 2, 1)  # data cannot be split in four, fsdp can
  two = mesh_lib.arrange((2, 4, 4, 1), chips(4, 2))
  for part in (0, 1):
    assert {chip.slice_index for chip in two[part].flat} == {part}
  with pytest.raises(UserError, match='must be a multiple of the 2 slices or nodes'):
    mesh_lib.arrange((1, 1, 32, 1), chips(4, 2))


def test_batches_are_filled_up_until_devices_can_share_them():
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  assert [mesh_lib.fill_batch(mesh, size) for size in (1, 4, 6)] == [4, 4, 8]


def test_an_axis_that_cannot_be_split_is_named():
  config = config_of('ar')
  config.model.num_heads = 2
  with pytest.raises(UserError, match=r"tensor=8 does not divide axis 'heads'.* 2 long"):
    make_state(config, make_mesh(tensor=8))


def test_a_process_reads_the_rows_of_all_its_devices_once():
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  np.testing.assert_array_equal(mesh_lib.part_of_batch(mesh, 8), np.arange(8))
  shards = mesh_lib.place_batch(mesh, {'x': np.arange(8)})['x'].addressable_shards
  assert {tuple(np.asarray(shard.data)) for shard in shards} == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_a_mesh_for_other_devices_gives_way():
  config = ConfigDict(dict(data=64, fsdp=1, tensor=1, sequence=1))
  assert dict(mesh_lib.fitting_mesh(config).shape) == dict(data=8, fsdp=1, tensor=1, sequence=1)
  config = ConfigDict(dict(data=1, fsdp=64, tensor=1, sequence=1))
  assert dict(mesh_lib.fitting_mesh(config).shape) == dict(data=1, fsdp=8, tensor=1, sequence=1)
