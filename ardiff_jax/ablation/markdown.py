"""Settings in words, and tables in Markdown."""

import json
from collections.abc import Iterable, Sequence
from typing import Any


def table(titles: Sequence[str], labels: int, rows: Iterable[Sequence[str]]) -> str:
  """Returns a table, of which the first columns, as many as there are labels, hold no figures."""
  ruler = '|' + '---|' * labels + '---:|' * (len(titles) - labels)
  return '\n'.join([_row(titles), ruler, *map(_row, rows)]) + '\n'


def named(settings: dict[str, Any]) -> str:
  """Returns settings with their names, as 'steps 16, model mdlm', without those that are None."""
  return ', '.join(f'{key} {setting(x)}' for key, x in settings.items() if x is not None)


def setting(value: Any) -> str:
  """Returns the value of a setting; nothing for None."""
  if value is None:
    return ''
  if isinstance(value, float):
    return f'{value:g}'
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def one_line(text: str) -> str:
  """Returns a text without line breaks and backticks."""
  return ' '.join(text.replace('`', "'").split())


def _row(cells: Iterable[str]) -> str:
  return '| ' + ' | '.join(one_line(cell).replace('|', '\\|') for cell in cells) + ' |'
