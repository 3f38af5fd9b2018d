"""How much work a token is, and how much a device can do: both by the book, for the share of it
that training reaches (MFU, model FLOPs utilisation)."""

from ml_collections import ConfigDict

from ardiff_jax.models.transformer import TransformerConfig

# FLOP/s of dense bfloat16 matrix products by what JAX calls the device, from the vendors' data
# sheets, which print twice as much for Hopper and Blackwell: with sparsity. Whole names, for a part
# of a device has a longer one ('NVIDIA H100 80GB HBM3 MIG 1g.10gb').
_PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,  # v5p
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA A100-PCIE-40GB': 312e12,
  'NVIDIA A100 80GB PCIe': 312e12,
  'NVIDIA H100 80GB HBM3': 989e12,  # SXM
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA H200': 989e12,
  'NVIDIA B200': 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns the bfloat16 FLOP/s of a device at most; None for one that is not in the table."""
  return _PEAKS.get(device_kind)


def forward_flops_per_token(config: ConfigDict, vocab_size: int) -> float:
  """Returns floating-point operations of the matrix products of one token's forward pass, in which
  every row sees every row."""
  model = TransformerConfig(vocab_size=vocab_size, **config.model)
  width, length = model.model_dim, config.data.length
  projections = 2 * width * (2 * model.num_heads + 2 * model.kv_heads) * model.head_dim
  attention = 4 * length * width
  mlp = 2 * width * model.hidden_dim * (3 if model.activation == 'swiglu' else 2)
  modulation = 2 * model.condition_width * 6 * width if model.conditions else 0
  head = 2 * width * vocab_size
  return model.num_layers * (projections + attention + mlp + modulation) + head


def train_flops_per_token(config: ConfigDict, vocab_size: int) -> float:
  """Returns floating-point operations of a token's forward and backward pass, which costs two.

  Neither what remat computes again is counted, nor the second showing of tokens in a doubled pass.
  """
  return 3 * forward_flops_per_token(config, vocab_size)
