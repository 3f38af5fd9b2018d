"""Files of published checkpoints, read a tensor at a time.

Safetensors need no torch; pickles are read with weights-only loading where torch is installed.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Protocol

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from ardiff_jax.errors import UserError

_PREFIXES = 'module.', 'backbone.', 'model.', 'transformer.'
_BESIDE = 'lm_head.'  # stands beside what the last prefix wraps
_SHORT = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
_PICKLES = '.bin', '.ckpt', '.pt', '.pth'
_CONVERT = (
  'where there is torch and you trust the file, convert it: '
  'safetensors.torch.save_file(STATE_DICT, FILE), STATE_DICT its tensors by name'
)


class Tensors(Protocol):
  """The tensors of a file, by their names without prefix.

  Attributes:
    shapes: of each.
    prefix: what the names begin with in the file, but for a head beside the rest.
    names: of each in the file.
    dtypes: of each, 'float32', 'float16' or 'bfloat16' if they are weights.
  """

  shapes: dict[str, tuple[int, ...]]
  prefix: str
  names: dict[str, str]
  dtypes: dict[str, str]

  def read(self, name: str) -> np.ndarray:
    """Returns one tensor, float32."""


def find(path: pathlib.Path) -> pathlib.Path:
  """Returns the file of weights that `path` is or holds.

  Raises:
    UserError: there is none, or several.
  """
  if path.is_file():
    return path
  if not path.is_dir():
    raise UserError(f'there is no file or folder {path}')
  for pattern in ('*.safetensors', *(f'*{suffix}' for suffix in _PICKLES)):
    found = sorted(path.glob(pattern))
    if len(found) > 1:
      raise UserError(f'{path} holds several: {", ".join(x.name for x in found)}; name the one')
    if found:
      return found[0]
  raise UserError(f'{path} holds no *.safetensors, nor {", ".join(_PICKLES)}')


def open_file(path: pathlib.Path) -> Tensors:
  """Opens a file of weights.

  Raises:
    UserError: it is none, or a pickle where there is no torch.
  """
  if path.suffix == '.safetensors':
    return _Safetensors(path)
  if path.suffix in _PICKLES:
    return _Pickle(path)
  raise UserError(f'{path}: known are .safetensors, {", ".join(_PICKLES)}')


def write(path: pathlib.Path, tensors: Iterator[tuple[str, np.ndarray, str]]) -> None:
  """Writes safetensors, whole or not at all: names, float32 values and the dtypes they get."""
  temporary = path.with_name(path.name + '.tmp')
  content = {name: value.astype(_kind(dtype), copy=False) for name, value, dtype in tensors}
  try:
    safetensors.numpy.save_file(content, temporary, metadata={'format': 'pt'})
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _kind(dtype: str) -> np.dtype:
  return np.dtype(ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype)


class _Safetensors:
  def __init__(self, path: pathlib.Path):
    self._path = path
    try:
      file = safetensors.safe_open(path, framework='numpy')
    except (OSError, safetensors.SafetensorError) as error:
      raise UserError(f'{path} is no safetensors file: {error}') from None
    self.prefix, self.names = _unwrap(list(file.keys()))
    slices = {name: file.get_slice(there) for name, there in self.names.items()}
    self.shapes = {name: tuple(x.get_shape()) for name, x in slices.items()}
    self.dtypes = {name: _SHORT.get(x.get_dtype(), x.get_dtype()) for name, x in slices.items()}

  def read(self, name: str) -> np.ndarray:
    # opened anew, so that what was read before is no longer mapped into memory
    with safetensors.safe_open(self._path, framework='numpy') as file:
      tensor = file.get_tensor(self.names[name])
    return tensor.astype(np.float32, copy=False)


class _Pickle:
  def __init__(self, path: pathlib.Path):
    try:
      import torch
    except ImportError:
      raise UserError(
        f'{path} is a pickle, which takes torch to read, and torch is not installed: {_CONVERT}'
      ) from None
    try:
      content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and runtime errors of any kind
      reason = str(error).splitlines()[0][:200]
      raise UserError(f'{path} cannot be read as weights alone ({reason}): {_CONVERT}') from None
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
      raise UserError(f'{path} holds no tensors by name: {_CONVERT}')
    self._tensors = {str(name): x for name, x in state.items() if isinstance(x, torch.Tensor)}
    self.prefix, self.names = _unwrap(list(self._tensors))
    self.shapes = {name: tuple(self._tensors[there].shape) for name, there in self.names.items()}
    self.dtypes = {
      name: str(self._tensors[there].dtype).removeprefix('torch.')
      for name, there in self.names.items()
    }

  def read(self, name: str) -> np.ndarray:
    return self._tensors[self.names[name]].float().numpy()


def _unwrap(names: list[str]) -> tuple[str, dict[str, str]]:
  """Returns what wraps the names, such as 'module.backbone.', and each name by what is in it.

  A head is not wrapped by all that the others are: 'module.lm_head.weight' stands beside
  'module.transformer.wte.weight'.
  """
  prefix, found = '', {name: name for name in names}
  while True:
    inner = [name for name in found if not name.startswith(_BESIDE)]
    wrap = next((x for x in _PREFIXES if inner and all(n.startswith(x) for n in inner)), None)
    if wrap is None:
      return prefix, found
    prefix += wrap
    found = {name.removeprefix(wrap): there for name, there in found.items()}
