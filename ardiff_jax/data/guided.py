"""Rows that teach a model to write what a guidance asks for, made from plain text.

A row of L tokens is what a refinement stands on,

  guidance, end of document twice, prompt, target

of which only the target, about half of it, is counted: the rest is given. (No text has two ends
in a row, so a guidance cannot be taken for one.) A draft comes with it that has, in the place of
the target, what is to be refined to it; see `drafts`. Three tasks take turns:

  refine      guidance `fix`; the target is the text's own continuation
  control     guidance names an attribute of the continuation, see `attributes`
  neutralise  guidance names a gender, and the continuation is rewritten in it

One row in ten has no guidance, and one in ten no prompt but the target alone, so that a model knows
both cases. What does not fit becomes a row without guidance.
"""

import dataclasses

import numpy as np

from ardiff_jax.data import attributes, drafts
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
    """Returns {'tokens': int32[L], 'loss_mask': bool[L], 'draft': int32[L]} of `row` in 0..N-1; the
    draft differs from the tokens only where they are counted."""
    plain = self.packed[row]
    draw = np.random.default_rng((self.seed, row))
    guidance, tokens, size, own = self._asked(plain['tokens'], draw)
    before, target = np.split(tokens, [self.length - size])
    following = self.stream[(row + 1) * self.length :][: self.length]
    draft = drafts.draft(guidance, target, own, following, self.tokenizer, draw)
    counted = (np.arange(self.length) >= self.length - size) & plain['loss_mask']
    draft = np.where(counted, np.concatenate([before, draft]), tokens)
    return {'tokens': tokens, 'loss_mask': counted, 'draft': draft.astype(np.int32)}

  def _asked(
    self, text: np.ndarray, draw: np.random.Generator
  ) -> tuple[str, np.ndarray, int, np.ndarray]:
    """Returns what is asked of a text int32[L], the row int32[L] that answers, how many of its last
    tokens do, and int32[k], these as they were before they were rewritten to answer."""
    task = TASKS[draw.integers(len(TASKS))]
    no_guidance, no_prompt = draw.random(2) < _DROPPED
    size = self.length if no_prompt else self.length // 2
    prompt, own = np.split(text, [self.length - size])
    if no_guidance:
      return attributes.FIX, text, size, own
    guidance, target = guide(task, own, self.tokenizer, draw)
    before = head(self.tokenizer, guidance)
    room = self.length - len(before)
    if room >= self.length // 2:
      answer = np.concatenate([prompt, target[:size]])
      lost = max(0, len(answer) - room - len(prompt))
      answer = answer[-room:]
      target = answer[-min(len(target), size) :]
      if len(answer) == room and _fits(guidance, target, self.tokenizer):
        tokens = np.concatenate([before, answer]).astype(np.int32)
        return guidance, tokens, len(target), own[lost:]
    return attributes.FIX, text, self.length, text


def head(tokenizer: Tokenizer, guidance: str) -> list[int]:
  """Returns the ids of a guidance as it stands in front: with its two ends."""
  return [*tokenizer.encode(guidance), tokenizer.eos_id, tokenizer.eos_id]


def _fits(guidance: str, target: np.ndarray, tokenizer: Tokenizer) -> bool:
  """Whether the target still is as asked, now that it has been cut."""
  return guidance == attributes.FIX or attributes.holds(guidance, tokenizer.decode(target))


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
