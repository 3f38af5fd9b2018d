"""The device mesh, and which logical axis of an array lies on which mesh axis.

The only file that names mesh axes. One device is the mesh of one device; nothing is special.

  data    batch split, parameters repeated
  fsdp    batch split, parameters split too
  tensor  heads, hidden units and vocabulary split
"""

import contextlib
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from ardiff_jax.errors import UserError

AXES = ('data', 'fsdp', 'tensor')

RULES = (
  ('batch', ('data', 'fsdp')),
  ('length', None),
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
  """Returns the mesh of config.data x config.fsdp x config.tensor devices; -1 takes the rest.

  Args:
    config: the three sizes.
    devices: which to use; None for all.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  sizes = [config[axis] for axis in AXES]
  count = jax.device_count() if devices is None else len(devices)
  if sizes.count(-1) == 1:
    known = math.prod(size for size in sizes if size != -1)
    sizes[sizes.index(-1)] = count // known if known > 0 else 0
  if any(size < 1 for size in sizes) or math.prod(sizes) != count:
    asked = ' x '.join(f'{axis}={config[axis]}' for axis in AXES)
    raise UserError(f'config.mesh: {asked} does not make the {count} devices present')
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)  # what Linen modules can live on
  return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)


def fitting_mesh(config: ConfigDict) -> Mesh:
  """Returns `make_mesh(config)`, or plain data parallelism where other devices are present than
  the config was written for."""
  try:
    return make_mesh(config)
  except UserError:
    return make_mesh(ConfigDict(dict.fromkeys(AXES, 1) | {'data': -1}))


@contextlib.contextmanager
def use(mesh: Mesh):
  """Makes the mesh and the logical rules current."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield


def shardings(mesh: Mesh, boxed: object) -> object:
  """Returns the `NamedSharding` of every leaf of an abstract pytree with logical axes."""
  return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)


def place_batch(mesh: Mesh, batch: dict) -> dict:
  """Makes global arrays of each process's part of a batch, split over data and fsdp."""
  sharding = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def place_whole(mesh: Mesh, tree: object) -> object:
  """Places arrays that every process holds whole: split over data and fsdp along the first axis
  where that divides it, else repeated."""
  parts = mesh.shape['data'] * mesh.shape['fsdp']

  def one(x):
    split = x.ndim > 0 and x.shape[0] % parts == 0
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(('data', 'fsdp') if split else ())))

  return jax.tree.map(one, tree)


def repeat(mesh: Mesh, tree: object) -> object:
  """Places arrays whole on every device."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
