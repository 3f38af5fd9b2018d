"""A trained model: load it from a work directory, sample from it, ask it for a likelihood."""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax import rng, workdir
from ardiff_jax.data import pipeline
from ardiff_jax.data.packing import Packed
from ardiff_jax.data.tokenizers import Tokenizer, load_tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import likelihood
from ardiff_jax.evaluation.likelihood import Likelihood
from ardiff_jax.method import Method
from ardiff_jax.sampling.loop import generate
from ardiff_jax.training.checkpointing import restore_ema
from ardiff_jax.training.state import abstract_state, make_optimizer


@dataclasses.dataclass(frozen=True)
class Sample:
  """One generated text.

  Attributes:
    text: prompt included.
    token_ids: L ids, the whole canvas.
    network_calls: calls of the network, for all samples of the batch together.
    redraws: visible tokens that the sampler replaced.
    seconds: wall time of the batch, compilation included.
    sampler: name of the stepper.
    hyperschedule: rows that were descended.
    temperature: of the draws.
    seed: of the batch.
    trace: int[S, L], the canvas after each step (mask = vocab_size); None unless asked for.
  """

  text: str
  token_ids: list[int]
  network_calls: int
  redraws: int
  seconds: float
  sampler: str
  hyperschedule: str
  temperature: float
  seed: int
  trace: np.ndarray | None = dataclasses.field(default=None, repr=False)


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
    prompt: str = '',
    sampler: str | None = None,
    steps: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
    cache: str = 'auto',
    trace: bool = False,
  ) -> list[Sample]:
    """Generates texts of config.data.length tokens, each from its own random key.

    Args:
      num_samples: how many; sample i is the same for every num_samples > i.
      prompt: text all of them start with, kept as it is.
      sampler: 'ancestral' or 'acs'; None for the config's.
      steps: T, noise levels a token passes; None for the config's.
      temperature: divides the logits; 0 takes the most likely token; None for the config's.
      seed: of all random draws.
      cache: 'on' computes keys and values of settled tokens once, 'off' at every call, with the
        same result but for rounding; 'auto' is 'on' where there is something to cache.
      trace: whether to keep the canvas after each step.

    Raises:
      UserError: a value out of range, or a prompt that leaves no room.
    """
    settings = self.config.sampling
    sampler = settings.sampler if sampler is None else sampler
    temperature = settings.temperature if temperature is None else temperature
    steps = settings.steps if steps is None else steps
    if num_samples < 1:
      raise UserError(f'num_samples must be at least 1, got {num_samples}')
    if steps < 1:
      raise UserError(f'steps must be at least 1, got {steps}')
    if not 0.0 <= temperature < math.inf:
      raise UserError(f'temperature must be from 0 up and finite, got {temperature}')
    if not 0 <= seed < 2**32:
      raise UserError(f'seed must be from 0 to 2**32 - 1, got {seed}')
    stepper = method_lib.make_stepper(self.method, sampler, settings.eta)
    schedule = method_lib.make_hyperschedule(self.config, num_levels=steps)
    use_cache = method_lib.choose_cache(self.method, cache)
    tokens_L, given_L = self._canvas(prompt)

    began = time.perf_counter()
    numbers = jnp.arange(num_samples)
    keys = jax.vmap(lambda i: rng.stream(jax.random.key(seed), 'sample', i))(numbers)
    with mesh_lib.use(self.mesh):
      tokens, given, keys = mesh_lib.place_whole(
        self.mesh,
        (np.tile(tokens_L, (num_samples, 1)), np.tile(given_L, (num_samples, 1)), keys),
      )
      result = _generate(
        self.method.denoise,
        self.params,
        self.method.generation_process,
        stepper,
        mesh_lib.repeat(self.mesh, schedule),
        tokens,
        given,
        keys,
        temperature=temperature,
        use_cache=use_cache,
        trace=trace,
      )
      result = jax.device_get(result)
    seconds = time.perf_counter() - began
    return [
      Sample(
        text=self.tokenizer.decode(ids),
        token_ids=ids.tolist(),
        network_calls=int(result.network_calls),
        redraws=int(result.redraws[i]),
        seconds=seconds,
        sampler=sampler,
        hyperschedule=schedule.name,
        temperature=temperature,
        seed=seed,
        trace=result.trace[:, i] if trace else None,
      )
      for i, ids in enumerate(result.tokens)
    ]

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
    report: Callable[[int, str, float], None] | None = None,
  ) -> Likelihood:
    """Returns the likelihood of packed text; arguments as in `likelihood.measure`, where `method`
    may be the model's on another hyperschedule, see `method.on_schedule`."""
    batch_size = min(self.config.eval.batch_size, len(packed))
    return likelihood.measure(
      method or self.method,
      self.params,
      pipeline.eval_batches(packed, batch_size=batch_size),
      num_samples=num_samples,
      seed=seed,
      mesh=self.mesh,
      report=report,
    )

  def _canvas(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns int32[L] tokens and bool[L], which of them are given."""
    length = self.config.data.length
    ids = self.tokenizer.encode(prompt)
    if len(ids) >= length:
      raise UserError(
        f'the prompt has {len(ids)} tokens and the model {length} positions: '
        f'give at most {length - 1}, to leave room for an answer'
      )
    tokens_L = np.zeros(length, np.int32)
    tokens_L[: len(ids)] = ids
    return tokens_L, np.arange(length) < len(ids)


_generate = jax.jit(
  generate, static_argnames=('denoise', 'process', 'stepper', 'use_cache', 'trace')
)


def load(directory: str | os.PathLike) -> Model:
  """Loads the newest checkpoint of a work directory, with its config and tokenizer.

  The parameters are the moving average of training, spread over the devices as config.mesh says
  if it fits them, else repeated on each.

  Raises:
    UserError: the directory is none, or something in it is missing or damaged.
  """
  directory = pathlib.Path(directory).expanduser().absolute()
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
  optimizer, _ = make_optimizer(config.train)
  abstract = abstract_state(method.denoise, optimizer, config.data.length, config.seed, mesh)
  step, params = restore_ema(directory, abstract.ema)
  return Model(config, tokenizer, method, params, step, mesh)
