"""The objective of an overwrite gate: which tokens of a corrupted text to write anew.

Some tokens of a text, or of a draft of it, are replaced by others; a frozen denoiser looks at it,
and the gate at the denoiser's signals. As in use, a text is looked at several times in a row,
overwritten in between by what the gate has chosen. With y the denoiser's best token, x the token
there and x* the right one, the loss of a position is

  bce               cross-entropy of u against a target:
                      canvas_wrong  x ≠ x*
                      pred_wrong    y ≠ x*
                      benefit       x ≠ x* and y = x*
  marginal          -log((1-p)·[x = x*] + p·q(x*) + 1e-6), the exact loss of one overwriting step
  relaxed           the same of a relaxed Bernoulli σ((logit p + logistic noise)/τ) for p
  straight_through  the same of whether it is above ½, with the gradient of the relaxed one

plus λ_s·p and λ_v·|p_t - p_{t-1}|, which keep edits few and steady. (Dynamic overwrite gate,
Prith-ML; relaxed Bernoulli: arXiv 1611.00712.)

Shapes: B batch, L length, V vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from ardiff_jax import rng
from ardiff_jax import rows as rows_lib
from ardiff_jax.hyperschedules import Hyperschedule, Region
from ardiff_jax.models import gate as gate_lib
from ardiff_jax.models.denoiser import Denoiser
from ardiff_jax.models.gate import Gate
from ardiff_jax.noise import EpsilonHybrid, GammaHybrid, Uniform
from ardiff_jax.objectives.likelihood import Examples, WeightedCrossEntropy

LOSSES = ('bce', 'marginal', 'relaxed', 'straight_through')
TARGETS = ('canvas_wrong', 'pred_wrong', 'benefit')

_FLOOR = 1e-6


@dataclasses.dataclass(frozen=True)
class OverwriteGate:
  """The loss of a gate under params['gate'], the denoiser's being the rest.

  Attributes:
    process: noise of the denoiser, of a kind for which visible tokens are trained.
    gate: the module.
    loss: one of LOSSES.
    target: of 'bce', one of TARGETS.
    corrupted: greatest share of tokens replaced; each text's is uniform from 0.
    looks: how many in a row; the first is the t-th of `num_visits`, t uniform.
    sparsity: λ_s.
    variation: λ_v.
    relaxation: τ of the relaxed Bernoulli.
    denoising_weight: of the denoiser's own cross-entropy, which then is tuned along, by the gate's
      loss too; 0 freezes it.
    num_visits: T of the revisions it is trained for, config.revision.steps. As the rest, it is what
      config.revision says:
    alpha, delta, prior_scale, ratio, lead, level: see `Revision`.
  """

  process: EpsilonHybrid | GammaHybrid | Uniform
  gate: Gate
  loss: str = 'bce'
  target: str = 'canvas_wrong'
  corrupted: float = 0.3
  looks: int = 2
  sparsity: float = 0.0
  variation: float = 0.0
  relaxation: float = 1.0
  denoising_weight: float = 0.0
  num_visits: int = 8
  alpha: float = 1.0
  delta: float = 0.5
  prior_scale: float = 0.15
  ratio: float = 1.2
  lead: float = 0.1
  level: float = 0.15

  def __post_init__(self):
    if self.gate is None:
      raise ValueError('objective overwrite_gate needs config.gate.kind, linear or learned')
    if not isinstance(self.process, EpsilonHybrid | GammaHybrid | Uniform):
      raise ValueError(
        'objective overwrite_gate needs a denoiser that was trained on wrong tokens: noise '
        f'epsilon_hybrid, gamma_hybrid or uniform, got {type(self.process).__name__}'
      )
    for name, known in (('loss', LOSSES), ('target', TARGETS)):
      if getattr(self, name) not in known:
        raise ValueError(f'{name} {getattr(self, name)!r} must be one of {", ".join(known)}')
    for name, low in (('looks', 1), ('num_visits', 1), ('sparsity', 0), ('variation', 0)):
      if not getattr(self, name) >= low:
        raise ValueError(f'{name} must be at least {low}, got {getattr(self, name)}')
    if not 0.0 < self.corrupted <= 1.0 or not self.relaxation > 0.0:
      raise ValueError(
        f'corrupted must be in (0, 1] and relaxation above 0, got {self.corrupted} and '
        f'{self.relaxation}'
      )
    if not self.denoising_weight >= 0.0:
      raise ValueError(f'denoising_weight must be at least 0, got {self.denoising_weight}')
    if self.denoising_weight and not isinstance(self.process, EpsilonHybrid):
      raise ValueError(
        'denoising_weight tunes a denoiser by weighted cross-entropy: noise epsilon_hybrid'
      )

  @property
  def trained(self) -> tuple[str, ...]:
    """Collections of the parameters that are trained; the others are frozen."""
    return ('params', 'gate') if self.denoising_weight else ('gate',)

  def __call__(
    self,
    denoise: Denoiser,
    params: dict,
    examples: Examples,
    hyperschedule: Hyperschedule,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L], the mean over the looks."""
    if not self.denoising_weight:
      params = params | {'params': jax.lax.stop_gradient(params['params'])}
    draws = jax.vmap(self._draw, (0, 0, None))(examples.keys, examples.tokens, self.looks)
    rows = rows_lib.one_row(hyperschedule, examples.uniform)
    regions = hyperschedule.regions(rows.step[:, 0])
    free = (regions == Region.ACTIVE) & examples.counted
    canvas = jnp.where(free & draws['is_wrong'], draws['token'], examples.shown(free))
    told_time = jnp.where(free, self.level, 0.0)
    shown = dict(
      sigma=self.process.sigma(told_time),
      regions=regions,
      settle_step=hyperschedule.settle_step,
    )
    place = jnp.cumsum(free, axis=1) - 1.0
    width = jnp.maximum(free.sum(axis=1, keepdims=True), 1)
    loss, before, p_before = 0.0, None, None
    for number in range(self.looks):
      visit = jnp.minimum(draws['visit'][:, None] + number, self.num_visits).astype(jnp.float32)
      outputs = jnp.arange(canvas.shape[1])
      features = denoise.features(params, canvas, **shown, outputs=outputs)
      log_law = jax.nn.log_softmax(denoise.project(params, features))
      told = jax.lax.stop_gradient(log_law)  # signals are read; the denoiser learns by the rest
      signals, guesses = gate_lib.look(told, canvas, before, visit == 1.0)
      prior = self.prior_scale * gate_lib.maturity_prior(
        place, visit, width, self.num_visits, alpha=self.alpha, delta=self.delta
      )
      logit = self.gate.apply(
        {'params': params['gate']},
        features.x,
        signals,
        free,
        place / width,
        visit / self.num_visits,
        prior,
      )
      p = gate_lib.noisy_or(jax.nn.sigmoid(logit), prior)
      noise = draws['logistic'][:, number]
      loss += self._loss(logit, p, noise, canvas, guesses.best, log_law, examples.tokens)
      loss += self.sparsity * p
      if p_before is not None:
        loss += self.variation * jnp.abs(p - p_before)
      chosen = free & (draws['coin'][:, number] < p)
      chosen &= gate_lib.acceptable(told, canvas, guesses.best, 'both', self.ratio, self.lead)
      canvas = jnp.where(chosen, guesses.best, canvas)
      before, p_before = guesses, p
    loss = jnp.where(free, loss / self.looks, 0.0)
    if not self.denoising_weight:
      return loss
    keys = jax.vmap(lambda key: rng.stream(key, 'denoise'))(examples.keys)
    own = WeightedCrossEntropy(self.process)
    nats = own(denoise, params, examples._replace(keys=keys), hyperschedule, dropout_key)
    return loss + self.denoising_weight * nats

  def _draw(self, key: jax.Array, tokens: jax.Array, looks: int) -> dict:
    """All random draws of one example."""
    named = lambda name: rng.stream(key, name)  # noqa: E731
    share = self.corrupted * jax.random.uniform(named('share'))
    return {
      'is_wrong': jax.random.uniform(named('wrong'), tokens.shape) < share,
      'token': jax.random.randint(named('token'), tokens.shape, 0, self.process.vocab_size),
      'visit': jax.random.randint(named('visit'), (), 1, self.num_visits + 1),
      'coin': jax.random.uniform(named('coin'), (looks, *tokens.shape)),
      'logistic': jax.random.logistic(named('logistic'), (looks, *tokens.shape)),
    }

  def _loss(self, logit, p, noise, canvas, best, log_law, right):
    if self.loss == 'bce':
      wrong = {
        'canvas_wrong': canvas != right,
        'pred_wrong': best != right,
        'benefit': (canvas != right) & (best == right),
      }[self.target]
      return optax.sigmoid_binary_cross_entropy(logit, wrong.astype(jnp.float32))
    if self.loss == 'marginal':
      chance = p
    else:
      hard, soft = relaxed_bernoulli(p, noise, self.relaxation)
      chance = soft if self.loss == 'relaxed' else soft + jax.lax.stop_gradient(hard - soft)
    at_right = jnp.exp(gate_lib.log_prob(log_law, right))
    return -jnp.log((1.0 - chance) * (canvas == right) + chance * at_right + _FLOOR)


def relaxed_bernoulli(
  p: jax.Array, logistic: jax.Array, relaxation: float
) -> tuple[jax.Array, jax.Array]:
  """Returns a draw of chance p, 0 or 1, and its smooth stand-in; float32 like p.

  Args:
    p: chances, in (0, 1).
    logistic: as many draws from the standard logistic law.
    relaxation: τ; towards 0 both are one.
  """
  p = jnp.clip(p, 1e-6, 1.0 - 1e-6)
  soft = jax.nn.sigmoid((jnp.log(p) - jnp.log1p(-p) + logistic) / relaxation)
  return (soft > 0.5).astype(soft.dtype), soft
