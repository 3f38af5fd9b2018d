"""The notebooks, run from top to bottom at tiny scale."""

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

TINY = (
  '--config.tokenizer.kind=byte --config.data.length=48 --config.model.model_dim=32 '
  '--config.model.num_layers=1 --config.model.num_heads=2 --config.train.batch_size=8 '
  '--config.eval.train_sequences=8'
)


@pytest.mark.parametrize('name', ['first_run', 'watch_a_sample'])
def test_notebook_runs(name, text_file, tmp_path):
  notebook = nbformat.read(ROOT / 'colabs' / f'{name}.ipynb', as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert not any(cell.outputs for cell in code)  # as committed
  (parameters,) = [cell for cell in code if 'parameters' in cell.metadata.get('tags', [])]
  extra = f'{TINY} --config.data.source={text_file}'
  parameters.source = f'workdir, steps, extra = {str(tmp_path / "run")!r}, 2, {extra!r}'
  NotebookClient(notebook, timeout=300, kernel_name='python3').execute(cwd=str(ROOT / 'colabs'))
  outputs = [output for cell in code for output in cell.outputs]
  said = ''.join(output.get('text', '') for output in outputs)
  assert 'error:' not in said and 'Traceback' not in said
  shown = [output.data for output in outputs if 'data' in output]
  if name == 'first_run':
    assert 'this model' in said and any('image/svg+xml' in data for data in shown)
  else:
    assert sum('ardiff-player' in data.get('text/html', '') for data in shown) == 2
