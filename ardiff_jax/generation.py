"""From a request for texts to texts: canvases of prompts and gaps, batches, statistics.

Shapes: N samples, L length, S steps.
"""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import rng
from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.method import Method
from ardiff_jax.noise import Process
from ardiff_jax.sampling import latents
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate, trace_steps
from ardiff_jax.sampling.margin import Margin
from ardiff_jax.sampling.revision import Memory
from ardiff_jax.sampling.steppers import Stepper


@dataclasses.dataclass(frozen=True)
class Sample:
  """One generated text.

  Attributes:
    text: what was given included; with a stop, up to the end of the document.
    token_ids: ids of the canvas, as far as the text goes.
    network_calls: calls of the network, for all samples of the batch together.
    redraws: visible tokens that the sampler replaced or masked again.
    reveal_step: per token, the step at which it was last revealed; -1 if it never was a mask.
    entropy: nats, of the frequencies of the tokens that were generated.
    seconds: wall time of the batch, compilation included.
    sampler: its name.
    hyperschedule: rows that were descended.
    temperature: of the draws.
    seed: of its batch, or its own.
    notes: what the sampler noted at each step, lists of S numbers; empty for most samplers. Of a
      revision, the sum of `live` is the calls that this sample needed.
    doubt: of a revision, per token, how doubtful it was at the first look; None for others.
    trace: int[F, L], canvases (mask = vocab_size) after `trace_steps`; None unless asked for.
    trace_steps: steps of the trace.
  """

  text: str
  token_ids: list[int]
  network_calls: int
  redraws: int
  reveal_step: list[int]
  entropy: float
  seconds: float
  sampler: str
  hyperschedule: str
  temperature: float
  seed: int
  notes: dict[str, list[float]] = dataclasses.field(default_factory=dict, repr=False)
  doubt: list[float] | None = dataclasses.field(default=None, repr=False)
  trace: np.ndarray | None = dataclasses.field(default=None, repr=False)
  trace_steps: list[int] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Canvases:
  """What is given: tokens int32[N, L], read where bool[N, L] is True, and what the rest starts
  from, int32[N, L], or None for noise."""

  tokens: np.ndarray
  given: np.ndarray
  draft: np.ndarray | None = None

  @property
  def length(self) -> int:
    return self.tokens.shape[1]


def of_prompts(tokenizer: Tokenizer, prompts: Sequence[str], length: int) -> Canvases:
  """Returns canvases that begin with one prompt each.

  Raises:
    UserError: a prompt leaves no room.
  """
  tokens = np.zeros((len(prompts), length), np.int32)
  given = np.zeros(tokens.shape, bool)
  for row, prompt in enumerate(prompts):
    ids = tokenizer.encode(prompt)
    if len(ids) >= length:
      raise UserError(
        f'the prompt has {len(ids)} tokens and the text {length}: give at most {length - 1}, to '
        'leave room for an answer'
      )
    tokens[row, : len(ids)] = ids
    given[row, : len(ids)] = True
  return Canvases(tokens, given)


def of_infill(tokenizer: Tokenizer, text: str, count: int, longest: int) -> Canvases:
  """Returns `count` canvases of a text with gaps, such as 'A [[12]] B' for 12 tokens between.

  Blanks next to a gap are part of the text. The canvas is as long as the text with its gaps.

  Raises:
    UserError: there is no gap, one is malformed, or it all is longer than `longest` tokens.
  """
  pieces = re.split(r'\[\[(.*?)\]\]', text)
  if len(pieces) == 1 or any('[[' in piece or ']]' in piece for piece in pieces):
    raise UserError(
      f"infill {text!r} must have gaps such as [[12]], for 12 tokens, as in 'A [[12]] B'"
    )
  ids, given = [], []
  for number, piece in enumerate(pieces):
    if number % 2 == 0:
      new = tokenizer.encode(piece) if piece else []
    elif piece.strip().isdecimal() and len(piece) < 10 and int(piece) > 0:
      new = [0] * min(int(piece), longest + 1)
    else:
      raise UserError(f'infill gap [[{piece}]] must hold a number of tokens from 1 up')
    ids += new
    given += [number % 2 == 0] * len(new)
  if len(ids) > longest:
    raise UserError(f'the text to fill and its gaps are longer than {longest} tokens')
  return Canvases(np.tile(np.int32(ids), (count, 1)), np.tile(given, (count, 1)))


def of_arrays(
  tokens: np.ndarray, given: np.ndarray, count: int, vocab_size: int, longest: int
) -> Canvases:
  """Returns canvases of one array each, or of one for all.

  Args:
    tokens: int[L] or int[N, L] in 0..V-1 where given.
    given: bool, of the same shape.
    count: N.
    vocab_size: V.
    longest: the most positions.

  Raises:
    UserError: shapes, types or ids are wrong.
  """
  tokens, given = np.asarray(tokens), np.asarray(given)
  if tokens.shape != given.shape or given.dtype != bool or tokens.ndim not in (1, 2):
    raise UserError(
      'tokens and given must be integers and booleans of one shape, [L] or [num_samples, L], got '
      f'{tokens.dtype}{list(tokens.shape)} and {given.dtype}{list(given.shape)}'
    )
  if (tokens.ndim == 2 and len(tokens) != count) or not np.issubdtype(tokens.dtype, np.integer):
    raise UserError(
      f'tokens must be integers for {count} samples, got {tokens.dtype}{list(tokens.shape)}'
    )
  if not 0 < tokens.shape[-1] <= longest:
    raise UserError(f'tokens have {tokens.shape[-1]} positions; from 1 to {longest} fit')
  wrong = given & ((tokens < 0) | (tokens >= vocab_size))
  if wrong.any():
    raise UserError(
      f'token id {tokens[wrong][0]} at position {np.argwhere(wrong)[0][-1]} is not in '
      f'0..{vocab_size - 1}'
    )
  shape = count, tokens.shape[-1]
  tokens = np.where(given, tokens, 0).astype(np.int32)
  return Canvases(np.broadcast_to(tokens, shape), np.broadcast_to(given, shape))


def with_draft(canvases: Canvases, draft: np.ndarray, vocab_size: int) -> Canvases:
  """Returns canvases that start from int[L] or int[N, L] in 0..V (mask = V) instead of noise.

  Raises:
    UserError: its shape or an id is wrong.
  """
  draft, shape = np.asarray(draft), canvases.tokens.shape
  if draft.shape not in (shape, shape[1:]) or not np.issubdtype(draft.dtype, np.integer):
    raise UserError(
      f'draft must be integers of shape {list(shape)}, got {draft.dtype}{list(draft.shape)}'
    )
  if draft.min() < 0 or draft.max() > vocab_size:
    raise UserError(f'draft must hold ids of 0..{vocab_size}, the last being the mask')
  return dataclasses.replace(canvases, draft=np.broadcast_to(draft.astype(np.int32), shape))


def noised(
  process: Process, drafts: np.ndarray, given: np.ndarray, time: float, seeds: Sequence[int]
) -> np.ndarray:
  """Returns int32[N, L], drafts noised up to a time, but where bool[N, L] `given`."""
  keys = _keys(np.asarray(seeds, np.uint32), np.zeros(len(seeds), np.uint32), purpose='noise')
  noisy = jax.vmap(process.sample, (0, 0, None))(keys, drafts, jax.numpy.float32(time))
  return np.where(given, drafts, noisy).astype(np.int32)


def margins(
  method: Method,
  params: dict,
  mesh: Mesh,
  canvas: np.ndarray,
  given: np.ndarray,
  new: np.ndarray,
  old: np.ndarray,
  level: float,
) -> tuple[np.ndarray, int]:
  """Returns float32[N, L], log q[new] - log q[old] where not `given`, else 0, see `Margin`, and the
  network calls it took.

  Args:
    method: on rows that show each position once.
    params: of its network, placed on the mesh.
    mesh: devices.
    canvas: int32[N, L], what is shown.
    given: bool[N, L].
    new, old: int32[N, L].
    level: see `Margin`.
  """
  keys = _keys(*np.zeros((2, len(canvas)), np.uint32), purpose='margin')
  with mesh_lib.use(mesh):
    canvas, given, new, old, keys = mesh_lib.place_whole(mesh, (canvas, given, new, old, keys))
    result = _generate(
      method.denoise,
      params,
      method.generation_process,
      Margin(new, old, level),
      mesh_lib.repeat(mesh, method.hyperschedule),
      canvas,
      given,
      keys,
      draft=canvas,
      use_cache=method.denoise.is_cacheable,
    )
  return jax.device_get(result.memory), int(result.network_calls)


def refine_latents(
  method: Method,
  params: dict,
  mesh: Mesh,
  rows: Hyperschedule,
  tokens: np.ndarray,
  given: np.ndarray,
  seeds: Sequence[int],
  kind: str,
  *,
  prompt_scale: float,
  guidance_scale: float,
  clamp: float,
) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns tokens, gain and network calls of `sampling.latents.refine`, of int32[N, L] and
  bool[N, L]; the others are its arguments."""
  keys = _keys(np.asarray(seeds, np.uint32), np.zeros(len(seeds), np.uint32), purpose='latents')
  with mesh_lib.use(mesh):
    tokens, given, keys = mesh_lib.place_whole(mesh, (tokens, given, keys))
    result = _refine_latents(
      method.denoise,
      params,
      mesh_lib.repeat(mesh, rows),
      tokens,
      given,
      keys,
      prompt_scale=prompt_scale,
      guidance_scale=guidance_scale,
      clamp=clamp,
      kind=kind,
      looks=tuple(x != 0.0 for x in latents.mixture(prompt_scale, guidance_scale)),
    )
  result = jax.device_get(result)
  return result.tokens, result.gain, int(result.network_calls)


def generate_texts(
  method: Method,
  params: dict,
  tokenizer: Tokenizer,
  stepper: Stepper,
  canvases: Canvases,
  *,
  controls: Controls,
  mesh: Mesh,
  seeds: Sequence[int],
  numbers: Sequence[int],
  sampler: str,
  use_cache: bool = False,
  stop: bool = False,
  batch_size: int | None = None,
  trace: int = 0,
  report: Callable[[int], None] | None = None,
) -> list[Sample]:
  """Generates one text for each canvas, in batches of one shape.

  Args:
    method: on the rows to descend.
    params: of its network, placed on the mesh.
    tokenizer: of the texts.
    stepper: how a step moves.
    canvases: what is given.
    controls: what bends the law of the tokens.
    mesh: devices.
    seeds: of each sample; it depends on that and its number, not on its neighbours.
    numbers: of each sample.
    sampler: name of the stepper.
    use_cache: whether keys and values of settled tokens are kept.
    stop: whether the text ends with the document.
    batch_size: samples at a time; None for all at once. The last batch is filled up.
    trace: how many canvases to keep, evenly spread over the steps.
    report: called after every batch with how many samples are done.
  """
  count, process = len(canvases.tokens), method.generation_process
  batch_size = min(batch_size or count, count)
  schedule = mesh_lib.repeat(mesh, method.hyperschedule)
  samples = []
  for first in range(0, count, batch_size):
    rows = np.minimum(np.arange(first, first + batch_size), count - 1)
    began = time.perf_counter()
    with mesh_lib.use(mesh):
      own = np.asarray(seeds, np.uint32)[rows], np.asarray(numbers, np.uint32)[rows]
      keys = _keys(*own, purpose='sample' if canvases.draft is None else 'redraft')
      draft = None if canvases.draft is None else canvases.draft[rows]
      tokens, given, draft, keys = mesh_lib.place_whole(
        mesh, (canvases.tokens[rows], canvases.given[rows], draft, keys)
      )
      result = jax.device_get(
        _generate(
          method.denoise,
          params,
          process,
          stepper.of_examples(rows),
          schedule,
          tokens,
          given,
          keys,
          controls=controls,
          draft=draft,
          stop_id=tokenizer.eos_id if stop else None,
          use_cache=use_cache,
          trace=trace,
        )
      )
    seconds = time.perf_counter() - began
    notes = None if result.notes is None else result.notes._asdict()
    doubt = result.memory.first_doubt if isinstance(result.memory, Memory) else None
    for i in range(min(batch_size, count - first)):
      free = ~canvases.given[first + i]
      ids = result.tokens[i]
      if stop:
        ids = ids[: _end(ids, free, tokenizer.eos_id)]
      samples.append(
        Sample(
          text=tokenizer.decode(ids),
          token_ids=ids.tolist(),
          network_calls=int(result.network_calls),
          redraws=int(result.redraws[i]),
          reveal_step=result.reveal_step[i, : len(ids)].tolist(),
          entropy=measures.entropy(ids[free[: len(ids)]]),
          seconds=seconds,
          sampler=sampler,
          hyperschedule=method.hyperschedule.name,
          temperature=float(controls.temperature),
          seed=int(seeds[first + i]),
          notes={} if notes is None else {k: x[:, i].tolist() for k, x in notes.items()},
          doubt=None if doubt is None else doubt[i, : len(ids)].tolist(),
          trace=result.trace[:, i, : len(ids)] if trace else None,
          trace_steps=trace_steps(method.hyperschedule.num_steps, trace) if trace else None,
        )
      )
    if report:
      report(len(samples))
  return samples


def _end(ids: np.ndarray, free: np.ndarray, eos_id: int) -> int:
  """How many tokens come before the first end of a document that was generated."""
  ends = np.flatnonzero((ids == eos_id) & free)
  return int(ends[0]) if len(ends) else len(ids)


@functools.partial(jax.jit, static_argnames='purpose')
def _keys(seeds: jax.Array, numbers: jax.Array, purpose: str) -> jax.Array:
  """Those of a text from a draft are others than those by which that was drawn."""
  one = lambda seed, number: rng.stream(jax.random.key(seed), purpose, number)  # noqa: E731
  return jax.vmap(one)(seeds, numbers)


_refine_latents = jax.jit(latents.refine, static_argnames=('denoise', 'kind', 'looks'))
_generate = jax.jit(
  generate, static_argnames=('denoise', 'process', 'stop_id', 'use_cache', 'trace')
)
