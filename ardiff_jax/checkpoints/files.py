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
_UNWRAPPED = ('lm_head.',)  # beside what the prefix wraps
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
    prefix: what all names begin with in the file.
    dtypes: of each, 'float32', 'float16' or 'bfloat16' if they are weights.
  """

  shapes: dict[str, tuple[int, ...]]
  prefix: str
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
    names = list(file.keys())
    self.prefix = _prefix(names)
    slices = {name: file.get_slice(name) for name in names}
    self.shapes = {
      name.removeprefix(self.prefix): tuple(x.get_shape()) for name, x in slices.items()
    }
    self.dtypes = {
      name.removeprefix(self.prefix): _SHORT.get(x.get_dtype(), x.get_dtype())
      for name, x in slices.items()
    }

  def read(self, name: str) -> np.ndarray:
    bare = name.startswith(_UNWRAPPED)
    # opened anew, so that what was read before is no longer mapped into memory
    with safetensors.safe_open(self._path, framework='numpy') as file:
      tensor = file.get_tensor(name if bare else self.prefix + name)
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
    content = content.get('state_dict', content)
    self._tensors = {name: x for name, x in content.items() if isinstance(x, torch.Tensor)}
    self.prefix = _prefix(list(self._tensors))
    self._tensors = {name.removeprefix(self.prefix): x for name, x in self._tensors.items()}
    self.shapes = {name: tuple(x.shape) for name, x in self._tensors.items()}
    self.dtypes = {name: str(x.dtype).removeprefix('torch.') for name, x in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    return self._tensors[name].float().numpy()


def _prefix(names: list[str]) -> str:
  """What wraps all names, such as 'module.backbone.'."""
  names = [name for name in names if not name.startswith(_UNWRAPPED)]
  found = ''
  while names and (
    one := next((x for x in _PREFIXES if all(n.startswith(found + x) for n in names)), None)
  ):
    found += one
  return found
