"""A trained model: load it from a work directory, sample from it, ask it for a likelihood."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import compiled, generation, paths, refinement, samplers, workdir
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.data import pipeline
from ardiff_jax.data.packing import Packed
from ardiff_jax.data.tokenizers import Tokenizer, load_tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import likelihood
from ardiff_jax.evaluation.likelihood import Likelihood
from ardiff_jax.generation import Canvases, Sample
from ardiff_jax.hyperschedules import Hyperschedule
from ardiff_jax.method import Method
from ardiff_jax.refinement import Refined, Text
from ardiff_jax.report import traces
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.training.checkpointing import restore_ema
from ardiff_jax.training.state import abstract_params


@dataclasses.dataclass(frozen=True)
class TextLikelihood:
  """Negative log-likelihood of a text.

  Attributes:
    nats: total.
    tokens: number of tokens.
    bits_per_byte: of the text's UTF-8 bytes.
    kind: 'exact', or 'bound' for an upper bound.
    law: whose law it is of.
  """

  nats: float
  tokens: int
  bits_per_byte: float
  kind: str
  law: str


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A trained model; `load` makes one.

  Attributes:
    config: the experiment.
    tokenizer: text to ids and back.
    method: noise, hyperschedule, denoiser and objective.
    params: moving average of the parameters.
    step: updates they have seen.
    mesh: devices they lie on.
  """

  config: ConfigDict
  tokenizer: Tokenizer
  method: Method
  params: dict
  step: int
  mesh: Mesh

  def sample(
    self,
    num_samples: int = 4,
    prompt: str | Sequence[str] = '',
    *,
    infill: str | None = None,
    tokens: np.ndarray | None = None,
    given: np.ndarray | None = None,
    draft: np.ndarray | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    revision: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    hyperschedule: str | Hyperschedule | None = None,
    own_chain: bool = False,
    length: int | None = None,
    context_length: int | None = None,
    stop: bool = False,
    seed: int | Sequence[int] = 0,
    cache: str = 'auto',
    batch_size: int | None = None,
    trace: bool | int = False,
    report: Callable[[int], None] | None = None,
    **controls: Any,
  ) -> list[Sample]:
    """Generates texts, each from its own random key.

    Args:
      num_samples: how many; sample i is the same for every num_samples > i and batch size.
      prompt: text all of them start with, or one for each.
      infill: instead, a text with gaps of so many tokens: 'A [[12]] B'.
      tokens: instead, int[L] or int[N, L] ids, kept where `given`, bool of the same shape.
      given: goes with `tokens`.
      draft: int[L] or int[N, L], ids (mask = vocab_size) to start from instead of noise.
      sampler: a key of `samplers.TABLE`; None for the config's.
      steps: T, noise levels a token passes; None for the config's.
      eta: η of samplers that correct or mask again; None for the config's.
      revision: of sampler revision, fields of `Revision` other than config.revision's; `truth`
        too, for its doubt 'oracle'.
      temperature: divides the logits; 0 takes the most likely token; None for the config's.
      hyperschedule: other rows than the config's, as 'block,width=4,num_levels=8' or made with
        `ardiff_jax.hyperschedules`, over as many positions as the text has.
      own_chain: whether an ε-hybrid follows its own noise rather than masks.
      length: tokens of the text; None for config.data.length. It may be greater.
      context_length: how many positions back tokens see settled text; 0 for all of it, None as in
        training. A text longer than in training wants one no greater than that.
      stop: whether a text ends with its document; for schedules from left to right.
      seed: of all random draws; or one for each sample, which then is sample 0 of its seed.
      cache: 'on' computes keys and values of settled tokens once, 'off' at every call, with the
        same result but for rounding; 'auto' is 'on' where there is something to cache.
      batch_size: samples at a time; None for all at once.
      trace: True to keep the canvas after each step, or how many of them to keep, evenly spread.
      report: called after every batch with how many samples are done.
      **controls: fields of `Controls`: top_k, top_p, min_p, repetition_penalty, guidance, banned.

    Raises:
      UserError: a value out of range, a combination that is none, or a text that does not fit.
    """
    settings, vocab_size = self.config.sampling, self.tokenizer.vocab_size
    sampler = settings.sampler if sampler is None else sampler
    temperature = settings.temperature if temperature is None else temperature
    for name, value in (('num_samples', num_samples), ('steps', steps), ('length', length)):
      if value is not None and value < 1:
        raise UserError(f'{name} must be at least 1, got {value}')
    if batch_size is not None and batch_size < 1:
      raise UserError(f'batch_size must be at least 1, got {batch_size}')
    seeds = [seed] * num_samples if isinstance(seed, int) else list(seed)
    if len(seeds) != num_samples:
      raise UserError(f'{len(seeds)} seeds for {num_samples} samples: give one, or one each')
    if not all(0 <= x < 2**32 for x in seeds):
      raise UserError(f'seed must be from 0 to 2**32 - 1, got {seed}')
    unknown = sorted(set(controls) - {field.name for field in dataclasses.fields(Controls)})
    if unknown:
      raise TypeError(f'sample() got unexpected keyword arguments {", ".join(unknown)}')
    bending = Controls(temperature=temperature, **controls)
    try:
      bending.check(vocab_size)
    except ValueError as error:
      raise UserError(str(error)) from error

    longest = length or self.config.data.length
    canvases = self._canvases(num_samples, prompt, infill, tokens, given, longest)
    if draft is not None:
      canvases = generation.with_draft(canvases, draft, vocab_size)
    schedule = samplers.rows(
      self.method, self.config, sampler, length=canvases.length, steps=steps, other=hyperschedule
    )
    method = method_lib.on_schedule(self.method, schedule, own_chain, context_length)
    if stop and (schedule.always_active or not schedule.left_to_right):
      raise UserError(
        f'a text can stop where its document ends only if it is written from left to right, not on '
        f'{schedule.name}; supported: autoregressive, block, slide, hybrid, ar_diffusion'
      )
    if stop and (canvases.given[:, 1:] & ~canvases.given[:, :-1]).any():
      raise UserError('a text with gaps has its end: stop is for what follows a prompt')
    if bending.guidance and (
      self.method.is_autoregressive
      or self.method.predicts_scores
      or float(method.generation_process.prior_probs()[-1]) == 0.0
    ):
      raise UserError(
        'guidance compares predictions of x_0 with the prompt and with masks in its place: it '
        'needs a model that was trained on masks and predicts no scores'
      )
    revision = dict(revision or {})
    if revision.get('truth') is not None:
      truth = revision['truth'] = np.asarray(revision['truth'])
      if truth.shape != canvases.tokens.shape or not np.issubdtype(truth.dtype, np.integer):
        raise UserError(
          f'truth must be integers of shape {list(canvases.tokens.shape)}, got '
          f'{truth.dtype}{list(truth.shape)}'
        )
    stepper = samplers.make(
      method, self.config, sampler, eta=eta, revision=revision, params=self.params
    )
    return generation.generate_texts(
      method,
      self.params,
      self.tokenizer,
      stepper,
      canvases,
      controls=bending,
      mesh=self.mesh,
      seeds=seeds,
      numbers=range(num_samples) if isinstance(seed, int) else [0] * num_samples,
      sampler=sampler,
      use_cache=samplers.choose_cache(method, stepper, cache),
      stop=stop,
      batch_size=batch_size,
      trace=schedule.num_steps if trace is True else int(trace),
      report=report,
    )

  def refine(
    self,
    draft: Text | Sequence[Text],
    *,
    prompt: Text | Sequence[Text] = '',
    guidance: Text | Sequence[Text] = '',
    refiner: str | None = None,
    strength: float = 0.4,
    budget: float | None = None,
    keep: Sequence[np.ndarray] | None = None,
    judge: 'Model | None' = None,
    seed: int = 0,
    **sampling: Any,
  ) -> list[Refined]:
    """Edits drafts in place, of whatever origin: what comes later can mend what came before.

    Refiner 'token' noises the draft to time `strength` with the model's own noise and samples from
    there; 'gate' is sampler revision with both thresholds of doubt at 1 - strength;
    'latent' is 'token' for models of latents, whose noise is Gaussian.
    At strength 0 nothing changes. A draft that is too long is refused, none is cut. Every new
    length of prompt and draft compiles once.

    Args:
      draft: one, or several; text or ids, int[n], as the next two.
      prompt: what the drafts continue; one for all, or one each.
      guidance: text in front of the prompt, as a document of its own; likewise.
      refiner: one of `refinement.REFINERS`; None for 'latent' of a model of latents, else 'token'.
      strength: in [0, 1].
      budget: share of a draft's tokens that may change: over it, only the edits stand that the
        model prefers most to what was there, both hidden; None for no limit.
      keep: for each draft, bool of its tokens, which never change; None for none.
      judge: a model of the same tokenizer, to measure drafts and refinements.
      seed: of all draws; a draft's do not depend on those beside it, but on its number.
      **sampling: of `sample`: sampler, steps, revision, temperature, own_chain, top_k, ...; of
        refiner 'latent' sampler (one of `sampling.latents.KINDS`), steps, hyperschedule,
        prompt_scale and guidance_scale, the weights of both conditions, and clamp, the time up to
        which estimates become tokens.

    Raises:
      UserError: an empty draft, one that does not fit, or a value out of range.
    """
    drafts = refinement.texts(draft, 1)
    return refinement.refine(
      self,
      drafts,
      prompts=refinement.texts(prompt, len(drafts)),
      guidances=refinement.texts(guidance, len(drafts)),
      refiner=refiner,
      strength=strength,
      budget=budget,
      keep=keep,
      judge=judge,
      seed=seed,
      **sampling,
    )

  def animation(self, sample: Sample) -> str:
    """Returns HTML that plays the canvases kept of a sample, for notebooks.

    Raises:
      UserError: it has no trace.
    """
    if sample.trace is None:
      raise UserError('the sample has no trace: ask for one with sample(..., trace=True)')
    trace = {'steps': sample.trace_steps, 'canvases': sample.trace.tolist()}
    return traces.player(trace, self.tokenizer)

  def bound(self, text: str, num_samples: int = 64, seed: int = 0) -> TextLikelihood:
    """Returns the negative log-likelihood of a text: exact for AR, an upper bound otherwise.

    A text longer than config.data.length tokens is cut in rows, each on its own but for the last,
    which sees the end of the row before. A shorter one is a schedule of its own length, so every
    new length compiles once.

    Args:
      text: not empty.
      num_samples: rows of the hyperschedule drawn per row of text; unused when exact.
      seed: of those draws.

    Raises:
      UserError: the text is empty.
    """
    stream = np.asarray(self.tokenizer.encode(text), np.int32)
    if not len(stream):
      raise UserError('the text is empty')
    num_bytes = len(text.encode())
    packed = Packed(stream, min(self.config.data.length, len(stream)), num_bytes)
    result = self.likelihood(packed, num_samples=num_samples, seed=seed)
    return TextLikelihood(
      nats=result.nats,
      tokens=result.tokens,
      bits_per_byte=result.bits_per_byte(num_bytes),
      kind=result.kind,
      law=result.law,
    )

  def likelihood(
    self,
    packed: Packed,
    *,
    num_samples: int | None,
    seed: int,
    method: Method | None = None,
    batch_size: int | None = None,
    report: Callable[[int, str, float], None] | None = None,
  ) -> Likelihood:
    """Returns the likelihood of packed text; arguments as in `likelihood.measure`, where `method`
    may be the model's on another hyperschedule, see `method.on_schedule`, and `batch_size` is
    config.eval.batch_size if None."""
    self._check_not_latent()
    batch_size = min(batch_size or self.config.eval.batch_size, len(packed))
    return likelihood.measure(
      method or self.method,
      self.params,
      pipeline.eval_batches(packed, batch_size=batch_size),
      num_samples=num_samples,
      seed=seed,
      mesh=self.mesh,
      report=report,
    )

  def sequence_nats(
    self,
    tokens: np.ndarray,
    counted: np.ndarray,
    *,
    num_samples: int | None,
    seed: int,
    method: Method | None = None,
    batch_size: int | None = None,
    numbers: np.ndarray | None = None,
    report: Callable[[int, str, float], None] | None = None,
  ) -> np.ndarray:
    """Returns float64[N], the nats of the counted tokens of each row, the others being given.

    Args:
      tokens: int32[N, L].
      counted: bool[N, L].
      num_samples, seed, method, report: see `likelihood.measure`.
      batch_size: rows at a time; None for config.eval.batch_size.
      numbers: int[N], what the draws of a row depend on: rows of one number share them, and differ
        by less noise. None for the place of the row.
    """
    self._check_not_latent()
    size = min(batch_size or self.config.eval.batch_size, len(tokens))

    def batches():
      for start in range(0, len(tokens), size):
        rows = np.minimum(np.arange(start, start + size), len(tokens) - 1)
        number = rows if numbers is None else np.asarray(numbers)[rows]
        yield {'tokens': tokens[rows], 'loss_mask': counted[rows], 'number': number}

    nats, _, _ = likelihood.sequence_nats(
      method or self.method,
      self.params,
      batches(),
      num_samples=num_samples,
      seed=seed,
      mesh=self.mesh,
      report=report,
    )
    return nats[: len(tokens)]

  def _check_not_latent(self) -> None:
    if self.method.is_latent:
      raise UserError('a latent refiner refines drafts: it has no likelihood and no samplers')

  def _canvases(self, num_samples, prompt, infill, tokens, given, longest) -> Canvases:
    named = [bool(prompt), infill is not None, tokens is not None]
    if sum(named) > 1 or (tokens is None) != (given is None):
      raise UserError('give one of prompt, infill, and tokens with given')
    if infill is not None:
      return generation.of_infill(self.tokenizer, infill, num_samples, longest)
    if tokens is not None:
      vocab_size = self.tokenizer.vocab_size
      return generation.of_arrays(tokens, given, num_samples, vocab_size, longest)
    prompts = [prompt] * num_samples if isinstance(prompt, str) else list(prompt)
    if len(prompts) != num_samples:
      raise UserError(f'{len(prompts)} prompts for {num_samples} samples: give one, or one each')
    return generation.of_prompts(self.tokenizer, prompts, longest)


def load(directory: str | os.PathLike, checkpoint: str | int = 'newest') -> Model:
  """Loads a checkpoint of a work directory, with its config and tokenizer.

  The parameters are the moving average of training, spread over the devices as config.mesh says
  if it fits them, else repeated on each.

  Args:
    directory: of a run.
    checkpoint: 'newest'; 'best', by the evaluations while training; or a step that was kept.

  Raises:
    UserError: the directory is none, or something in it is missing or damaged.
  """
  compiled.keep()
  directory = paths.path_of(directory)
  description = workdir.read(directory)
  config = ConfigDict(description['config'])
  tokenizer = load_tokenizer(directory, config.tokenizer)
  workdir.check_same_run(
    directory,
    description,
    {
      **description,
      'tokenizer': {'name': tokenizer.name, 'vocab_size': tokenizer.vocab_size},
    },
  )
  method = method_lib.build(config, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id)
  mesh = mesh_lib.fitting_mesh(config.mesh)
  abstract = abstract_params(method, config.data.length, mesh)
  step, params = restore_ema(directory, abstract, checkpoint)
  return Model(config, tokenizer, method, params, step, mesh)
