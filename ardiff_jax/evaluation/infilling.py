"""Infilling: a model writes the middle of a text between what stands before and behind it.

A file holds one item a line, in one of the forms that public sets come in,

  {"prefix": text, "middle": text, "suffix": text}
  {"prompt": text, "canonical_solution": text, "suffix": text}    HumanEval infilling
  {"text": text}                              LAMBADA: the last word is the middle

The middle is as many tokens long as the right one, which is a help that a user of the model would
not have; a model that writes from left to right does not see the suffix. Code is compared, not run.

Shapes: N items, L length.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rouge_score import rouge_scorer

from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import items as files

_KNOWN = (
  'an infilling: {"prefix", "middle", "suffix"}, {"prompt", "canonical_solution", "suffix"} or '
  '{"text"}'
)


class Item(NamedTuple):
  """A text in three parts, of which the middle is asked for."""

  prefix: str
  middle: str
  suffix: str


class Rows(NamedTuple):
  """Items as rows of a model: tokens int32[N, L], and where the middle is, hole bool[N, L].

  `cut` is how many of them lack a part of what is given.
  """

  items: list[Item]
  tokens: np.ndarray
  hole: np.ndarray
  cut: int


def read(path: str | pathlib.Path) -> list[Item]:
  """Returns the items of a JSON-lines file.

  Raises:
    UserError: see `items.read`.
  """
  return files.read(path, _item, _KNOWN)


def encode(
  items: Sequence[Item], tokenizer: Tokenizer, length: int, too_long: str = 'refuse'
) -> Rows:
  """Returns a row for every item: its parts, each encoded alone, and ends of text that are given.

  Args:
    items: texts.
    tokenizer: of the model.
    length: L.
    too_long: one of `items.TOO_LONG`. `cut` leaves half of the room to the suffix, or more if the
      prefix needs less.

  Raises:
    UserError: an item is too long, or none is left.
  """
  kept, tokens, holes, cut = [], [], [], 0
  for item in items:
    before, middle, after = (tokenizer.encode(part) if part else [] for part in item)
    size = len(before) + len(middle) + len(after)
    if size > length and too_long == 'refuse':
      raise files.too_long(''.join(item), size, length)
    if len(middle) > length or (size > length and too_long == 'skip'):
      continue
    room = length - len(middle)
    after = after[: max(room // 2, room - len(before))]
    before = before[max(0, len(before) + len(after) - room) :]
    cut += size > length
    row = [*before, *middle, *after]
    place = np.arange(length)
    kept.append(item)
    tokens.append(np.pad(row, (0, length - len(row)), constant_values=tokenizer.eos_id))
    holes.append((place >= len(before)) & (place < len(before) + len(middle)))
  if not kept:
    raise UserError(f'no item fits into the {length} tokens of the model')
  return Rows(kept, np.array(tokens, np.int32), np.array(holes), cut)


def score(truths: Sequence[str], texts: Sequence[str]) -> dict[str, np.ndarray]:
  """Returns figures of each text against what it should be, float64[N].

  Returns:
    'exact', whether they agree, blanks at the end aside; 'rouge1', 'rouge2' and 'rougeL', F1
    without stemming (Lin 2004, as the package rouge-score computes them).
  """
  names = 'rouge1', 'rouge2', 'rougeL'
  scorer = rouge_scorer.RougeScorer(names, use_stemmer=False)
  scores = [scorer.score(*pair) for pair in zip(truths, texts, strict=True)]
  same = [a.rstrip() == b.rstrip() for a, b in zip(truths, texts, strict=True)]
  figures = {name: np.array([one[name].fmeasure for one in scores]) for name in names}
  return {'exact': np.array(same, np.float64), **figures}


def _item(record: dict) -> Item:
  if 'middle' in record:
    item = Item(record['prefix'], record['middle'], record['suffix'])
  elif 'canonical_solution' in record:
    item = Item(record['prompt'], record['canonical_solution'], record['suffix'])
  else:
    text = record['text'].rstrip()
    start = max(text.rfind(' '), text.rfind('\n'))
    item = Item(text[:start], text[start:], '') if start > 0 else Item('', '', '')
  if not all(isinstance(part, str) for part in item):
    raise TypeError('all parts must be text')
  if not item.middle.strip() or not item.prefix + item.suffix:
    raise ValueError('a middle, and something around it, are needed')
  return item
