"""What a sweep can measure of its models, by name.

A task maps (models, run, settings, seed) to the figures of one record: `metrics`, and of revisions
`signals` per step and `edit_map`, the share of texts edited at each step in each part of the text,
and of refinements `examples`.
"""

from ardiff_jax.ablation import orders, perplexities, refinements, revisions

TASKS = {
  'repair': revisions.repair,
  'drafts': revisions.drafts,
  'likelihood': orders.likelihood,
  'perplexity': perplexities.perplexity,
  'released': perplexities.released,
  'infilling': orders.infilling,
  'choices': orders.choices,
  'generation': orders.generation,
  'refine': refinements.refine,
}
