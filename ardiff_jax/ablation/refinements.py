"""The task refine: drafts of continuations are refined as a guidance asks.

The prompt is the first half of a validation text, and the draft stands where its second half was.
By `asked` of the settings,

  refine      the draft is what `draft` of the run says: the continuation with 15 % of its tokens
              replaced ('corrupted'), or one by the drafter ('ar')
  control     a draft by the drafter, which did not know the attribute of the true continuation
              that the guidance then names; those that have it all the same are left out
  neutralise  the true continuation, to be rewritten in another gender; those in it are left out

Refiner 'ar' of the run is the drafter alone: behind the same guidance it writes as many texts as
`tries` of the settings says, and keeps the one that is as asked and that it finds likeliest. Its
calls are all there are; a refiner's come on top of those of its draft.
"""

import time
from collections.abc import Mapping
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
  """

  head: list[list[int]]
  guidance: list[str]
  prompt: np.ndarray
  draft: np.ndarray
  right: np.ndarray | None
  calls: int


def refine(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`asked` and `strength` or `tries` of the settings, `refiner` of the run say what is done."""
  model = models(run.model, seed)
  drafts = _drafts(models, run, settings['asked'], seed)
  prompts = [prompt[len(head) :] for head, prompt in zip(drafts.head, drafts.prompt, strict=True)]
  if run.refiner == 'ar':
    rewrite = lambda: _written(models, run, drafts, prompts, settings['tries'], seed)  # noqa: E731
  else:

    def rewrite():
      refined = model.refine(
        list(drafts.draft),
        prompt=prompts,
        guidance=drafts.guidance,
        refiner=run.refiner,
        strength=settings['strength'],
        budget=run.get('budget') or None,
        seed=seed,
        **run.get('sampling', ConfigDict()),
      )
      return np.array([one.token_ids for one in refined], np.int32), refined[0].network_calls

  rewrite()  # compiles
  began = time.perf_counter()
  after, calls = rewrite()
  seconds = time.perf_counter() - began
  draft_calls = 0 if run.refiner == 'ar' else drafts.calls
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
    'draft_calls': draft_calls,
    'seconds': seconds / len(after),
  }
  if settings['asked'] != 'refine':
    held = [
      attributes.holds(guidance, decode(text))
      for guidance, text in zip(drafts.guidance, after, strict=True)
    ]
    metrics['success'] = np.mean(held)
  if drafts.right is not None:
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


def _written(models, run, drafts: Drafts, prompts, tries: int, seed: int) -> tuple[np.ndarray, int]:
  """Returns int32[N, n] by the drafter, the best of so many, and its network calls."""
  drafter, size = models(run.drafter, seed), drafts.draft.shape[1]
  tokens = np.stack(
    [np.concatenate(parts) for parts in zip(drafts.head, prompts, drafts.draft, strict=True)]
  ).astype(np.int32)
  counted = np.broadcast_to(np.arange(tokens.shape[1]) >= tokens.shape[1] - size, tokens.shape)
  texts, scores, calls = [], [], 0
  for number in range(tries):
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])  # not that of the drafts
    written = drafter.sample(len(tokens), tokens=tokens, given=~counted, seed=own)
    text = np.array([one.token_ids for one in written], np.int32)
    nats = drafter.sequence_nats(text, counted, num_samples=None, seed=seed)
    texts.append(text[:, -size:])
    asked = [
      words == attributes.FIX or attributes.holds(words, drafter.tokenizer.decode(one))
      for words, one in zip(drafts.guidance, texts[-1], strict=True)
    ]
    scores.append(np.where(asked, 0.0, -1e6) - nats)
    calls += written[0].network_calls
  best = np.argmax(scores, axis=0)
  return np.stack(texts)[best, np.arange(len(tokens))], calls


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
  draft, right, calls = true, None, 0
  if kind == 'corrupted':
    draft, right = measures.corrupt(true, _CORRUPTED, tokenizer.vocab_size, seed), true
  elif kind == 'ar':
    given = np.broadcast_to(np.arange(texts.shape[1]) < texts.shape[1] - size, texts.shape)
    written = models(run.drafter, seed).sample(len(texts), tokens=texts, given=given, seed=seed)
    draft = np.array([one.token_ids for one in written], np.int32)[:, -size:]
    calls = written[0].network_calls
  if asked != 'refine':
    kept = [i for i in kept if not attributes.holds(guidance[i], tokenizer.decode(draft[i]))]
  if not kept:
    raise UserError(f'{asked}: every draft is as asked already; take more texts than {len(texts)}')
  guidance = [guidance[i] for i in kept]
  head = [guided.head(tokenizer, words) for words in guidance]
  return Drafts(
    head, guidance, prompt[kept], draft[kept], None if right is None else right[kept], calls
  )


def _judged(models, run, model, seed, prompt, text) -> np.ndarray:
  """float64[N], nats per token of texts int32[N, n] behind prompts int32[N, P]."""
  tokens = np.concatenate([prompt, text], axis=1)
  counted = np.broadcast_to(np.arange(tokens.shape[1]) >= prompt.shape[1], tokens.shape)
  judge = judge_of(models, run.judge, model, seed)
  return judge.sequence_nats(tokens, counted, num_samples=None, seed=seed) / text.shape[1]
