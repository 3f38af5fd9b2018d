"""Files of a run lie on a disk or in a bucket, and are whole."""

import pathlib
import resource

import fsspec
import pytest
from etils import epath
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from ardiff_jax import paths, workdir
from ardiff_jax.data import tokenizers
from ardiff_jax.errors import UserError
from ardiff_jax.training import checkpointing


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A folder that stands for a bucket: what reaches those is fsspec either way."""

  def disk(name, **_):
    assert name == 'gcs'
    return _Bucket(str(tmp_path), LocalFileSystem(auto_mkdir=True))

  monkeypatch.setattr(fsspec, 'filesystem', disk)
  monkeypatch.setattr(paths, '_PACKAGES', {'gs': ('fsspec',)})
  return paths.path_of('gs://bucket')


class _Bucket(DirFileSystem):
  def mkdir(self, *_, **__):
    pass  # there are no folders, but for what is in them

  makedirs = mkdir

  def open(self, path, mode='rb', **kwargs):
    assert 'a' not in mode, 'objects in buckets cannot be appended to'
    return super().open(path.removeprefix('gs://'), mode, **kwargs)

  def _join(self, path):
    return super()._join(path.removeprefix('gs://') if isinstance(path, str) else path)


def places(request, tmp_path):
  return {'disk': tmp_path, 'bucket': request.getfixturevalue('bucket')}


@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_a_work_directory(place, request, tmp_path):
  directory = places(request, tmp_path)[place] / 'runs' / 'one'
  assert not workdir.exists(directory)
  workdir.create(directory)
  content = {'config': {}, 'tokenizer': {}, 'corpus': {}, 'parameters': 3}
  workdir.write(directory, content)
  assert workdir.read(directory) == content
  lines = directory / 'metrics.jsonl'
  assert workdir.read_lines(lines) == []
  for step in (1, 2, 3):
    workdir.append(lines, [{'step': step, 'text': 'ä'}])
  assert [record['step'] for record in workdir.read_lines(lines)] == [1, 2, 3]
  workdir.rewrite(lines, [{'step': 9}])
  assert workdir.read_lines(lines) == [{'step': 9}]
  assert not workdir.is_done(directory)
  workdir.mark_done(directory)
  assert workdir.is_done(directory)
  tokenizer = tokenizers.ByteTokenizer('byte', {'a.txt': b'12'})
  tokenizer.save(directory)
  assert (directory / 'a.txt').read_bytes() == b'12'


@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_damaged_checkpoints_are_set_aside(place, request, tmp_path):
  directory = places(request, tmp_path)[place] / 'run'
  for content in ('first', 'second'):
    (directory / 'checkpoints' / '6').mkdir(parents=True, exist_ok=True)
    (directory / 'checkpoints' / '6' / 'manifest').write_text(content)
    checkpointing.set_aside(directory, [6])
  assert not (directory / 'checkpoints' / '6').exists()
  aside = [(directory / f'damaged_checkpoint_6.{i}' / 'manifest').read_text() for i in (0, 1)]
  assert aside == ['first', 'second']


@pytest.mark.parametrize('place', ['disk', 'bucket'])
def test_a_line_is_never_glued_to_one_that_was_cut_off(place, request, tmp_path):
  lines = places(request, tmp_path)[place] / 'lines.jsonl'
  for cut in ('', '{"step": 1}\n', '{"step": 1}\n{"st', '{"step": 1}\n{"ste": "ä'):
    lines.write_text(cut)
    workdir.append(lines, [{'step': 2}])
    assert lines.read_text() == cut + '\n' * (cut[-1:] not in ('', '\n')) + '{"step": 2}\n'


def test_lines_are_added_whole_or_not_at_all(tmp_path):
  lines = tmp_path / 'lines.jsonl'
  workdir.append(lines, [{'step': 1}])
  whole = lines.read_text()
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, limits[1]))
  try:
    with pytest.raises(OSError, match=f'too large: {str(lines)!r}'):
      workdir.append(lines, [{'step': 2}])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert lines.read_text() == whole


def test_a_file_is_old_or_new(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  paths.write_whole(path, 'old')

  def fail(*_):
    raise OSError('the disk is gone')

  monkeypatch.setattr(pathlib.Path, 'replace', fail)
  with pytest.raises(OSError, match='gone'):
    paths.write_whole(path, 'new')
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_which_paths_there_are(monkeypatch):
  assert paths.path_of('~/x') == pathlib.Path.home() / 'x'
  assert paths.path_of('x') == pathlib.Path.cwd() / 'x'
  with pytest.raises(UserError, match='pip install gcsfs'):
    paths.path_of('gs://bucket/x')
  with pytest.raises(UserError, match='known are directories, gs:// and s3://'):
    paths.path_of('ftp://host/x')
  monkeypatch.setattr(paths, '_PACKAGES', {'gs': ('fsspec',)})
  assert paths.path_of('gs://bucket/x') == epath.Path('gs://bucket/x')
