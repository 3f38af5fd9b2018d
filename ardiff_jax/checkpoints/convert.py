"""From a published file to a model directory, and back."""

import collections
import dataclasses
import importlib.util
import math
import pathlib
import re
import sys
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax import workdir as workdir_lib
from ardiff_jax.checkpoints import files, layouts
from ardiff_jax.checkpoints.layouts import Arrays
from ardiff_jax.data import tokenizers
from ardiff_jax.errors import UserError
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.training.checkpointing import restore_ema, save_ema
from ardiff_jax.training.state import abstract_params

# The config a layout comes with, and what is published otherwise than it says.
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
  'hdlm_epsilon': ('epsilon_hybrid', {}),
  'hdlm_gamma': (
    'gamma_hybrid',
    {
      'noise.delta': 5e-3,
      'objective.head': 'score',
      'objective.settled_weight': 0.0,
      'sampling.sampler': 'analytic',
    },
  ),
  'mdlm': ('mdlm', {}),
  'sedd': ('sedd', {'noise.delta': 1e-3}),
  'bd3lm': ('bd3lm', {}),
  'gpt2': ('ar', {}),
}
# What a file does not tell, and figures depend on.
_UNTOLD = {
  'hdlm_epsilon': ('ε', '--config=configs/epsilon_hybrid.py --config.noise.epsilon=0.01'),
  'hdlm_gamma': ('γ', '--config=configs/gamma_hybrid.py --config.noise.gamma=0.01'),
}
_NOT_IN_CONFIG = ('vocab_size',)
_SIZES = ('model_dim', 'num_layers', 'num_heads', 'mlp_dim', 'condition_dim', 'max_positions')
_FREE = ('dropout', 'remat', 'attention', 'dtype')  # of config.model, what is no matter of weights
_BUFFERS = re.compile(r'h\.\d+\.attn\.(bias|masked_bias)')  # of GPT-2: masks, no weights
_MEANING = ('noise.name', 'objective.name', 'objective.head')  # of what the network gives


def read(
  source: pathlib.Path, layout: str = 'auto', num_heads: int = 0, **extra: object
) -> tuple[TransformerConfig, Arrays, dict[str, Any]]:
  """Returns the network of a file, its parameters, and what an export needs: {'layout', 'prefix',
  'head', 'dtypes'}: the name of a tied head in the file, '' without one, and the dtypes of the
  tensors that are not float32. GPT-2's causal masks are no weights and left out.

  Tensors are read one by one into the parameters.

  Args:
    source: a file, or a folder with one.
    layout: a key of `layouts.LAYOUTS`, or 'auto'.
    num_heads: heads; 0 to take them from the file, or else 64 wide.
    **extra: fields of TransformerConfig that a file does not tell, such as mask_mixing.

  Raises:
    UserError: the layout cannot be told, or a tensor is missing, too many, or of another shape.
  """
  file = files.open_file(files.find(source))
  if layout == 'auto':
    layout = layouts.recognise(set(file.shapes))
  _check_layout(layout)
  shapes = dict(file.shapes)
  if layout == 'gpt2':
    shapes = {name: x for name, x in shapes.items() if not _BUFFERS.fullmatch(name)}
  config = layouts.describe(layout, shapes, num_heads, **extra)
  expected = layouts.tensors(layout, config, head=layouts.HEAD in shapes)
  wrong = [
    f'{name} is missing, expected {list(tensor.shape)}'
    for name, tensor in expected.items()
    if name not in shapes
  ]
  wrong += [
    f'{name} {list(shape)} is unknown'
    for name, shape in shapes.items()
    if name not in expected and name != layouts.DERIVED
  ]
  wrong += [
    f'{name} is {list(shapes[name])}, expected {list(tensor.shape)}'
    for name, tensor in expected.items()
    if name in shapes and shapes[name] != tensor.shape
  ]
  wrong += [
    f'{name} is of {file.dtypes[name]}, expected float32, float16 or bfloat16'
    for name in expected
    if name in shapes and file.dtypes[name] not in ('float32', 'float16', 'bfloat16')
  ]
  if wrong:
    more = f'\n  and {len(wrong) - 10} more' if len(wrong) > 10 else ''
    raise UserError(f'as layout {layout}:\n  ' + '\n  '.join(wrong[:10]) + more)
  if layouts.HEAD in expected and not np.array_equal(
    file.read(layouts.HEAD), file.read('wte.weight')
  ):
    raise UserError(
      f'as layout {layout}: {layouts.HEAD} is not wte.weight, and only tied heads are known'
    )
  arrays = {path: _zeros(shape) for path, shape in _shapes(config).items()}
  # the largest first: memory is taken as it is written to, and each is there twice for a moment
  for name, tensor in sorted(expected.items(), key=lambda item: -math.prod(item[1].shape)):
    tensor.put(arrays, file.read(name))
  if layouts.DERIVED in shapes and not np.allclose(
    file.read(layouts.DERIVED), layouts.derived(config), rtol=1e-2
  ):
    raise UserError(f'as layout {layout}: {layouts.DERIVED} are not those of base 10,000')
  dtypes = {k: x for k, x in file.dtypes.items() if k in shapes and x != 'float32'}
  head = file.names.get(layouts.HEAD, '')
  return config, arrays, {'layout': layout, 'prefix': file.prefix, 'head': head, 'dtypes': dtypes}


def import_file(
  source: pathlib.Path,
  workdir: pathlib.Path,
  *,
  layout: str = 'auto',
  tokenizer: pathlib.Path | None = None,
  config: ConfigDict | None = None,
  num_heads: int = 0,
) -> dict[str, Any]:
  """Makes a model directory that every command takes, and returns the content of its config.json.

  Args:
    source: a file, or a folder with one.
    workdir: must not hold a run yet.
    layout: see `read`.
    tokenizer: folder of GPT-2's vocab.json and merges.txt; None for that of the source.
    config: noise, hyperschedule, denoiser and objective of the model; None for those published,
      where the layout has but one.
    num_heads: see `read`.

  Raises:
    UserError: as `read`; or the config is missing or contradicts the layout, the vocabulary is not
      the tokenizer's, or the directory is taken.
  """
  if workdir_lib.exists(workdir):
    raise UserError(f'{workdir} holds a run already: name another --workdir')
  file = files.find(source)
  folder = tokenizer or file.parent
  if tokenizer is None and not (folder / 'vocab.json').is_file():
    raise UserError(f"{folder} has no vocab.json: say with --tokenizer where GPT-2's is")
  if layout == 'auto':
    layout = layouts.recognise(set(files.open_file(file).shapes))
  _check_layout(layout)
  if layout in _UNTOLD and config is None:
    what, flags = _UNTOLD[layout]
    raise UserError(
      f'which {what} the model has is not in the file: give {flags} or another, with the settings '
      'that the README names'
    )
  config = (config or published_config(layout)).copy_and_resolve_references()
  _check_meaning(layout, config)
  network, arrays, origin = read(file, layout, num_heads, **_told(layout, config))
  with config.unlocked():
    config.tokenizer.kind, config.tokenizer.path = 'gpt2', str(folder)
    for field, value in vars(network).items():
      if field not in (*_NOT_IN_CONFIG, *_FREE):
        config.model[field] = value
    if network.max_positions:
      config.data.length = min(config.data.length, network.max_positions - 1)  # and one for BOS
  words = tokenizers.build_tokenizer(config.tokenizer, [])
  if words.vocab_size != network.vocab_size:
    raise UserError(
      f'{file} has a vocabulary of {network.vocab_size} (the mask apart) and the tokenizer of '
      f'{folder} one of {words.vocab_size}'
    )
  method = method_lib.build(config, words.vocab_size, words.bos_id, words.eos_id)
  mesh = mesh_lib.fitting_mesh(config.mesh)
  abstract = abstract_params(method, config.data.length, mesh)
  content = {
    'config': workdir_lib.to_json(config),
    'tokenizer': {'name': words.name, 'vocab_size': words.vocab_size},
    'corpus': {'name': f'none, imported from {file.name}'},
    'versions': workdir_lib.versions(),
    'parameters': sum(x.size for x in jax.tree.leaves(abstract)),
    'imported': origin,
  }
  workdir_lib.create(workdir)
  words.save(workdir)
  save_ema(workdir, _place(arrays, abstract), content['config'])
  workdir_lib.write(workdir, content)
  return content


def export_file(workdir: pathlib.Path, target: pathlib.Path, layout: str = 'auto') -> str:
  """Writes the moving average of a run as a published file, and returns its layout.

  Args:
    workdir: of a run whose network is that of a layout.
    target: a .safetensors file.
    layout: 'auto' for that of the import.

  Raises:
    UserError: the network is of no such layout or gives something else, or the target cannot be
      written.
  """
  if target.suffix != '.safetensors' or not target.absolute().parent.is_dir():
    raise UserError(f'--to={target} must be a .safetensors file in a folder that is there')
  content = workdir_lib.read(workdir)
  origin = {'layout': None, 'prefix': '', 'head': '', 'dtypes': {}} | content.get('imported', {})
  layout = origin['layout'] if layout == 'auto' else layout
  if layout not in layouts.LAYOUTS:
    raise UserError(
      f'{workdir} was not imported: say with --layout which it is to be; known: '
      f'{", ".join(layouts.LAYOUTS)}'
    )
  config = ConfigDict(content['config'])
  vocab_size = content['tokenizer']['vocab_size']
  network = TransformerConfig(vocab_size=vocab_size, **config.model)
  plain = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
  wanted = plain | layouts.LAYOUTS[layout] | _told(layout, config)
  differing = [
    f'config.model.{name} is {getattr(network, name)!r}, {layout} has {value!r}'
    for name, value in wanted.items()
    if name not in (*_NOT_IN_CONFIG, *_SIZES, *_FREE) and getattr(network, name) != value
  ]
  if differing:
    raise UserError(f'{workdir} is no {layout}: {"; ".join(differing)}')
  _check_meaning(layout, config)
  words = tokenizers.load_tokenizer(workdir, config.tokenizer)
  method = method_lib.build(config, vocab_size, words.bos_id, words.eos_id)
  mesh = mesh_lib.fitting_mesh(config.mesh)
  _, params = restore_ema(workdir, abstract_params(method, config.data.length, mesh))
  arrays = {path: np.asarray(x) for path, x in _flat(params).items()}
  del params
  expected = layouts.tensors(layout, network, head=bool(origin['head']))

  def tensors():
    left = collections.Counter(path for tensor in expected.values() for path in tensor.paths)
    for name, tensor in sorted(expected.items(), key=lambda item: item[1].paths):
      yield name, tensor.get(arrays)
      left.subtract(tensor.paths)
      for path in tensor.paths:
        if not left[path]:
          del arrays[path]  # what has been copied is not kept
    if layout != 'gpt2':
      yield layouts.DERIVED, layouts.derived(network)

  prefix, dtypes = origin['prefix'], origin['dtypes']
  beside = {layouts.HEAD: origin['head']}
  files.write(
    target,
    ((beside.get(k, prefix + k), x, dtypes.get(k, 'float32')) for k, x in tensors()),
  )
  return layout


def published_config(layout: str) -> ConfigDict:
  """Returns the config a layout comes with, of this checkout's `configs`.

  Raises:
    UserError: there are no configs beside the package.
  """
  name, changes = _CONFIGS[layout]
  root = pathlib.Path(__file__).resolve().parents[2]
  path = root / 'configs' / f'{name}.py'
  if not path.is_file():
    raise UserError(f'there is no {path}: the configs belong beside the package')
  if str(root) not in sys.path:
    sys.path.append(str(root))  # configs import configs.base
  spec = importlib.util.spec_from_file_location(f'configs.{name}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.update_from_flattened_dict(changes)
  return config


def _check_layout(layout: str) -> None:
  if layout not in layouts.LAYOUTS:
    raise UserError(f'unknown layout {layout!r}; known: auto, {", ".join(layouts.LAYOUTS)}')


def _check_meaning(layout: str, config: ConfigDict) -> None:
  """Raises UserError unless what the network gives is what a file of the layout means."""
  published = published_config(layout)
  contradictions = [
    f'config.{key} is {_at(config, key)!r}, and that of {layout} {_at(published, key)!r}'
    for key in _MEANING
    if _at(config, key) != _at(published, key)
  ]
  if contradictions:
    raise UserError('; '.join(contradictions))


def _told(layout: str, config: ConfigDict) -> dict[str, Any]:
  """Of the network, what its config tells and a file does not."""
  return {'mask_mixing': config.noise.gamma} if layout == 'hdlm_gamma' else {}


def _at(config: ConfigDict, key: str) -> Any:
  part, name = key.split('.')
  return config[part][name]


def to_params(arrays: Arrays) -> dict:
  """Returns the parameters as variables of the network."""
  tree: dict = {}
  for path, array in arrays.items():
    node = tree
    for name in path[:-1]:
      node = node.setdefault(name, {})
    node[path[-1]] = array
  return {'params': tree}


def _place(arrays: Arrays, abstract: dict) -> dict:
  """Puts parameters where they belong, one after the other, so that no two are there twice."""
  flat = _flat(abstract)
  for path in list(arrays):
    arrays[path] = jax.block_until_ready(jax.device_put(arrays[path], flat[path].sharding))
  return to_params(arrays)


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
  """Returns float32 zeros that begin at a multiple of 64 bytes: JAX takes these on CPU uncopied."""
  size = 4 * math.prod(shape)
  memory = np.zeros(size + 64, np.uint8)
  start = -memory.ctypes.data % 64
  return memory[start : start + size].view(np.float32).reshape(shape)


def _shapes(config: TransformerConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Shapes of all parameters of a network."""
  zeros = np.zeros((1, 1), np.int32)
  init = lambda: Transformer(config).init(  # noqa: E731
    jax.random.key(0), zeros, sigma=np.zeros((1, 1), np.float32), positions=np.zeros(1, np.int32)
  )
  return {path: x.shape for path, x in _flat(nn.unbox(jax.eval_shape(init))).items()}


def _flat(params: dict) -> dict[tuple[str, ...], Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(params['params'])
  return {tuple(key.key for key in path): leaf for path, leaf in leaves}
