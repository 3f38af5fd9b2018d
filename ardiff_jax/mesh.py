"""The device mesh, and which logical axis of an array lies on which mesh axis.

The only file that names mesh axes. One device is the mesh of one device; nothing is special.

  data      batch split, parameters repeated
  fsdp      batch split, parameters split too
  tensor    heads, hidden units and vocabulary split
  sequence  rows of a sequence split, for long texts; every device gathers the keys of all of them
"""

import contextlib
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ardiff_jax.errors import UserError

AXES = ('data', 'fsdp', 'tensor', 'sequence')

RULES = (
  ('batch', ('data', 'fsdp')),
  ('length', 'sequence'),
  ('keys', None),
  ('activation', None),
  ('activation_vocab', 'tensor'),
  ('layers', None),
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('head_dim', None),
  ('mlp', 'tensor'),
  ('vocab', 'tensor'),
  ('sinusoid', None),
  ('condition', None),
  ('condition_out', None),
  ('modulation', None),
)


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Returns the mesh of config.data x fsdp x tensor x sequence devices; -1 takes the rest.

  Args:
    config: the four sizes; 1 where one is not named.
    devices: which to use; None for all, of every process.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  sizes = [config.get(axis, 1) for axis in AXES]
  count = jax.device_count() if devices is None else len(devices)
  if sizes.count(-1) == 1:
    known = math.prod(size for size in sizes if size != -1)
    sizes[sizes.index(-1)] = count // known if known > 0 else 0
  if any(size < 1 for size in sizes) or math.prod(sizes) != count:
    asked = ' x '.join(f'{axis}={config.get(axis, 1)}' for axis in AXES)
    raise UserError(f'config.mesh: {asked} does not make the {count} devices present')
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)  # what Linen modules can live on
  return Mesh(arrange(sizes, jax.devices() if devices is None else devices), AXES, axis_types=auto)


def arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
  """Returns devices of the shape `sizes`, neighbours near each other; slices of TPUs and nodes of
  GPUs, between which the network is slow, one after the other along data, or else fsdp.

  Raises:
    UserError: neither can be split over the slices.
  """
  num_slices = len({getattr(device, 'slice_index', 0) for device in devices})
  kwargs = dict(devices=devices, allow_split_physical_axes=True)
  if num_slices == 1:
    return mesh_utils.create_device_mesh(sizes, **kwargs)
  of_slice, between = list(sizes), [1] * len(sizes)
  axis = next((i for i in (0, 1) if sizes[i] % num_slices == 0), None)
  if axis is None:
    raise UserError(
      f'config.mesh: data or fsdp must be a multiple of the {num_slices} slices or nodes'
    )
  of_slice[axis], between[axis] = sizes[axis] // num_slices, num_slices
  return mesh_utils.create_hybrid_device_mesh(of_slice, between, **kwargs)


def fitting_mesh(config: ConfigDict) -> Mesh:
  """Returns `make_mesh(config)`; where other devices are present than the config was written for,
  all of them along fsdp if it splits parameters, else along data."""
  try:
    return make_mesh(config)
  except UserError:
    return make_mesh(ConfigDict({'data': -1} if config.fsdp == 1 else {'fsdp': -1}))


@contextlib.contextmanager
def use(mesh: Mesh):
  """Makes the mesh and the logical rules current."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield


def num_parts(axis: str) -> int:
  """Returns into how many parts the mesh in use splits a logical axis."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  names = nn.logical_to_mesh_axes((axis,), RULES)[0] or ()
  return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def shardings(mesh: Mesh, boxed: object) -> object:
  """Returns the `NamedSharding` of every leaf of an abstract pytree with logical axes.

  Raises:
    UserError: an axis cannot be split evenly over the devices.
  """
  found = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed):
    spec = nn.logical_to_mesh_axes(leaf.names, RULES) if _is_boxed(leaf) else ()
    for axis, split in enumerate(spec):
      if split and leaf.value.shape[axis] % mesh.shape[split]:
        raise UserError(
          f'config.mesh.{split}={mesh.shape[split]} does not divide axis {leaf.names[axis]!r} of '
          f'{jax.tree_util.keystr(path)}, which is {leaf.value.shape[axis]} long'
        )
  return found


def _is_boxed(x: object) -> bool:
  return isinstance(x, nn.Partitioned)


def part_of_batch(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Returns int[b], the places in a batch that the devices of this process take, in order."""
  of_device = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  return np.unique(np.concatenate([np.arange(batch_size)[index] for index in of_device.values()]))


def num_shares(mesh: Mesh) -> int:
  """Returns into how many parts a batch is split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def num_sharers(mesh: Mesh) -> int:
  """Returns how many devices work on each part of a batch."""
  return mesh.shape['tensor'] * mesh.shape['sequence']


def fill_batch(mesh: Mesh, batch_size: int) -> int:
  """Returns the batch size, made larger until devices can share it evenly."""
  parts = num_shares(mesh)
  return -(-batch_size // parts) * parts


def place_batch(mesh: Mesh, batch: dict) -> dict:
  """Makes global arrays, split over data and fsdp, of the `part_of_batch` that each process has."""
  sharding = batch_sharding(mesh)
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def place_flag(mesh: Mesh, flag: bool, batch_size: int) -> jax.Array:
  """Makes bool[B, T·S] of a flag that processes need not agree on: each device has its process's,
  at rows that are its own among those of T x S devices along tensor and sequence."""
  sharding = apart(mesh)
  whole = batch_size, num_sharers(mesh)
  part = np.full(sharding.shard_shape(whole), flag)
  return jax.make_array_from_callback(whole, sharding, lambda _: part)


def place_whole(mesh: Mesh, tree: object) -> object:
  """Places arrays that every process holds whole: split over data and fsdp along the first axis
  where that divides it, else repeated."""
  parts = num_shares(mesh)

  def one(x):
    split = x.ndim > 0 and x.shape[0] % parts == 0
    return _place(x, batch_sharding(mesh) if split else everywhere(mesh))

  return jax.tree.map(one, tree)


def repeat(mesh: Mesh, tree: object) -> object:
  """Places arrays whole on every device."""
  return jax.tree.map(lambda x: _place(x, everywhere(mesh)), tree)


def everywhere(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of what lies whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def apart(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of [B, T·S], rows over data and fsdp, columns over tensor and sequence: of
  which no two devices have the same part."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp'), ('tensor', 'sequence')))


def _place(x: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Makes a global array of one that every process holds whole."""
  if sharding.is_fully_addressable:
    return jax.device_put(x, sharding)
  if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding))
  whole = np.asarray(jnp.asarray(x))
  return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: its rows over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
