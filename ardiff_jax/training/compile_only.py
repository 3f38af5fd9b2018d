"""What a training step will need, from its program for devices that need not be there.

The step is lowered and compiled, never run; no corpus is read. Of the compiled program come the
bytes that each device holds and what devices send each other; of the config the useful FLOPs.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.errors import UserError
from ardiff_jax.models.flops import train_flops_per_token
from ardiff_jax.training.profiling import UNCOUNTED
from ardiff_jax.training.state import abstract_state, make_optimizer
from ardiff_jax.training.step import jit_train_step

_COLLECTIVES = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'


def compile_step(config: ConfigDict, topology: str) -> dict[str, Any]:
  """Compiles the training step of a config.

  Args:
    config: the whole experiment; config.mesh must make the devices of the topology.
    topology: 'cpu:8', so many CPU devices; 'v5e:4x4' and the like, a slice of TPUs (its compiler,
      libtpu, must be installed); '' for the devices present.

  Returns:
    `parameters`; `flops_per_step`, of all devices, without recomputation; per device, in bytes,
    `state`, `temporaries`, `program` and `total`; and `collectives`, by kind how often a device
    takes part in a step and the bytes it gets.

  Raises:
    UserError: a topology that is unknown here, or a config that does not fit it or its memory.
  """
  mesh = mesh_lib.make_mesh(config.mesh, _devices(topology))
  vocab_size = _vocab_size(config)
  method = method_lib.build(config, vocab_size, bos_id=0, eos_id=1)
  optimizer, _ = make_optimizer(config.train, method.trained)
  state = abstract_state(method, optimizer, config.data.length, config.seed, mesh)
  try:
    compiled = _lower(config, method, optimizer, state, mesh).compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    reason = str(error).strip().splitlines()[0].removeprefix('RESOURCE_EXHAUSTED: ')
    raise UserError(
      f'the step does not fit: {reason}\nmore devices along config.mesh.fsdp or more microbatches '
      '(config.train.accumulate) make it smaller'
    ) from None

  memory, text = compiled.memory_analysis(), compiled.as_text()
  of_device = sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)
  )
  tokens = config.train.batch_size * config.data.length
  return {
    'topology': topology or f'{jax.devices()[0].device_kind} x {mesh.size}',
    'mesh': ' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items() if size > 1) or 'one',
    'parameters': sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
    'flops_per_step': None
    if config.objective.name in UNCOUNTED
    else tokens * train_flops_per_token(config, vocab_size),
    'state': of_device,
    'temporaries': memory.temp_size_in_bytes,
    'program': memory.generated_code_size_in_bytes,
    'total': memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes,
    'collectives': collectives(text),
  }


def format_report(report: dict[str, Any]) -> str:
  """Returns the report as a Markdown table."""
  flops = report['flops_per_step']
  rows = [
    ('devices', f'{report["topology"]}, {report["mesh"]}'),
    ('parameters', f'{report["parameters"]:,}'),
    ('FLOPs of a step', 'not counted' if flops is None else f'{flops:.3g}'),
    *(
      (f'{what}, each device', _bytes(report[key]))
      for what, key in (
        ('state', 'state'),
        ('temporaries', 'temporaries'),
        ('program', 'program'),
        ('all memory', 'total'),
      )
    ),
    *(
      (f'{kind}, each device', f'{count:,} a step, {_bytes(size)}')
      for kind, (count, size) in sorted(report['collectives'].items())
    ),
  ]
  return '\n'.join(['| | |', '|---|---|', *(f'| {name} | {value} |' for name, value in rows)])


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Returns how often each kind of collective runs and the bytes of the results, on one device.

  Args:
    text: a compiled program, branches left out. What stands in a loop counts as often as that goes
      round, if its condition compares with one constant, as those of `scan` do; else once.
  """
  computations = dict(_computations(text))
  found = collections.defaultdict(lambda: (0, 0))

  def visit(name: str, times: int) -> None:
    for line in computations.get(name, ()):
      match = re.search(rf'= (.*?) ({_COLLECTIVES})(-start)?\(', line)
      if match:
        sizes = _result_bytes(match[1])
        if match[3] and match[2] != 'all-reduce':  # started, it gives back its operands first
          sizes = sizes[len(sizes) // 2 :]
        count, size = found[match[2]]
        found[match[2]] = count + times, size + times * sum(sizes)
      for callee in re.findall(r'(?:calls|to_apply)=%?([\w.\-]+)', line):
        visit(callee, times)
      loop = re.search(r'condition=%?([\w.\-]+), body=%?([\w.\-]+)', line)
      if loop:
        limits = re.findall(r' constant\((\d+)\)', '\n'.join(computations[loop[1]]))
        visit(loop[2], times * (int(limits[0]) if len(limits) == 1 else 1))

  visit(re.search(r'^ENTRY %?([\w.\-]+)', text, re.MULTILINE)[1], 1)
  return dict(found)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
  """Yields the name and the lines of each computation of an HLO text."""
  name, lines = '', []
  for line in text.splitlines():
    begin = re.match(r'(?:ENTRY )?%?([\w.\-]+) \(.*\{$', line)
    if begin:
      name, lines = begin[1], []
    elif line.startswith('}'):
      yield name, lines
    else:
      lines.append(line)


def _result_bytes(shapes: str) -> list[int]:
  """Bytes of 'f32[8,16]{1,0}', or of each array of a tuple of such; not of the 'u32[]' with which
  one that is started keeps its books."""
  found, arrays = [], shapes.replace('u32[]', '')
  for kind, bits, sizes in re.findall(r'\b(pred|[a-z]+?)(\d*)\[([\d,]*)\]', arrays):
    width = 8 if kind == 'pred' else int(bits)
    found.append(width * math.prod(int(size) for size in sizes.split(',') if size) // 8)
  return found


def _lower(config, method, optimizer, state, mesh) -> Any:
  batch, length = config.train.batch_size, config.data.length
  split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.everywhere(mesh)
  shapes = {
    'tokens': ((batch, length), jnp.int32),
    'loss_mask': ((batch, length), jnp.bool_),
  }
  if config.data.guided:
    shapes['draft'] = shapes['tokens']
  inputs = {k: jax.ShapeDtypeStruct(*shape, sharding=split) for k, shape in shapes.items()}
  flags = batch, mesh_lib.num_sharers(mesh)
  inputs['stop'] = jax.ShapeDtypeStruct(flags, jnp.bool_, sharding=mesh_lib.apart(mesh))
  constants = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    jax.eval_shape(lambda: (jax.tree.map(jnp.asarray, method.hyperschedule), jax.random.key(0))),
  )
  step = jit_train_step(config, method, optimizer, state, mesh)
  # abstract, so that what is computed while tracing is computed here
  abstract = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
  with abstract, nn.logical_axis_rules(mesh_lib.RULES):
    return step.lower(state, inputs, *constants)


def _devices(topology: str) -> list[jax.Device]:
  if not topology:
    return jax.devices()
  name, _, size = topology.partition(':')
  if name == 'cpu' and size.isdecimal():
    try:
      jax.config.update('jax_num_cpu_devices', int(size))
    except RuntimeError:  # too late: JAX runs already
      if len(jax.devices('cpu')) < int(size):
        raise UserError(f'--topology={topology}: JAX was started with fewer CPU devices') from None
    return jax.devices('cpu')[: int(size)]
  try:
    return topologies.get_topology_desc(topology, platform='tpu').devices
  except Exception as error:  # libtpu is not there, or does not know the name
    raise UserError(
      f'--topology={topology} cannot be compiled for: {str(error).strip().splitlines()[0][:200]}\n'
      "known: cpu:N, and with JAX's TPU build slices of TPUs such as v5e:4x4 or v5p:4x4x4"
    ) from None


def _vocab_size(config: ConfigDict) -> int:
  """The size without the tokenizer, which may not be trained yet."""
  return {'byte': 257, 'gpt2': 50_257}.get(config.tokenizer.kind, config.tokenizer.vocab_size)


def _bytes(count: float) -> str:
  return f'{count / 2**30:,.2f} GiB' if count >= 2**27 else f'{count / 2**20:,.2f} MiB'
