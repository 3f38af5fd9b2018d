"""Multiple choice: which continuation a model finds likeliest.

A file holds one item a line, in one of the forms that public sets come in,

  {"query": text, "choices": [text, ...], "gold": number}             PIQA, SIQA, ARC, COPA
  {"ctx": text, "endings": [text, ...], "label": number}              HellaSwag
  {"context_options": [text, ...], "continuation": text, "gold": number}   WinoGrande

A choice is scored by the nats of its tokens, the text before it being given: exact for AR, else by
the bound. The choices of an item share its draws, lest their noise decide. `accuracy` picks the
least nats, `accuracy_per_byte` the least nats per byte of the choice. (As DiffuGPT does, arXiv
2410.17891, §4.1.)

Shapes: N choices of all items, L length.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import items as files

_KNOWN = (
  'a multiple choice: {"query", "choices", "gold"}, {"ctx", "endings", "label"} or '
  '{"context_options", "continuation", "gold"}'
)


class Item(NamedTuple):
  """Texts before the choices, one each; the choices; and which of them is right."""

  contexts: tuple[str, ...]
  choices: tuple[str, ...]
  gold: int


class Rows(NamedTuple):
  """The choices of some items as rows of a model: tokens int32[N, L], counted bool[N, L].

  `numbers` int[N] is which item a row is of, and `cut` how many items lack a part of what is given.
  """

  items: list[Item]
  tokens: np.ndarray
  counted: np.ndarray
  numbers: np.ndarray
  cut: int


class Score(NamedTuple):
  """Shares of the items, each with its standard error, and what guessing would reach."""

  accuracy: float
  stderr: float
  accuracy_per_byte: float
  stderr_per_byte: float
  chance: float


def read(path: str | pathlib.Path) -> list[Item]:
  """Returns the items of a JSON-lines file.

  Raises:
    UserError: see `items.read`.
  """
  return files.read(path, _item, _KNOWN)


def encode(
  items: Sequence[Item], tokenizer: Tokenizer, length: int, too_long: str = 'refuse'
) -> Rows:
  """Returns a row for every choice: context, choice, and ends of text that are given.

  Args:
    items: texts.
    tokenizer: of the model.
    length: L.
    too_long: one of `items.TOO_LONG`.

  Raises:
    UserError: an item is too long, or none is left.
  """
  kept, tokens, counted, numbers, cut = [], [], [], [], 0
  for item in items:
    texts = zip(item.contexts, item.choices, strict=True)
    ids = [(tokenizer.encode(x), tokenizer.encode(f'{x} {y}')) for x, y in texts]
    size = max(len(whole) for _, whole in ids)
    starts = [_common(before, whole) for before, whole in ids]
    over = max(0, size - length)  # dropped from all contexts, so that they stay alike
    if over and too_long == 'refuse':
      raise files.too_long(item.contexts[0], size, length)
    if over > min(starts) or (over and too_long == 'skip'):
      continue
    numbers += [len(kept)] * len(ids)
    kept.append(item)
    cut += over > 0
    for start, (_, whole) in zip(starts, ids, strict=True):
      row, start = whole[over:], start - over
      place = np.arange(length)
      tokens.append(np.pad(row, (0, length - len(row)), constant_values=tokenizer.eos_id))
      counted.append((place >= start) & (place < len(row)))
  if not kept:
    raise UserError(f'no item fits into the {length} tokens of the model')
  return Rows(kept, np.array(tokens, np.int32), np.array(counted), np.array(numbers), cut)


def score(items: Sequence[Item], nats_N: np.ndarray) -> Score:
  """Returns how often the right choice is the likeliest, ties shared.

  Args:
    items: those of `Rows`.
    nats_N: float[N] of its rows.
  """
  right, right_per_byte, chance, start = [], [], [], 0
  for item in items:
    nats = np.asarray(nats_N[start : start + len(item.choices)], np.float64)
    start += len(item.choices)
    sizes = np.array([len(choice.encode()) for choice in item.choices])
    for found, values in ((right, nats), (right_per_byte, nats / np.maximum(sizes, 1))):
      best = values == values.min()
      found.append(best[item.gold] / best.sum())
    chance.append(1.0 / len(item.choices))
  error = lambda x: float(np.std(x, ddof=1) / len(x) ** 0.5) if len(x) > 1 else 0.0  # noqa: E731
  return Score(
    float(np.mean(right)),
    error(right),
    float(np.mean(right_per_byte)),
    error(right_per_byte),
    float(np.mean(chance)),
  )


def _item(record: dict) -> Item:
  if 'context_options' in record:
    contexts = tuple(record['context_options'])
    choices = (record['continuation'],) * len(contexts)
    gold = record['gold']
  elif 'endings' in record:
    choices = tuple(record['endings'])
    contexts, gold = (record['ctx'],) * len(choices), record['label']
  else:
    choices = tuple(record['choices'])
    contexts, gold = (record['query'],) * len(choices), record['gold']
  if not all(isinstance(x, str) for x in contexts + choices) or len(choices) < 2:
    raise ValueError('at least two choices, all of them text, are needed')
  gold = int(gold) if isinstance(gold, str) and gold.isdecimal() else gold
  if not isinstance(gold, int) or not 0 <= gold < len(choices):
    raise IndexError(f'the right choice {gold!r} is not in 0..{len(choices) - 1}')
  return Item(contexts, choices, gold)


def _common(before: Sequence[int], whole: Sequence[int]) -> int:
  """How many tokens both start with; at least one is left for the choice."""
  same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), None)
  same = min(len(before), len(whole)) if same is None else same
  return min(same, len(whole) - 1)
