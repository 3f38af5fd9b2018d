"""Takes published checkpoints in, and gives them out.

  python -m ardiff_jax.checkpoints import --from=FILE_OR_DIR --workdir=DIR [--layout=auto]
    [--tokenizer=DIR2] [--num_heads=0] [--config=configs/mdlm.py --config.KEY=VALUE]
  python -m ardiff_jax.checkpoints export --workdir=DIR --to=FILE.safetensors [--layout=auto]

Layouts: hdlm_epsilon, hdlm_gamma, mdlm, sedd, bd3lm, gpt2. The tokenizer is GPT-2's, a folder of
vocab.json and merges.txt; by default that of the file. Without --config the published settings are
taken, but for HDLM's ε and γ, which have to be said; the README lists them.
"""

import pathlib
import sys

from absl import flags

from ardiff_jax import cli
from ardiff_jax.errors import UserError

_FROM = flags.DEFINE_string('from', None, 'Published file, or a folder with one.')
_TO = flags.DEFINE_string('to', None, 'File to write, .safetensors.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Model directory to make or to export.')
_LAYOUT = flags.DEFINE_string('layout', 'auto', 'Of the file; told from its names if it can be.')
_TOKENIZER = flags.DEFINE_string('tokenizer', None, "Folder of GPT-2's vocab.json and merges.txt.")
_NUM_HEADS = flags.DEFINE_integer(
  'num_heads', 0, 'Heads; from the file, or 64 wide, by default.', lower_bound=0
)
_CONFIG = cli.define_config()


def main(what: str) -> None:
  directory = cli.read_workdir(_WORKDIR)
  if what == 'import' and not _FROM.value:
    raise UserError('--from is missing: a file, or a folder with one')
  if what == 'export' and not _TO.value:
    raise UserError('--to is missing, e.g. --to=model.safetensors')
  config = cli.read_config(_CONFIG) if _CONFIG.value is not None else None

  from ardiff_jax.checkpoints import convert

  if what == 'export':
    layout = convert.export_file(directory, pathlib.Path(_TO.value).expanduser(), _LAYOUT.value)
    print(f'wrote {_TO.value}, layout {layout}', file=sys.stderr)
    return
  content = convert.import_file(
    pathlib.Path(_FROM.value).expanduser().absolute(),
    directory,
    layout=_LAYOUT.value,
    tokenizer=pathlib.Path(_TOKENIZER.value).expanduser() if _TOKENIZER.value else None,
    config=config,
    num_heads=_NUM_HEADS.value,
  )
  print(
    f'{content["parameters"]:,} parameters of layout {content["imported"]["layout"]}, '
    f'{content["config"]["model"]["num_heads"]} heads, in {directory}',
    file=sys.stderr,
  )


if __name__ == '__main__':
  cli.run(main, choices=('import', 'export'))
