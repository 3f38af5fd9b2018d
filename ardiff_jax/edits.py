"""What differs between two texts, word by word."""

import difflib
import re

_WORDS = re.compile(r'\s+|\w+|[^\w\s]')


def between(old: str, new: str) -> list[tuple[str, str]]:
  """Returns the texts in stretches of (old, new) that are alike or replace each other; one of them
  may be empty."""
  before, after = _WORDS.findall(old), _WORDS.findall(new)
  matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
  return [(''.join(before[i:j]), ''.join(after[k:m])) for _, i, j, k, m in matcher.get_opcodes()]


def marked(old: str, new: str) -> str:
  """Returns the new text with its edits: [-what went-]{+what came+}."""
  parts = []
  for went, came in between(old, new):
    if went == came:
      parts.append(came)
    else:
      parts += [f'[-{went}-]' if went else '', f'{{+{came}+}}' if came else '']
  return ''.join(parts)
