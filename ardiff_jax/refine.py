"""Refines a draft with a trained diffusion model.

  python -m ardiff_jax.refine --workdir=DIR --draft=TEXT_OR_@FILE | --drafter=DIR [--draft_tokens=N]
    [--prompt=TEXT] [--guidance=TEXT]
    [--refiner=token|gate|latent] [--strength=0.4] [--budget=0.2] [--sampler=acs] [--steps=64]
    [--temperature=1.0] [--prompt_scale=1] [--guidance_scale=1] [--clamp=0.3] [--judge=DIR]
    [--seed=0] [--out=FILE.jsonl]

Prints the refined text and nothing else; what changed, word by word, goes to standard error, and a
line per draft to DIR/refined.jsonl, which DIR/report.html shows, or to --out.
"""

import dataclasses
import os
import pathlib
import sys

from absl import flags

from ardiff_jax import cli, workdir
from ardiff_jax.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_DRAFT = flags.DEFINE_string('draft', None, 'Text to refine, or @FILE that holds it.')
_DRAFTER = flags.DEFINE_string('drafter', None, 'Directory of a model that writes the draft.')
_DRAFT_TOKENS = flags.DEFINE_integer(
  'draft_tokens', None, 'How long a draft it writes; as long as fits by default.', lower_bound=1
)
_PROMPT = flags.DEFINE_string('prompt', '', 'What the draft continues.')
_GUIDANCE = flags.DEFINE_string('guidance', '', 'Text in front of the prompt.')
_REFINER = flags.DEFINE_string('refiner', None, 'How: token, gate or latent.')
_STRENGTH = flags.DEFINE_float('strength', 0.4, '0 leaves the draft as it is, 1 writes it anew.')
_BUDGET = flags.DEFINE_float('budget', None, 'Share of the tokens that may change; all by default.')
_SAMPLER = flags.DEFINE_string('sampler', None, "Of refiner token; the config's by default.")
_STEPS = flags.DEFINE_integer('steps', None, 'Noise levels from 1 to 0; looks of gate.', 1)
_TEMPERATURE = flags.DEFINE_float('temperature', None, 'Divides the logits.', lower_bound=0.0)
_PROMPT_SCALE = flags.DEFINE_float('prompt_scale', None, 'Pull of the prompt, of refiner latent.')
_GUIDANCE_SCALE = flags.DEFINE_float('guidance_scale', None, 'Likewise, of the guidance.')
_CLAMP = flags.DEFINE_float(
  'clamp', None, 'Time up to which an estimate becomes a token, of refiner latent; 0 for never.'
)
_JUDGE = flags.DEFINE_string('judge', None, 'Directory of a model that measures both texts.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all random draws.', lower_bound=0)
_OUT = flags.DEFINE_string('out', None, 'JSON-lines file instead of DIR/refined.jsonl.')


def main() -> None:
  directory = cli.read_workdir(_WORKDIR)
  draft = _read(_DRAFT.value, _DRAFTER.value)
  out = pathlib.Path(_OUT.value) if _OUT.value else directory / 'refined.jsonl'
  file = _file(_DRAFT.value)
  if file and os.path.exists(out) and os.path.samefile(file, out):
    raise UserError(f'{out} is the draft itself: name another file with --out')
  if not out.absolute().parent.is_dir():
    raise UserError(f'--out={out}: there is no folder {out.parent}')

  import ardiff_jax
  from ardiff_jax import edits, refinement, report

  model = ardiff_jax.load(directory)
  judge = ardiff_jax.load(_JUDGE.value) if _JUDGE.value else None
  if draft is None:
    drafter = ardiff_jax.load(_DRAFTER.value)
    draft = refinement.drafted(
      model, drafter, judge, _PROMPT.value, _GUIDANCE.value, _DRAFT_TOKENS.value, _SEED.value
    )
  of_latents = {
    'prompt_scale': _PROMPT_SCALE.value,
    'guidance_scale': _GUIDANCE_SCALE.value,
    'clamp': _CLAMP.value,
  }
  (refined,) = model.refine(
    draft,
    prompt=_PROMPT.value,
    guidance=_GUIDANCE.value,
    refiner=_REFINER.value,
    strength=_STRENGTH.value,
    budget=_BUDGET.value,
    judge=judge,
    seed=_SEED.value,
    sampler=_SAMPLER.value,
    steps=_STEPS.value,
    temperature=_TEMPERATURE.value,
    **{name: value for name, value in of_latents.items() if value is not None},
  )
  print(refined.text, flush=True)  # first: whatever fails from here on, it is not lost
  given = {'prompt': _PROMPT.value, 'guidance': _GUIDANCE.value, 'step': model.step}
  workdir.append(out, [dataclasses.asdict(refined) | given])
  if not _OUT.value:
    report.write(directory)
  print(edits.marked(refined.draft, refined.text), file=sys.stderr)
  judged = ''
  if judge is not None:
    judged = f'{refined.draft_nats:.3f} -> {refined.nats:.3f} nats/token under the judge, '
  print(
    f'{100 * refined.changed:.1f} % of the tokens changed, {judged}{refined.network_calls} network '
    f'calls, {refined.seconds:.1f} s with compilation',
    file=sys.stderr,
  )


def _read(draft: str | None, drafter: str | None) -> str | None:
  """--draft, or what stands in the file that it names; None if a drafter is to write one."""
  if draft is not None and drafter is not None:
    raise UserError('give one of --draft and --drafter')
  if drafter is not None:
    return None
  if draft is None:
    raise UserError(
      "--draft is missing: a text as in --draft='A cat sat', or @FILE; or --drafter=DIR writes one"
    )
  path = _file(draft)
  if path is None:
    return draft
  if not path.is_file():
    raise UserError(f'--draft={draft}: there is no file {path}')
  try:
    return path.read_bytes().decode().removesuffix('\n')
  except UnicodeDecodeError as error:
    raise UserError(f'--draft={draft}: {path} is not UTF-8 text: {error}') from None


def _file(draft: str | None) -> pathlib.Path | None:
  """The file that --draft names; None for a text."""
  is_file = draft is not None and draft.startswith('@')
  return pathlib.Path(draft[1:]).expanduser() if is_file else None


if __name__ == '__main__':
  cli.run(main)
