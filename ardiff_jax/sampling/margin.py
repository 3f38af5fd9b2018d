"""By how much a prediction prefers one text to another, position by position."""

import flax.struct
import jax
import jax.numpy as jnp

from ardiff_jax.models import gate as gate_lib
from ardiff_jax.sampling.steppers import Moved, Stepper


@flax.struct.dataclass
class Margin(Stepper):
  """Moves nothing, and remembers log q[new] - log q[old] of what the network says of each position.

  The canvas hides both, or shows the new: what is asked for has to be masked beforehand.

  Attributes:
    new, old: int32[B, L].
    level: time that a network which is told noise levels is told.
  """

  new: jax.Array
  old: jax.Array
  level: float

  @property
  def told_time(self):
    return self.level

  def memory(self, shape):
    return jnp.zeros(shape)

  def of_examples(self, rows):
    return self.replace(new=self.new[rows], old=self.old[rows])

  def move(self, process, step, logits, bend):
    del process, bend
    log_law = jax.nn.log_softmax(logits)
    new, old = (gate_lib.log_prob(log_law, x[:, step.place]) for x in (self.new, self.old))
    return Moved(step.canvas, new - old)
