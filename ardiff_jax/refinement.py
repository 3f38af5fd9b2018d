"""Refining drafts: what a refinement gives, how far it has drifted, and how it is bounded.

A draft stands on a canvas behind what it is to follow,

  guidance, end of document twice, prompt, draft

and only the draft is rewritten. Without guidance the canvas is that of the prompt and the draft.

Shapes: N drafts, L length.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from ardiff_jax import generation, samplers
from ardiff_jax import method as method_lib
from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.noise import EpsilonHybrid, Process
from ardiff_jax.sampling import latents

REFINERS = ('token', 'gate', 'latent')

Text = str | np.ndarray  # or its ids, int[n]

_MENDING = 'acs', 'acs_confidence'  # of an ε-hybrid's samplers
_SCALES = 'prompt_scale', 'guidance_scale'
_OF_LATENTS = 'sampler', 'steps', 'hyperschedule', *_SCALES, 'clamp'


@dataclasses.dataclass(frozen=True)
class Refined:
  """One refined draft.

  Attributes:
    text: refined; the draft itself, to the byte, if no token changed.
    draft: as it was.
    token_ids: of the text.
    draft_ids: of the draft, as many.
    refiner: one of REFINERS.
    strength: in [0, 1].
    seed: of the call.
    changed: share of the tokens that are others than the draft's.
    edit_distance: insertions, deletions and replacements of tokens, over the longer text's tokens.
    reverted: edits that were taken back, being over the budget.
    network_calls: for all drafts of its batch together, which are of one length.
    seconds: wall time of that, compilation included.
    nats: per token, under the judge, given the prompt; None without a judge.
    draft_nats: likewise, of the draft.
  """

  text: str
  draft: str
  token_ids: list[int]
  draft_ids: list[int]
  refiner: str
  strength: float
  seed: int
  changed: float
  edit_distance: float
  reverted: int
  network_calls: int
  seconds: float
  nats: float | None = None
  draft_nats: float | None = None


@dataclasses.dataclass(frozen=True)
class Canvas:
  """One draft behind what it follows: ids int32[L], and bool[L], what of it may change."""

  tokens: np.ndarray
  free: np.ndarray
  start: int

  @property
  def draft(self) -> np.ndarray:
    """int32[n], the part that is the draft."""
    return self.tokens[self.start :]


def canvas(tokenizer: Tokenizer, draft: Text, prompt: Text, guidance: Text, longest: int) -> Canvas:
  """Returns the canvas of a draft.

  Raises:
    UserError: the draft is empty, or it all is longer than `longest` tokens.
  """
  ids, before, asked = (_ids(tokenizer, text) for text in (draft, prompt, guidance))
  if not ids:
    raise UserError('the draft is empty: there is nothing to refine')
  if unknown := [x for x in (*asked, *before, *ids) if not 0 <= x < tokenizer.vocab_size]:
    raise UserError(
      f'{unknown[0]} is no token: the vocabulary has ids from 0 to {tokenizer.vocab_size - 1}'
    )
  if asked:
    before = [*asked, tokenizer.eos_id, tokenizer.eos_id, *before]
  if len(before) + len(ids) > longest:
    raise UserError(
      f'a draft of {len(ids)} tokens behind {len(before)} of guidance and prompt is longer than '
      f"the model's {longest}: shorten it, or refine it in parts"
    )
  tokens = np.array([*before, *ids], np.int32)
  return Canvas(tokens, np.arange(len(tokens)) >= len(before), len(before))


def drafted(
  model: Any, drafter: Any, judge: Any, prompt: str, guidance: str, count: int | None, seed: int
) -> np.ndarray:
  """Returns int32[n], a draft that another model writes behind the prompt.

  Args:
    model: that is to refine it.
    drafter: of the same tokenizer.
    judge: that is to measure it; None for none.
    prompt: what the draft continues.
    guidance: that it will stand behind; the drafter does not see it.
    count: n; None for as many tokens as fit all models.
    seed: of the draft.

  Raises:
    UserError: it has another tokenizer, the judge cannot judge, or there is no room.
  """
  check_judge(model, judge)
  if drafter.tokenizer.files != model.tokenizer.files:
    raise UserError('the drafter has another tokenizer than the model')
  before, asked = (len(_ids(model.tokenizer, text)) for text in (prompt, guidance))
  lengths = [drafter.config.data.length, model.config.data.length - (asked + 2 if asked else 0)]
  if judge is not None:
    lengths.append(judge.config.data.length)
  room = min(lengths) - before
  if room < (count or 1):
    raise UserError(
      f'behind {before} tokens of prompt and {asked} of guidance there is room for '
      f'{max(room, 0)} tokens of draft'
    )
  (sample,) = drafter.sample(1, prompt, length=before + (count or room), seed=seed)
  return np.array(sample.token_ids[before:], np.int32)


def check_judge(model: Any, judge: Any, longest: int = 0) -> None:
  """Checks that a judge, None for none, can read what a model refines, prompts included.

  Raises:
    UserError: it has another tokenizer, gives no likelihood, or reads fewer tokens than `longest`.
  """
  if judge is None:
    return
  if judge.tokenizer.files != model.tokenizer.files:
    raise UserError('the judge has another tokenizer than the model')
  if not judge.method.is_autoregressive:
    raise UserError(
      'the judge is not autoregressive, so it gives texts a bound instead of their likelihood; '
      'give a run of configs/ar.py or an imported GPT-2'
    )
  if longest > judge.config.data.length:
    raise UserError(
      f'prompt and draft have {longest} tokens, and the judge reads {judge.config.data.length}: '
      'shorten them, or give a judge that reads more'
    )


def texts(given: Text | Sequence[Text], count: int) -> list[Text]:
  """Returns several texts as a list, or one of them `count` times."""
  is_one = isinstance(given, str) or (isinstance(given, np.ndarray) and given.ndim == 1)
  return [given] * count if is_one else list(given)


def _ids(tokenizer: Tokenizer, text: Text) -> list[int]:
  if not isinstance(text, str):
    return [int(token) for token in text]
  return list(tokenizer.encode(text)) if text else []


def within_budget(
  draft: np.ndarray, refined: np.ndarray, gain: np.ndarray, most: int
) -> tuple[np.ndarray, int]:
  """Keeps the `most` edits of highest gain, and returns the text and how many were taken back.

  Args:
    draft: int[n].
    refined: int[n].
    gain: float[n], how much better the new token is.
    most: edits that are allowed.
  """
  edits = np.flatnonzero(draft != refined)
  worst = edits[np.argsort(-gain[edits], kind='stable')][most:]
  kept = refined.copy()
  kept[worst] = draft[worst]
  return kept, len(worst)


def drift(draft: Sequence[int], refined: Sequence[int]) -> dict[str, float]:
  """Returns `changed` and `edit_distance` of `Refined`, of ids, as many of both."""
  changed = np.mean(np.asarray(draft) != np.asarray(refined))
  distance = Levenshtein.normalized_distance(list(draft), list(refined))
  return {'changed': float(changed), 'edit_distance': float(distance)}


def refine(
  model: Any,
  drafts: Sequence[Text],
  *,
  prompts: Sequence[Text],
  guidances: Sequence[Text],
  refiner: str | None,
  strength: float,
  budget: float | None,
  keep: Sequence[np.ndarray] | None,
  judge: Any,
  seed: int,
  batch_size: int | None = None,
  **sampling: Any,
) -> list[Refined]:
  """`Model.refine`, of which `model` and `judge` are; `batch_size` drafts of one length at a time,
  None for all."""
  if refiner is None:
    refiner = 'latent' if model.method.is_latent else 'token'
  if refiner not in REFINERS:
    raise UserError(f'refiner must be one of {", ".join(REFINERS)}, got {refiner!r}')
  for name, value in (('strength', strength), ('budget', budget), ('clamp', sampling.get('clamp'))):
    if value is not None and not 0.0 <= value <= 1.0:
      raise UserError(f'{name} must be in [0, 1], got {value}')
  for name in _SCALES:
    if not math.isfinite(sampling.get(name) or 0.0):
      raise UserError(f'{name} must be a finite number, got {sampling[name]}')
  if (steps := sampling.get('steps')) is not None and steps < 1:
    raise UserError(f'steps must be at least 1, got {steps}')
  if batch_size is not None and batch_size < 1:
    raise UserError(f'batch_size must be at least 1, got {batch_size}')
  if not 0 <= seed < 2**32:
    raise UserError(f'seed must be from 0 to 2**32 - 1, got {seed}')
  if model.method.is_autoregressive or model.method.is_any_order:
    raise UserError('this model writes each token once and cannot refine: take a diffusion model')
  if model.method.is_latent != (refiner == 'latent'):
    kind = 'latents' if model.method.is_latent else 'tokens'
    raise UserError(f'refiner {refiner} is not for this model, which denoises {kind}')
  if refiner == 'gate' and sampling.get('sampler') not in (None, 'revision'):
    raise UserError(f'refiner gate is sampler revision; leave out {sampling["sampler"]!r}')
  longest = model.config.data.length
  for name, texts in (('prompts', prompts), ('guidances', guidances)):
    if len(texts) != len(drafts):
      raise UserError(f'{len(texts)} {name} for {len(drafts)} drafts: give one, or one each')
  canvases = [
    canvas(model.tokenizer, *texts, longest)
    for texts in zip(drafts, prompts, guidances, strict=True)
  ]
  if keep is not None:
    canvases = _keeping(canvases, keep)
  judged = [
    len(_ids(model.tokenizer, prompt)) + len(one.draft)
    for prompt, one in zip(prompts, canvases, strict=True)
  ]
  check_judge(model, judge, max(judged, default=0))

  done: dict[int, Refined] = {}
  for rows in _batches([len(one.tokens) for one in canvases], batch_size):
    few = [canvases[i] for i in rows]
    # one a draft, whatever stands beside it
    seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in rows]
    began = time.perf_counter()
    rewrite = _rewrite_latents if refiner == 'latent' else _rewrite
    tokens, gain, calls = rewrite(model, few, refiner, strength, seeds, dict(sampling))
    if budget is None:
      gain = None
    elif gain is None and (tokens != _stack(few)[0]).any():
      gain, more = _gain(model, few, tokens)
      calls += more
    seconds = time.perf_counter() - began
    for place, (row, one) in enumerate(zip(rows, few, strict=True)):
      new, reverted = tokens[place, one.start :], 0
      if gain is not None:
        most = int(budget * len(new) + 1e-9)
        new, reverted = within_budget(one.draft, new, gain[place, one.start :], most)
      draft, decode = drafts[row], model.tokenizer.decode
      draft = draft if isinstance(draft, str) else decode(one.draft)
      done[row] = Refined(
        text=draft if (new == one.draft).all() else decode(new),
        draft=draft,
        token_ids=new.tolist(),
        draft_ids=one.draft.tolist(),
        refiner=refiner,
        strength=strength,
        seed=seed,
        **drift(one.draft, new),
        reverted=reverted,
        network_calls=calls,
        seconds=seconds,
      )
  results = [done[i] for i in range(len(drafts))]
  if judge is None:
    return results
  return [_judged(judge, prompt, one) for prompt, one in zip(prompts, results, strict=True)]


def _batches(lengths: Sequence[int], batch_size: int | None) -> Iterator[list[int]]:
  """Yields the places of what is of one length, so many at a time; the last batch of a length is
  filled up with its last, so that all are of one shape."""
  for length in sorted(set(lengths)):
    places = [i for i, own in enumerate(lengths) if own == length]
    size = min(batch_size or len(places), len(places))
    for start in range(0, len(places), size):
      batch = places[start : start + size]
      yield batch + batch[-1:] * (size - len(batch))


def _keeping(canvases: list[Canvas], keep: Sequence[np.ndarray]) -> list[Canvas]:
  if len(keep) != len(canvases):
    raise UserError(f'keep is for {len(keep)} drafts, and there are {len(canvases)}')
  result = []
  for number, (one, kept) in enumerate(zip(canvases, map(np.asarray, keep), strict=True)):
    if kept.shape != one.draft.shape or kept.dtype != bool:
      raise UserError(
        f'keep of draft {number} must be {len(one.draft)} booleans, got {kept.dtype}'
        f'{list(kept.shape)}'
      )
    free = np.concatenate([one.free[: one.start], ~kept])
    result.append(dataclasses.replace(one, free=free))
  return result


def _rewrite(
  model, canvases, refiner, strength, seeds, settings
) -> tuple[np.ndarray, np.ndarray | None, int]:
  """Returns int32[N, L], canvases of one length rewritten; float32[N, L], their gain, None if that
  is not known; and the calls of the network."""
  tokens, given = _stack(canvases)
  if others := sorted({*_SCALES, 'clamp'} & set(settings)):
    raise UserError(f'{", ".join(others)} are settings of refiner latent')
  name = settings.get('sampler') or model.config.sampling.sampler
  samplers.named(name)
  if refiner == 'token' and not _mends(model.method.process, name, settings):
    raise UserError(
      f"sampler {name} leaves wrong tokens standing that an ε-hybrid's noise puts into a "
      'draft: take acs or acs_confidence, or ancestral with own_chain=True'
    )
  if strength == 0.0 or given.all():
    return tokens, None, 0
  common = dict(tokens=tokens, given=given, seed=seeds)
  if refiner == 'gate':
    revision = {'threshold': (1.0 - strength,) * 2, **(settings.pop('revision', None) or {})}
    settings |= {'sampler': 'revision', 'revision': revision}
    samples = model.sample(len(tokens), **common, draft=tokens, **settings)
  else:
    asked = settings.pop('steps', None)
    steps = model.config.sampling.steps if asked is None else asked
    other = settings.pop('hyperschedule', None)
    if other is not None and asked is not None:
      raise UserError('steps and hyperschedule: give one; num_levels of the latter is the steps')
    rows = samplers.rows(
      model.method,
      model.config,
      name,
      length=tokens.shape[1],
      steps=None if other else max(1, math.ceil(strength * steps)),
      other=other,
    )
    if samplers.named(name).own_rows is not None:
      raise UserError(f'sampler {name} has a hyperschedule of its own and starts from nothing')
    noisy = generation.noised(model.method.process, tokens, given, strength, seeds)
    rows = dataclasses.replace(rows, last_time=strength)
    settings |= dict(sampler=name, hyperschedule=rows)
    samples = model.sample(len(tokens), **common, draft=noisy, **settings)
  new = np.array([sample.token_ids for sample in samples], np.int32)
  return new, None, samples[0].network_calls


def _mends(process: Process, sampler: str, settings: Mapping[str, Any]) -> bool:
  """Whether a sampler can redraw the wrong tokens with which a process noises a draft: chains on
  masks, as those on which an ε-hybrid generates, take visible tokens for right."""
  if not isinstance(process, EpsilonHybrid) or not process.resamples:
    return True
  return sampler in _MENDING or bool(settings.get('own_chain'))


def _rewrite_latents(
  model, canvases, refiner, strength, seeds, settings
) -> tuple[np.ndarray, np.ndarray | None, int]:
  """`_rewrite` of latents."""
  del refiner
  tokens, given = _stack(canvases)
  settings = {name: value for name, value in settings.items() if value is not None}
  unknown = sorted(set(settings) - set(_OF_LATENTS))
  if unknown:
    raise UserError(
      f'refiner latent does not know {", ".join(unknown)}; it takes {", ".join(_OF_LATENTS)}'
    )
  kind = settings.get('sampler', latents.KINDS[0])
  if kind not in latents.KINDS:
    raise UserError(f'sampler {kind!r} of refiner latent must be one of {", ".join(latents.KINDS)}')
  if strength == 0.0 or given.all():
    return tokens, None, 0
  if {'steps', 'hyperschedule'} <= set(settings):
    raise UserError('steps and hyperschedule: give one; num_levels of the latter is the steps')
  steps = max(1, math.ceil(strength * settings.get('steps', model.config.sampling.steps)))
  length = tokens.shape[1]
  rows = settings.get('hyperschedule')
  if rows is None:
    rows = method_lib.make_hyperschedule(model.config, steps, length)
  elif isinstance(rows, str):
    rows = method_lib.parse_hyperschedule(rows, length)
  elif rows.length != length:
    raise UserError(f'the hyperschedule has {rows.length} positions, and the text {length}')
  rows = dataclasses.replace(rows, last_time=strength)
  return generation.refine_latents(
    *(model.method, model.params, model.mesh, rows, tokens, given, seeds, kind),
    **{name: float(settings.get(name, 1.0)) for name in _SCALES},
    clamp=float(settings.get('clamp', 0.0)),
  )


def _gain(model, canvases: list[Canvas], refined: np.ndarray) -> tuple[np.ndarray, int]:
  """float32[N, L], log q[new] - log q[old] where tokens changed, these hidden together, in one pass
  over the hyperschedule; and the calls it took."""
  tokens, _ = _stack(canvases)
  method = model.method
  rows = method_lib.make_hyperschedule(model.config, num_levels=1, length=tokens.shape[1])
  changed = tokens != refined
  has_mask = float(method.process.prior_probs()[-1]) > 0.0
  shown = np.where(changed & has_mask, method.process.mask_id, refined)
  return generation.margins(
    method_lib.on_schedule(method, rows),
    model.params,
    model.mesh,
    shown,
    ~changed,
    refined,
    tokens,
    model.config.revision.level,
  )


def _judged(judge, prompt: Text, one: Refined) -> Refined:
  """Adds the judge's nats per token, of the text and of the draft, given the prompt."""
  before = _ids(judge.tokenizer, prompt)
  tokens = np.array([[*before, *ids] for ids in (one.token_ids, one.draft_ids)], np.int32)
  counted = np.broadcast_to(np.arange(tokens.shape[1]) >= len(before), tokens.shape)
  nats = judge.sequence_nats(tokens, counted, num_samples=None, seed=one.seed)
  nats, draft_nats = (float(x) for x in nats / len(one.token_ids))
  return dataclasses.replace(one, nats=nats, draft_nats=draft_nats)


def _stack(canvases: list[Canvas]) -> tuple[np.ndarray, np.ndarray]:
  """int32[N, L] of one length, and bool[N, L], what of it is given."""
  return np.stack([one.tokens for one in canvases]), ~np.stack([one.free for one in canvases])
