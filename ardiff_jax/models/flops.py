"""Floating-point operations of the network, counted from its config."""

from ml_collections import ConfigDict

from ardiff_jax.models.transformer import TransformerConfig


def forward_flops_per_token(config: ConfigDict, vocab_size: int) -> float:
  """Returns floating-point operations of the matrix products of one token's forward pass."""
  model = TransformerConfig(vocab_size=vocab_size, **config.model)
  width, length = model.model_dim, config.data.length
  projections = 2 * width * (2 * model.num_heads + 2 * model.kv_heads) * model.head_dim
  attention = 4 * length * width
  mlp = 2 * width * model.hidden_dim * (3 if model.activation == 'swiglu' else 2)
  modulation = 2 * (width // 4) * 6 * width if model.conditioning == 'adaln' else 0
  head = 2 * width * vocab_size
  return model.num_layers * (projections + attention + mlp + modulation) + head
