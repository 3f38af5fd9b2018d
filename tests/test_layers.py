"""Modules import downward only."""

import ast
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / 'ardiff_jax'

# Lower layers first; modules of one layer may not import each other, except inside a package.
LAYERS = [
  {'errors', 'rng', 'compiled', 'hyperschedules', 'noise'},
  {'mesh', 'processes', 'paths'},
  {'masks', 'rows', 'divergences', 'workdir', 'data', 'cli', 'tokenwise', 'progress', 'edits'},
  {'models'},
  {'objectives', 'sampling'},
  {'bounds', 'method', 'plots'},
  {'evaluation', 'report', 'samplers'},
  {'training', 'generation'},
  {'refinement'},
  {'model', 'bench', 'checkpoints'},
  {'judging'},
  {'ablation'},
  {'ablate', 'train', 'evaluate', 'sample', 'refine', 'compare', 'figures'},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports_of(path: pathlib.Path) -> set[str]:
  """Top-level parts of ardiff_jax that a file imports."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('ardiff_jax'):
      parts = node.module.split('.')[1:]
      found |= {parts[0]} if parts else {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
      found |= {a.name.split('.')[1] for a in node.names if a.name.startswith('ardiff_jax.')}
  return found


def test_imports_go_down():
  wrong = []
  for path in PACKAGE.rglob('*.py'):
    own = path.relative_to(PACKAGE).with_suffix('').parts[0]
    if own == '__init__':
      continue
    assert own in LEVEL, f'{own} has no place in LAYERS'
    for name in imports_of(path) - {own}:
      if LEVEL[name] >= LEVEL[own]:
        wrong.append(f'{path.relative_to(PACKAGE)} imports {name}')
  assert not wrong


def test_every_layer_is_a_module():
  present = {p.stem for p in PACKAGE.iterdir() if p.suffix == '.py' or (p / '__init__.py').exists()}
  assert set(LEVEL) == present - {'__init__'}
