"""Paths on this machine and in buckets, and files that are written whole or not at all."""

import contextlib
import importlib.util
import os
import pathlib
import uuid
from collections.abc import Iterator

from etils import epath

from ardiff_jax.errors import UserError

# What reaches them, besides etils: boto3 is TensorBoard's, and gcsfs brings its own.
_PACKAGES = {'gs': ('gcsfs',), 's3': ('s3fs', 'boto3')}


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
  for package in _PACKAGES[scheme]:
    if importlib.util.find_spec(package) is None:
      raise UserError(f'{name} needs a package that is not installed: pip install {package}')
  return epath.Path(name)


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file; no reader ever sees it half-written."""
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    with _named(path):
      partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def append(path: pathlib.Path, text: str) -> None:
  """Adds lines to the end of a file, all or none; it is made if it is not there.

  They begin on a line of their own, also behind one that a kill has cut off.
  """
  if not isinstance(path, pathlib.Path):  # an object in a bucket has no end to write to
    old = path.read_text() if path.exists() else ''
    write_whole(path, old + '\n' * _is_cut_off(old[-1:]) + text)
    return
  with path.open('a+b', buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    left = ('\n' * _is_cut_off(file.read(1).decode(errors='replace')) + text).encode()
    try:
      with _named(path):
        while left:
          left = left[file.write(left) :]
    except BaseException:
      file.truncate(end)
      raise


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
  """Names the file in errors of writing, such as that of a full disk, which do not."""
  try:
    yield
  except OSError as error:
    error.filename = error.filename or str(path)
    raise


def _is_cut_off(last: str) -> bool:
  """Whether this is how a file ends whose last line has no end."""
  return last not in ('', '\n')
