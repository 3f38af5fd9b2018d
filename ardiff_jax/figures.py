"""Writes the pictures of the documentation, or those of a sweep, as PNG and SVG.

  python -m ardiff_jax.figures --out=DIR

hyperschedules    how text comes about under each hyperschedule
noising           how a sentence dissolves under each noising process
masks             who attends to whom: one row of a schedule, aligned and shifted, and training

  python -m ardiff_jax.figures --sweep=WORKDIR --out=DIR

perplexity.md     perplexities by method and text, see `ablation.table1`
quality           what a judge and MAUVE say of generated texts, against their entropy; where the
                  sweep has several groups of them, quality_GROUP of each

With --sweep, nothing else is written, and of these two what the sweep has measured.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from ardiff_jax import cli, hyperschedules, noise, paths, plots, rows
from ardiff_jax import workdir as files
from ardiff_jax.ablation import quality_plots, table1
from ardiff_jax.ablation import records as lib
from ardiff_jax.errors import UserError
from ardiff_jax.models import layouts

_OUT = flags.DEFINE_string('out', None, 'Folder to write to; made if it is not there.')
_SWEEP = flags.DEFINE_string('sweep', None, 'Work directory of a sweep, to write its pictures.')

_GALLERY = (
  hyperschedules.autoregressive(16),
  hyperschedules.block(16, width=4, num_levels=4),
  hyperschedules.hybrid(16, width=4, num_levels=3),
  hyperschedules.slide(16, width=4, num_levels=4),
  hyperschedules.flat(16, num_levels=16),
)


_SENTENCE = 'noise is what the model learns to undo'
_ALPHABET = 'abcdefghijklmnopqrstuvwxyz '
_TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PROCESSES = {
  'absorbing': noise.absorbing(len(_ALPHABET)),
  'uniform': noise.uniform(len(_ALPHABET)),
  'γ-hybrid, γ = 0.3': noise.gamma_hybrid(len(_ALPHABET), gamma=0.3),
  'ε-hybrid, ε = 0.2': noise.epsilon_hybrid(len(_ALPHABET), epsilon=0.2),
}


def write(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the pictures of the documentation and returns their files.

  Raises:
    UserError: the folder cannot be made or written.
  """
  panels = {title: _dissolve(process) for title, process in _PROCESSES.items()}
  figures = {
    'hyperschedules': plots.gallery(_GALLERY),
    'noising': plots.noising(_SENTENCE, panels, _TIMES),
    'masks': plots.masks(_attention()),
  }
  return _save(folder, figures)


def write_sweep(workdir: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the table and the pictures of a sweep and returns their files.

  Raises:
    UserError: `workdir` holds no results, damaged ones, or none that are shown here; or the folder
      cannot be made or written.
  """
  path = workdir / 'results.jsonl'
  if not path.exists():
    raise UserError(f'--sweep={workdir} holds no results.jsonl: it is no work directory of a sweep')
  records = lib.newest(files.read_lines(path))
  done = [record for record in records if not lib.failed(record)]
  figures, texts = {}, {}
  if any(record['task'] in ('perplexity', 'released') for record in done):
    texts['perplexity.md'] = table1.to_markdown(records)
  generated = [record for record in done if record['task'] == 'generation']
  groups = lib.distinct(record.get('group') or '' for record in generated)
  for group in groups:
    name = re.sub(r'\W+', '_', f'quality {group}') if len(groups) > 1 else 'quality'
    part = [record for record in generated if (record.get('group') or '') == group]
    figures[name] = quality_plots.quality_against_diversity(part)
  if not figures and not texts:
    raise UserError(
      f'--sweep={workdir} has no figures of the tasks perplexity, released or generation: of other '
      'tasks, its results.html has tables and pictures'
    )
  return _save(folder, figures, texts)


def _save(
  folder: pathlib.Path, figures: dict[str, Figure], texts: dict[str, str] | None = None
) -> list[pathlib.Path]:
  """Writes texts by file name, and figures by name, as PNG and SVG; returns the files."""
  written = []
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (texts or {}).items():
      written.append(folder / name)
      written[-1].write_text(text, encoding='utf-8')
    for name, figure in figures.items():
      png, svg = folder / f'{name}.png', folder / f'{name}.svg'
      figure.savefig(png, dpi=200)
      svg.write_text(plots.to_svg(figure), encoding='utf-8')
      written += [png, svg]
  except OSError as error:
    raise UserError(f'--out={folder} cannot be written: {error.strerror}') from None
  return written


def _dissolve(process: noise.Process) -> np.ndarray:
  """Returns str[N, L], the sentence at each time, with the same coins at all times."""
  x0 = np.array([_ALPHABET.index(c) for c in _SENTENCE])
  characters = np.array([*_ALPHABET, plots.MASKED])
  times_Nx1 = np.asarray(_TIMES, np.float32)[:, None]
  return characters[np.stack([process.sample(jax.random.key(1), x0, t) for t in times_Nx1])]


def _attention() -> dict[str, plots.MaskPanel]:
  """Returns what the network's rows see: in one row of `block`, aligned and shifted, and in the
  doubled passes of `block` and `slide`."""
  block = hyperschedules.block(12, width=4, num_levels=2)
  slide = hyperschedules.slide(12, width=4, num_levels=4)
  canvas, sigma = jnp.zeros((1, 12), jnp.int32), jnp.zeros((1, 12))
  panels = {}
  for alignment in layouts.ALIGNMENTS:
    rules = layouts.Rules(alignment, 'block_causal', 'full', 0, 0, False)
    layout, _ = layouts.cached(
      rules,
      canvas,
      sigma,
      window=jnp.arange(4, 8),
      step=2,
      cached_step=-1,
      settle_step=jnp.asarray(block.settle_step),
      num_new=4 + rules.shifted,
    )
    panels[f'{alignment}, one step'] = _panel(layout, rules)
  rules = layouts.Rules('aligned', 'block_causal', 'full', 0, 0, False)
  for schedule in (block, slide):
    drawn = rows.tiled(schedule, jnp.asarray([0.4]))
    tiles = rows.tiles(schedule, drawn)
    layout = layouts.tiled(rules, canvas, canvas, sigma, tiles)
    panels[f'training, {schedule.tiling}'] = _panel(layout, rules)
  return panels


def _panel(layout: layouts.Layout, rules: layouts.Rules) -> plots.MaskPanel:
  mask = layout.mask
  num_rows = mask.rank.shape[1]
  slots = np.broadcast_to(np.asarray(layout.positions), mask.rank.shape)[0]
  shown = [str(slot - rules.shifted) if slot >= rules.shifted else 'BOS' for slot in slots]
  allowed = np.asarray(mask.dense()[0])[:, -num_rows:]  # nothing is cached yet
  return plots.MaskPanel(allowed, np.asarray(mask.tile[0] >= 0), shown)


def main() -> None:
  if not _OUT.value:
    raise UserError('--out is missing, e.g. --out=figures')
  folder = pathlib.Path(_OUT.value)
  written = write_sweep(paths.path_of(_SWEEP.value), folder) if _SWEEP.value else write(folder)
  for path in written:
    print(path)


if __name__ == '__main__':
  cli.run(main)
