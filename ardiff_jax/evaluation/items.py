"""Files of items to evaluate on: JSON lines, an item each, gzipped if the name ends in .gz.

An item longer than the model's sequence is refused, since a figure over the rest would be of
another set; `skip` leaves such items out and counts them, `cut` drops what is given farthest from
the part that is asked for.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

from ardiff_jax.errors import UserError

TOO_LONG = ('refuse', 'skip', 'cut')

T = TypeVar('T')


def read(path: str | pathlib.Path, parse: Callable[[dict[str, Any]], T], known: str) -> list[T]:
  """Returns what `parse` makes of each line.

  Args:
    path: the file; blank lines are passed over.
    parse: may raise ValueError, KeyError, TypeError or IndexError.
    known: what it takes, for messages: 'an infilling: {"prefix", ...}'.

  Raises:
    UserError: the file cannot be read, is empty, or a line is not what is known, with its number.
  """
  path = pathlib.Path(path).expanduser()
  try:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == '.gz' else data).decode('utf-8-sig')
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise UserError(f'{path} cannot be read: {error}') from None
  items = []
  for number, line in enumerate(text.split('\n'), 1):  # others than these may be inside of JSON
    if not line.strip():
      continue
    try:
      items.append(parse(json.loads(line)))
    except (ValueError, KeyError, TypeError, IndexError) as error:
      raise UserError(
        f'{path}, line {number} is not {known}: {type(error).__name__} {error}'
      ) from None
  if not items:
    raise UserError(f'{path} is empty')
  return items


def too_long(text: str, size: int, length: int) -> UserError:
  """Returns the error of an item of `size` tokens that is refused by a model of `length`."""
  return UserError(
    f'the item that begins {text[:40]!r} has {size} tokens, and the model takes {length}: '
    '--too_long=skip leaves such items out, --too_long=cut drops what is given farthest from what '
    'is asked for'
  )
