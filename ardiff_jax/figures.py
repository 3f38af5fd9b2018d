"""Writes the picture of the documentation: how text comes about under each hyperschedule.

  python -m ardiff_jax.figures --out=DIR

DIR/hyperschedules.png and .svg show them side by side.
"""

import pathlib

from absl import flags

from ardiff_jax import cli, hyperschedules, plots
from ardiff_jax.errors import UserError

_OUT = flags.DEFINE_string('out', None, 'Folder to write to; made if it is not there.')

_GALLERY = (
  hyperschedules.autoregressive(16),
  hyperschedules.block(16, width=4, num_levels=4),
  hyperschedules.slide(16, width=4, num_levels=4),
  hyperschedules.flat(16, num_levels=16),
)


def write(folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the gallery and returns its files.

  Raises:
    UserError: the folder cannot be made or written.
  """
  figure = plots.gallery(_GALLERY)
  png, svg = folder / 'hyperschedules.png', folder / 'hyperschedules.svg'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=200)
    svg.write_text(plots.to_svg(figure))
  except OSError as error:
    raise UserError(f'--out={folder} cannot be written: {error.strerror}') from None
  return [png, svg]


def main() -> None:
  if not _OUT.value:
    raise UserError('--out is missing, e.g. --out=figures')
  for path in write(pathlib.Path(_OUT.value)):
    print(path)


if __name__ == '__main__':
  cli.run(main)
