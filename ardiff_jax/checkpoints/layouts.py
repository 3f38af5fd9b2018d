"""Layouts of published checkpoints: which tensor of a file is which of our parameters.

The DiT stack of HDLM, MDLM, SEDD and BD3-LM has matrices of shape [out, in], one qkv matrix, and a
row for the mask behind the vocabulary; GPT-2 has matrices of shape [in, out], learned positions and
a tied head. Ours stack the layers, and pad the vocabulary.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from ardiff_jax.errors import UserError
from ardiff_jax.models.transformer import TransformerConfig

Arrays = dict[tuple[str, ...], np.ndarray]

_DDIT = dict(biases='ddit', tie_embedding=False)
# Layout to what its network is, beyond what the shapes say.
LAYOUTS = {
  'hdlm_epsilon': dict(_DDIT, conditioning='none'),
  'hdlm_gamma': dict(_DDIT, conditioning='adaln', final_conditioning=False),
  'mdlm': dict(_DDIT, conditioning='adaln_constant'),
  'sedd': dict(_DDIT, conditioning='adaln'),
  'bd3lm': dict(_DDIT, conditioning='adaln_constant'),
  'gpt2': dict(biases='all', positions='learned'),
}
HEAD = 'lm_head.weight'  # of GPT-2, in some files: the embedding again
DERIVED = 'rotary_emb.inv_freq'  # in a file, but no parameter


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file.

  Attributes:
    shape: its shape.
    paths: the parameters it holds side by side along its outputs.
    layer: which of the stacked layers; None for what is not in a block.
    transposed: whether the file has [out, in].
    crop: the leading part of the parameter that is in the file; None for all.
  """

  shape: tuple[int, ...]
  paths: tuple[tuple[str, ...], ...]
  layer: int | None = None
  transposed: bool = False
  crop: tuple[int, ...] | None = None

  def put(self, arrays: Arrays, value: np.ndarray) -> None:
    """Writes a tensor of the file into our parameters."""
    value = value.T if self.transposed else value
    for view, part in zip(
      self._views(arrays), np.split(value, len(self.paths), axis=-1), strict=True
    ):
      view[...] = part.reshape(view.shape)

  def get(self, arrays: Arrays) -> np.ndarray:
    """Returns the tensor of the file, float32."""
    rows = self.shape[1:] if self.transposed else self.shape[:-1]
    parts = [view.reshape(*rows, -1) for view in self._views(arrays)]
    value = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return np.ascontiguousarray(value.T if self.transposed else value)

  def _views(self, arrays: Arrays) -> list[np.ndarray]:
    views = [
      arrays[path] if self.layer is None else arrays[path][self.layer] for path in self.paths
    ]
    if self.crop is None:
      return views
    return [view[tuple(slice(size) for size in self.crop)] for view in views]


def tensors(layout: str, config: TransformerConfig, head: bool = False) -> dict[str, Tensor]:
  """Returns the tensors of a file of this layout, by name; GPT-2's with its tied head or not."""
  return _gpt2(config, head) if layout == 'gpt2' else _ddit(config)


def describe(
  layout: str, shapes: dict[str, tuple[int, ...]], num_heads: int = 0, **extra: object
) -> TransformerConfig:
  """Returns the network that a file of this layout holds.

  Args:
    layout: a key of LAYOUTS.
    shapes: of the tensors of the file.
    num_heads: heads; 0 to take them from the file, or else 64 wide.
    **extra: fields that shapes do not tell.

  Raises:
    UserError: a tensor that tells the size is missing.
  """
  of = _asking(layout, shapes)
  if layout == 'gpt2':
    vocab_size, width = of('wte.weight')
    hidden = of('h.0.mlp.c_fc.weight')[1]
    sizes = dict(max_positions=of('wpe.weight')[0], num_layers=_count(shapes, 'h'))
  else:
    rows, width = of('vocab_embed.embedding')
    vocab_size, hidden = rows - 1, of('blocks.0.mlp.0.weight')[0]
    sizes = dict(num_layers=_count(shapes, 'blocks'))
    if DERIVED in shapes:
      half = shapes[DERIVED][0] if len(shapes[DERIVED]) == 1 else 0
      if not half or width % (2 * half) or num_heads not in (0, width // (2 * half)):
        raise UserError(
          f'layout {layout}: {DERIVED} is {list(shapes[DERIVED])}, expected half the width of a '
          'head'
        )
      num_heads = width // (2 * half)
    if LAYOUTS[layout]['conditioning'] != 'none':
      sizes['condition_dim'] = of('sigma_map.mlp.0.weight')[0]
  num_heads = num_heads or max(width // 64, 1)
  settings = dict(LAYOUTS[layout], **sizes) | extra
  try:
    mlp_dim = 0 if hidden == 4 * width else hidden  # as configs write it
    return TransformerConfig(
      vocab_size=vocab_size, model_dim=width, mlp_dim=mlp_dim, num_heads=num_heads, **settings
    )
  except ValueError as error:
    raise UserError(f'layout {layout}: {error}') from error


def recognise(names: set[str]) -> str:
  """Returns the layout that these names are of.

  Raises:
    UserError: they fit none, or several.
  """
  if {'wte.weight', 'wpe.weight'} <= names:
    return 'gpt2'
  if 'vocab_embed.embedding' in names:
    if 'sigma_map.mlp.0.weight' not in names:
      return 'hdlm_epsilon'
    if 'output_layer.adaLN_modulation.weight' not in names:
      return 'hdlm_gamma'
    raise UserError(
      'the layout cannot be told from the names: mdlm, sedd and bd3lm have the same; say which '
      'with --layout'
    )
  raise UserError(
    f'the layout cannot be told from the names ({", ".join(sorted(names)[:3])}, ...); known: '
    f'{", ".join(LAYOUTS)}'
  )


def derived(config: TransformerConfig) -> np.ndarray:
  """Returns float32[E/2], the rotary frequencies that files hold."""
  exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
  return np.float32(1.0) / np.power(np.float32(config.rope_base), exponent)


def _ddit(cfg: TransformerConfig) -> dict[str, Tensor]:
  width, rows, hidden, narrow = (
    cfg.model_dim,
    cfg.vocab_size + 1,
    cfg.hidden_dim,
    cfg.condition_width,
  )
  found = {'vocab_embed.embedding': Tensor((rows, width), (('embedding',),), crop=(rows, width))}

  def linear(name, path, size, layer=None, bias=True, **kwargs):
    found[f'{name}.weight'] = Tensor(size, ((*path, 'kernel'),), layer, transposed=True, **kwargs)
    if bias:
      found[f'{name}.bias'] = Tensor(size[:1], ((*path, 'bias'),), layer)

  if cfg.conditions:
    linear('sigma_map.mlp.0', ('noise_embedding', 'in'), (narrow, 256))
    linear('sigma_map.mlp.2', ('noise_embedding', 'out'), (narrow, narrow))
  for i in range(cfg.num_layers):
    ours, theirs = ('blocks',), f'blocks.{i}'
    found[f'{theirs}.norm1.weight'] = Tensor((width,), ((*ours, 'attention_norm', 'scale'),), i)
    qkv = tuple((*ours, name, 'kernel') for name in ('query', 'key', 'value'))
    found[f'{theirs}.attn_qkv.weight'] = Tensor((3 * width, width), qkv, i, transposed=True)
    linear(f'{theirs}.attn_out', (*ours, 'attention_out'), (width, width), i, bias=False)
    found[f'{theirs}.norm2.weight'] = Tensor((width,), ((*ours, 'mlp_norm', 'scale'),), i)
    linear(f'{theirs}.mlp.0', (*ours, 'mlp_in'), (hidden, width), i)
    linear(f'{theirs}.mlp.2', (*ours, 'mlp_out'), (width, hidden), i)
    if cfg.conditions:
      modulation = (*ours, 'modulation', 'map')
      linear(f'{theirs}.adaLN_modulation', modulation, (6 * width, narrow), i)
  found['output_layer.norm_final.weight'] = Tensor((width,), (('final_norm', 'scale'),))
  found['output_layer.linear.weight'] = Tensor(
    (rows, width), (('head',),), transposed=True, crop=(width, rows)
  )
  found['output_layer.linear.bias'] = Tensor((rows,), (('head_bias',),), crop=(rows,))
  if cfg.conditions and cfg.final_conditioning:
    linear('output_layer.adaLN_modulation', ('final_modulation', 'map'), (2 * width, narrow))
  return found


def _gpt2(cfg: TransformerConfig, head: bool) -> dict[str, Tensor]:
  width, size = cfg.model_dim, (cfg.vocab_size, cfg.model_dim)
  found = {
    'wte.weight': Tensor(size, (('embedding',),), crop=size),
    'wpe.weight': Tensor((cfg.max_positions, width), (('position_embedding',),)),
  }

  def pair(name, path, size, layer, kind='kernel'):
    paths = path if isinstance(path[0], tuple) else (path,)
    found[f'{name}.weight'] = Tensor(size, tuple((*x, kind) for x in paths), layer)
    found[f'{name}.bias'] = Tensor(size[-1:], tuple((*x, 'bias') for x in paths), layer)

  for i in range(cfg.num_layers):
    ours, theirs = ('blocks',), f'h.{i}'
    pair(f'{theirs}.ln_1', (*ours, 'attention_norm'), (width,), i, 'scale')
    qkv = tuple((*ours, name) for name in ('query', 'key', 'value'))
    pair(f'{theirs}.attn.c_attn', qkv, (width, 3 * width), i)
    pair(f'{theirs}.attn.c_proj', (*ours, 'attention_out'), (width, width), i)
    pair(f'{theirs}.ln_2', (*ours, 'mlp_norm'), (width,), i, 'scale')
    pair(f'{theirs}.mlp.c_fc', (*ours, 'mlp_in'), (width, cfg.hidden_dim), i)
    pair(f'{theirs}.mlp.c_proj', (*ours, 'mlp_out'), (cfg.hidden_dim, width), i)
  pair('ln_f', ('final_norm',), (width,), None, 'scale')
  if head:
    found[HEAD] = found['wte.weight']
  return found


def _asking(layout: str, shapes: dict[str, tuple[int, ...]]) -> Callable[[str], tuple[int, ...]]:
  def of(name):
    shape = shapes.get(name)
    if shape is None or len(shape) != 2:
      found = 'missing' if shape is None else list(shape)
      raise UserError(f'as layout {layout}:\n  {name} is {found}, expected a matrix')
    return shape

  return of


def _count(shapes: dict[str, tuple[int, ...]], stack: str) -> int:
  """How many layers the names speak of."""
  numbers = {name.split('.')[1] for name in shapes if name.startswith(f'{stack}.')}
  return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
