"""Rows that teach a model to write what a guidance asks for, made from plain text.

A row of L tokens is what a refinement stands on,

  guidance, end of document, prompt, target

of which only the target, about half of it, is counted: the rest is given. Three tasks take turns:

  refine      guidance `fix`; the target is the text's own continuation
  control     guidance names an attribute of the continuation, see `attributes`
  neutralise  guidance names a gender, and the continuation is rewritten in it

One row in ten has no guidance, and one in ten no prompt, so that a model knows both cases.
"""

import dataclasses

import numpy as np

from ardiff_jax.data import attributes
from ardiff_jax.data.packing import Packed
from ardiff_jax.data.tokenizers import Tokenizer

TASKS = 'refine', 'control', 'neutralise'

_DROPPED = 0.1


@dataclasses.dataclass(frozen=True)
class Guided:
  """Rows of a packed text with guidance; each is always the same.

  Attributes:
    packed: the text.
    tokenizer: that it was encoded with.
    seed: of what is asked of each row.
  """

  packed: Packed
  tokenizer: Tokenizer
  seed: int

  @property
  def stream(self) -> np.ndarray:
    return self.packed.stream

  @property
  def num_bytes(self) -> int:
    return self.packed.num_bytes

  @property
  def length(self) -> int:
    return self.packed.length

  def __len__(self) -> int:
    return len(self.packed)

  def __getitem__(self, row: int) -> dict[str, np.ndarray]:
    """Returns {'tokens': int32[L], 'loss_mask': bool[L]} of `row` in 0..N-1."""
    plain = self.packed[row]
    tokens, size = plain['tokens'], self.length // 2
    draw = np.random.default_rng((self.seed, row))
    task = TASKS[draw.integers(len(TASKS))]
    prompt, target = np.split(tokens, [self.length - size])
    head = np.array([], np.int32)
    if draw.random() >= _DROPPED:
      guidance, target = guide(task, target, self.tokenizer, draw)
      head = np.array([*self.tokenizer.encode(guidance), self.tokenizer.eos_id], np.int32)
      head = head[: self.length - size]
    room = self.length - len(head)
    text = np.concatenate([prompt, target[:size]])[-room:]
    if len(text) < room:  # a rewritten target is shorter than the prompt can fill
      return plain
    count = room if draw.random() < _DROPPED else len(target[:size])
    counted = np.arange(self.length) >= self.length - count
    return {'tokens': np.concatenate([head, text]).astype(np.int32), 'loss_mask': counted}


def guide(
  task: str, target: np.ndarray, tokenizer: Tokenizer, draw: np.random.Generator
) -> tuple[str, np.ndarray]:
  """Returns a guidance, and the target as it asks for it, int32[n].

  Args:
    task: one of TASKS.
    target: int32[n], the text's own continuation.
    tokenizer: of those ids.
    draw: of what is asked for.
  """
  text = tokenizer.decode(target)
  if task == 'neutralise':
    guidance = f'gender: {attributes.GENDERS[draw.integers(len(attributes.GENDERS))]}'
    rewritten = attributes.regender(text, guidance.partition(': ')[2])
    if attributes.holds(guidance, rewritten):  # there is something to rewrite
      return guidance, np.array(tokenizer.encode(rewritten), np.int32)
  if task == 'control':
    known = {name: tell(text) for name, tell in attributes.ATTRIBUTES.items() if name != 'gender'}
    known['keyword'] = attributes.keyword(text, draw)
    named = [f'{name}: {value}' for name, value in known.items() if value is not None]
    if named:
      return named[draw.integers(len(named))], target
  return attributes.FIX, target
