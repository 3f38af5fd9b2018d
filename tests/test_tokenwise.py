"""Losses in slices of tokens: the same values and gradients, and few large arrays live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import hyperschedules, noise
from ardiff_jax.objectives.likelihood import Examples, ScoreEntropy, WeightedCrossEntropy
from ardiff_jax.tokenwise import tokenwise


def weighted_nats(logits, x0, weight):
  log_p = jax.nn.log_softmax(logits)
  return -weight * jnp.take_along_axis(log_p, x0[..., None], axis=-1)[..., 0]


@pytest.mark.parametrize('shape', [(64, 8192), (3, 37, 8192), (2, 2, 1, 300_000), (2, 3, 5)])
def test_slices_give_the_values_and_gradients_of_the_whole(shape):
  """Sizes that slices divide, that they do not, and that are a single slice; to rounding."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.standard_normal(shape), jnp.float32)
  x0 = jnp.asarray(rng.integers(0, shape[-1], shape[:-1]))
  weight = jnp.asarray(rng.random(shape[:-1]), jnp.float32)
  ours, plain = (
    jax.jit(jax.value_and_grad(lambda x, f=f: (f(x) ** 2).sum()))(logits)
    for f in (
      lambda x: tokenwise(weighted_nats, x, x0, weight),
      lambda x: weighted_nats(x, x0, weight),
    )
  )
  np.testing.assert_allclose(ours[0], plain[0], rtol=1e-6)
  np.testing.assert_allclose(ours[1], plain[1], rtol=1e-5, atol=1e-8)
  assert (np.abs(plain[1]).max(axis=-1) > 1e-4).all()  # every token's
  np.testing.assert_allclose(
    tokenwise(weighted_nats, logits, x0, weight), weighted_nats(logits, x0, weight), rtol=1e-6
  )


def test_slices_are_mapped_over_a_batch_axis():
  logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 40, 8192)), jnp.float32)
  x0 = jnp.zeros((2, 40), jnp.int32)
  ours = jax.vmap(lambda *x: tokenwise(weighted_nats, *x))(logits, x0, jnp.ones((2, 40)))
  np.testing.assert_allclose(ours, weighted_nats(logits, x0, jnp.ones((2, 40))), rtol=1e-6)


OBJECTIVES = {
  'mdlm': lambda v: WeightedCrossEntropy(noise.absorbing(v)),
  'epsilon_hybrid': lambda v: WeightedCrossEntropy(noise.epsilon_hybrid(v, 0.1)),
  'sedd_absorbing': lambda v: ScoreEntropy(noise.absorbing(v), head='score'),
  'sedd_uniform': lambda v: ScoreEntropy(noise.uniform(v), head='score'),
  'gamma_hybrid': lambda v: ScoreEntropy(noise.gamma_hybrid(v, 0.1)),
  'gamma_hybrid_settled': lambda v: ScoreEntropy(noise.gamma_hybrid(v, 0.1), settled_weight=0.1),
  'gamma_hybrid_score': lambda v: ScoreEntropy(noise.gamma_hybrid(v, 0.1), head='score'),
  'released': lambda v: ScoreEntropy(noise.gamma_hybrid(v, 0.1), form='released'),
}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_loss_and_its_gradient_hold_two_large_arrays(name):
  """The logits, which are the arguments here, and their gradient; slices add at most 1/8."""
  batch, length, vocab_size = 4, 512, 4096
  objective, schedule = OBJECTIVES[name](vocab_size), hyperschedules.block(length, 64, 64)

  def loss(logits, examples):
    return objective(lambda params, canvas, **kwargs: params, logits, examples, schedule).mean()

  logits = jax.ShapeDtypeStruct((batch, length, vocab_size), jnp.float32)
  examples = Examples(
    jax.ShapeDtypeStruct((batch, length), jnp.int32),
    jax.ShapeDtypeStruct((batch, length), bool),
    jax.ShapeDtypeStruct((batch,), jnp.float32),
    jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch)),
  )
  memory = jax.jit(jax.value_and_grad(loss)).lower(logits, examples).compile().memory_analysis()
  large = 4 * batch * length * vocab_size
  beside = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / large
  assert memory.argument_size_in_bytes >= large
  assert 1.0 <= beside <= 1.125
