"""Paths on this machine and in buckets, and files that are written whole or not at all."""

import importlib.util
import os
import pathlib
import uuid

from etils import epath

from ardiff_jax.errors import UserError

_PACKAGES = {'gs': 'gcsfs', 's3': 's3fs'}  # what reaches them, besides etils


def path_of(name: str | os.PathLike) -> pathlib.Path:
  """Returns an absolute path; of 'gs://bucket/...' and 's3://...' one that behaves like it.

  Raises:
    UserError: another scheme, or the package that reaches the bucket is not installed.
  """
  scheme, separator, _ = os.fspath(name).partition('://')
  if not separator:
    return pathlib.Path(name).expanduser().absolute()
  if scheme not in _PACKAGES:
    raise UserError(f'{name}: known are directories, gs:// and s3://')
  if importlib.util.find_spec(_PACKAGES[scheme]) is None:
    raise UserError(
      f'{name} needs a package that is not installed: pip install {_PACKAGES[scheme]}'
    )
  return epath.Path(name)


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file; no reader ever sees it half-written."""
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def append(path: pathlib.Path, text: str) -> None:
  """Adds text to the end of a file, which is made if it is not there."""
  if isinstance(path, pathlib.Path):
    with path.open('a', encoding='utf-8') as file:
      file.write(text)
  else:  # an object in a bucket has no end to write to
    write_whole(path, (path.read_text() if path.exists() else '') + text)
