"""The task refine: drafts of continuations are refined as a guidance asks.

The prompt is the first half of a validation text, and the draft stands where its second half was.
By `asked` of the settings,

  refine      the draft is what `draft` of the run says: the continuation with 15 % of its tokens
              replaced ('corrupted'), or one by the drafter ('ar')
  control     a draft by the drafter, which did not know the attribute of the true continuation
              that the guidance then names; those that have it all the same are left out
  neutralise  the true continuation, to be rewritten in another gender; those in it are left out

Refiner 'ar' of the run is the drafter alone, which writes behind the same guidance; its calls are
all there are, while a refiner's come on top of those of its draft, which the drafter alone never
sees. With `most_calls` of the settings all try anew while that many calls last, and keep the text
that is as asked and that the drafter finds likeliest. (To ask it is a call more a try, but for its
own texts, of which it knew.) A call is of a cached token in the drafter and of a whole canvas in a
refiner: `seconds` tell what they cost.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ardiff_jax import refinement
from ardiff_jax.ablation.models import Models, judge_of, plain
from ardiff_jax.data import attributes, guided
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples as measures

DRAFTS = ('corrupted', 'ar')

_CORRUPTED = 0.15
_EXAMPLES = 2  # of the texts that the judge finds most improved, and of those most harmed


class Drafts(NamedTuple):
  """What is to be refined: N texts of equal length.

  Attributes:
    head: of each, ids of the guidance and its ends.
    guidance: of each, in words.
    prompt: int32[N, P].
    draft: int32[N, n].
    right: int32[N, n], what a corrupted draft was; None for others.
    calls: network calls that the drafts took.
    seconds: that one took.
  """

  head: list[list[int]]
  guidance: list[str]
  prompt: np.ndarray
  draft: np.ndarray
  right: np.ndarray | None
  calls: int
  seconds: float


def refine(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`asked` of the settings, `strength` but for refiner 'ar', `most_calls` where several tries may
  fit, and `refiner` of the run say what is done."""
  model = models(run.model, seed)
  drafts = _drafts(models, run, settings['asked'], seed)
  prompts = [prompt[len(head) :] for head, prompt in zip(drafts.head, drafts.prompt, strict=True)]
  alone = run.refiner == 'ar'

  def rewrite(own_seed: int) -> tuple[np.ndarray, int]:
    if alone:
      return _written(models(run.drafter, seed), drafts, prompts, own_seed)
    refined = model.refine(
      list(drafts.draft),
      prompt=prompts,
      guidance=drafts.guidance,
      refiner=run.refiner,
      strength=settings['strength'],
      budget=run.get('budget') or None,
      seed=own_seed,
      **run.get('sampling', ConfigDict()),
    )
    return np.array([one.token_ids for one in refined], np.int32), refined[0].network_calls

  draft_calls, draft_seconds = (0, 0.0) if alone else (drafts.calls, drafts.seconds)
  after, calls, tries, seconds = _tried(
    rewrite,
    lambda texts: _best(models, run, drafts, prompts, texts, seed),
    most_calls=settings.get('most_calls', 0) - draft_calls,
    calls_to_choose=0 if alone else 1,
    seed=seed,
  )
  decode = model.tokenizer.decode
  before_nats, nats = (
    _judged(models, run, model, seed, drafts.prompt, x) for x in (drafts.draft, after)
  )
  drifts = [refinement.drift(*pair) for pair in zip(drafts.draft, after, strict=True)]
  metrics = {
    'judge_nats': nats.mean(),
    'draft_nats': before_nats.mean(),
    'changed': np.mean([drift['changed'] for drift in drifts]),
    'edit_distance': np.mean([drift['edit_distance'] for drift in drifts]),
    'distinct_2': measures.distinct(after, 2),
    'texts': len(after),
    'calls': calls + draft_calls,
    'tries': tries,
    'draft_calls': draft_calls,
    'seconds': seconds / len(after) + draft_seconds,
    'draft_seconds': draft_seconds,
  }
  if settings['asked'] != 'refine':
    held = [
      attributes.holds(guidance, decode(text))
      for guidance, text in zip(drafts.guidance, after, strict=True)
    ]
    metrics['success'] = np.mean(held)
  if drafts.right is not None and not alone:
    result = measures.repair(drafts.right, drafts.draft, after)
    metrics |= {'fixed': result.fixed.mean(), 'harmed': result.harmed.mean()}
  order = np.argsort(nats - before_nats, kind='stable')
  examples = [
    {
      'guidance': drafts.guidance[i],
      'draft': decode(drafts.draft[i]),
      'text': decode(after[i]),
      'draft_nats': float(before_nats[i]),
      'nats': float(nats[i]),
    }
    for i in dict.fromkeys([*order[:_EXAMPLES], *order[-_EXAMPLES:]])
  ]
  return {'metrics': plain(metrics), 'examples': examples}


def _tried(
  rewrite: Callable[[int], tuple[np.ndarray, int]],
  best: Callable[[Sequence[np.ndarray]], np.ndarray],
  *,
  most_calls: int,
  calls_to_choose: int,
  seed: int,
) -> tuple[np.ndarray, int, int, float]:
  """Returns the best of as many tries as fit, but at least one; its calls, tries and seconds."""
  # not the seed of the drafts
  seed_of = lambda number: int(np.random.SeedSequence((seed, number)).generate_state(1)[0])  # noqa: E731
  first, calls = rewrite(seed_of(0))  # compiles
  tries = max(1, most_calls // max(1, calls + calls_to_choose))
  if tries > 1:
    best([first, first])
  began = time.perf_counter()
  texts, calls = zip(*(rewrite(seed_of(number)) for number in range(tries)), strict=True)
  text = best(texts) if tries > 1 else texts[0]
  seconds = time.perf_counter() - began
  return text, sum(calls) + (tries * calls_to_choose if tries > 1 else 0), tries, seconds


def _written(drafter, drafts: Drafts, prompts, seed: int) -> tuple[np.ndarray, int]:
  """Returns int32[N, n], written by the drafter behind guidance and prompt, and its calls."""
  tokens, counted = _behind(drafts, prompts, drafts.draft)
  written = drafter.sample(len(tokens), tokens=tokens, given=~counted, seed=seed)
  text = np.array([one.token_ids for one in written], np.int32)
  return text[:, -drafts.draft.shape[1] :], written[0].network_calls


def _best(
  models, run, drafts: Drafts, prompts, texts: Sequence[np.ndarray], seed: int
) -> np.ndarray:
  """Returns int32[N, n], of each text the try that is as asked and likeliest for the drafter."""
  drafter, scores = models(run.drafter, seed), []
  for text in texts:
    nats = drafter.sequence_nats(*_behind(drafts, prompts, text), num_samples=None, seed=seed)
    asked = [
      words == attributes.FIX or attributes.holds(words, drafter.tokenizer.decode(one))
      for words, one in zip(drafts.guidance, text, strict=True)
    ]
    scores.append(np.where(asked, 0.0, -1e6) - nats)
  return np.stack(texts)[np.argmax(scores, axis=0), np.arange(len(texts[0]))]


def _behind(drafts: Drafts, prompts, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns int32[N, L], texts int32[N, n] behind guidance and prompt, and bool[N, L], where they
  stand."""
  rows = zip(drafts.head, prompts, text, strict=True)
  tokens = np.stack([np.concatenate(parts) for parts in rows]).astype(np.int32)
  place = np.arange(tokens.shape[1]) >= tokens.shape[1] - text.shape[1]
  return tokens, np.broadcast_to(place, tokens.shape)


def _drafts(models: Models, run: ConfigDict, asked: str, seed: int) -> Drafts:
  """The same drafts for all methods of a sweep.

  Raises:
    UserError: the run or `asked` names what is none, or no text is left.
  """
  kind = run.draft if asked == 'refine' else {'control': 'ar', 'neutralise': 'true'}.get(asked)
  if kind is None or (asked == 'refine' and kind not in DRAFTS):
    raise UserError(
      f'asked {asked!r} with draft {run.draft!r}: known are {", ".join(guided.TASKS)}, and of '
      f'refine drafts {", ".join(DRAFTS)}'
    )
  key = 'refinement', asked, kind, seed, run.model, run.num_texts, run.drafter
  if key not in models.kept:
    models.kept[key] = _new_drafts(models, run, asked, kind, seed)
  return models.kept[key]


def _new_drafts(models, run, asked, kind, seed) -> Drafts:
  model = models(run.model, seed)
  tokenizer = model.tokenizer
  texts = models.valid_texts(run.model, seed, run.num_texts)
  size = texts.shape[1] // 2
  prompt, true = texts[:, :-size], texts[:, -size:]
  guidance, kept = [], []
  for i, text in enumerate(true):
    words, _ = guided.guide(asked, text, tokenizer, np.random.default_rng((seed, i)))
    guidance.append(words)
    if asked == 'refine' or words != attributes.FIX:
      kept.append(i)
  draft, right, calls, seconds = true, None, 0, 0.0
  if kind == 'corrupted':
    draft, right = measures.corrupt(true, _CORRUPTED, tokenizer.vocab_size, seed), true
  elif kind == 'ar':
    given = np.broadcast_to(np.arange(texts.shape[1]) < texts.shape[1] - size, texts.shape)
    drafter = models(run.drafter, seed)
    write = lambda: drafter.sample(len(texts), tokens=texts, given=given, seed=seed)  # noqa: E731
    write()  # compiles
    began = time.perf_counter()
    written = write()
    seconds = (time.perf_counter() - began) / len(texts)
    draft = np.array([one.token_ids for one in written], np.int32)[:, -size:]
    calls = written[0].network_calls
  if asked != 'refine':
    kept = [i for i in kept if not attributes.holds(guidance[i], tokenizer.decode(draft[i]))]
  if not kept:
    raise UserError(f'{asked}: every draft is as asked already; take more texts than {len(texts)}')
  guidance = [guidance[i] for i in kept]
  head = [guided.head(tokenizer, words) for words in guidance]
  right = None if right is None else right[kept]
  return Drafts(head, guidance, prompt[kept], draft[kept], right, calls, seconds)


def _judged(models, run, model, seed, prompt, text) -> np.ndarray:
  """float64[N], nats per token of texts int32[N, n] behind prompts int32[N, P]."""
  tokens = np.concatenate([prompt, text], axis=1)
  counted = np.broadcast_to(np.arange(tokens.shape[1]) >= prompt.shape[1], tokens.shape)
  judge = judge_of(models, run.judge, model, seed)
  return judge.sequence_nats(tokens, counted, num_samples=None, seed=seed) / text.shape[1]
