import collections
import os
import pathlib
import platform
import shutil
import types

import numpy as np
import pytest

from ardiff_jax.data import corpus
from ardiff_jax.errors import UserError


def load(source, **changes):
  fields = dict(
    valid_source='',
    valid_fraction=0.05,
    tfds_dir='',
    tfds_split='train',
    tfds_valid_split='',
    tfds_text_key='text',
  )
  return corpus.load_corpus(types.SimpleNamespace(source=str(source), **(fields | changes)))


def numbered_lines(count, prefix='line'):
  return ''.join(f'{prefix} {i}\n' for i in range(count))


@pytest.fixture(scope='module')
def builtin():
  return load('builtin')


@pytest.fixture(scope='module')
def names():
  return {text: name for name, text in corpus.builtin_documents().items()}


def test_builtin_is_deterministic(builtin):
  again = load('builtin')
  assert (again.train, again.valid, again.identity) == (
    builtin.train,
    builtin.valid,
    builtin.identity,
  )
  assert builtin.name == 'builtin'
  assert builtin.identity['python'] == platform.python_version()
  assert sum(map(len, builtin.train)) > 5e6


def test_builtin_splits_do_not_overlap(builtin, names):
  assert not set(builtin.train) & set(builtin.valid)
  assert len(set(builtin.train)) == len(builtin.train)
  assert set(builtin.train) | set(builtin.valid) == set(names)
  assert len(builtin.valid) == len(names) // 20


def test_builtin_has_no_tests_tables_or_packages(names):
  banned = {'test', 'tests', 'idle_test', 'encodings', 'site-packages', 'dist-packages'}
  for name in names.values():
    directories = pathlib.PurePosixPath(name).parts[:-1]
    assert not banned.intersection(directories), name
    assert not any(x.startswith('config-') for x in directories), name
  assert 'pydoc_data/topics.py' not in names.values()


def test_builtin_topics_do_not_contain_one_another(names):
  topics = [text for text, name in names.items() if name.startswith('pydoc_data/topics/')]
  if not topics:
    pytest.skip('this interpreter came without documentation topics')
  bodies = [text.split('\n', 3)[-1].strip() for text in topics]
  for i, body in enumerate(bodies):
    assert not any(body in other for j, other in enumerate(topics) if i != j)


def test_builtin_holds_out_of_every_large_directory(builtin, names):
  sizes = collections.Counter(os.path.dirname(name) for name in names.values())
  held_out = {os.path.dirname(names[text]) for text in builtin.valid}
  large = {name for name, size in sizes.items() if size >= 20}
  assert len(large) >= 5
  assert large <= held_out


def test_builtin_works_without_topics(monkeypatch):
  def fail(name):
    raise ImportError(name)

  monkeypatch.setattr(corpus.importlib, 'import_module', fail)
  names = corpus.builtin_documents()
  assert 'os.py' in names
  assert not any(name.startswith('pydoc_data') for name in names)


def test_file_holds_out_its_end_at_a_line_end(tmp_path):
  text = numbered_lines(1000).replace('\n', '\r\n')
  path = tmp_path / 'book.txt'
  path.write_bytes(text.encode())
  result = load(path, valid_fraction=0.1)
  assert result.name == 'book.txt'
  assert result.train[0] + result.valid[0] == text
  assert result.train[0].endswith('\r\n')
  assert len(result.valid[0]) == pytest.approx(0.1 * len(text), rel=0.02)
  assert len(load(path, valid_fraction=0.5).valid[0]) == pytest.approx(0.5 * len(text), rel=0.02)


def test_folder_and_list_give_a_document_a_file(tmp_path):
  for name in ('b.txt', 'a/z.txt', '.hidden.txt', '.git/config'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(numbered_lines(100, name))
  folder = load(tmp_path)
  assert [x.split()[0] for x in folder.train] == ['a/z.txt', 'b.txt']
  assert [x.split()[0] for x in folder.valid] == ['a/z.txt', 'b.txt']
  listed = load(f'{tmp_path}/b.txt, {tmp_path}/a')
  assert [x.split()[0] for x in listed.train] == ['b.txt', 'a/z.txt']
  assert listed.name == 'b.txt,a'
  assert listed.identity['sha256'] != folder.identity['sha256']


def test_path_with_a_comma_is_one_path(tmp_path):
  (tmp_path / 'one, two.txt').write_text(numbered_lines(100))
  assert load(tmp_path / 'one, two.txt').name == 'one, two.txt'


def test_short_files_stay_whole(tmp_path):
  (tmp_path / 'long.txt').write_text(numbered_lines(100))
  (tmp_path / 'short.txt').write_text('a single line without an end')
  result = load(tmp_path)
  assert len(result.train) == 2 and len(result.valid) == 1
  assert result.train[1] == 'a single line without an end'
  with pytest.raises(UserError, match=r'data\.valid_source'):
    load(tmp_path / 'short.txt')


def test_valid_source_is_taken_whole(tmp_path):
  (tmp_path / 'train.txt').write_text('train')
  (tmp_path / 'valid.txt').write_text('valid')
  result = load(tmp_path / 'train.txt', valid_source=str(tmp_path / 'valid.txt'))
  assert (result.train, result.valid) == (('train',), ('valid',))
  with pytest.raises(UserError, match=r'valid\.txt is in both'):
    load(tmp_path, valid_source=str(tmp_path / 'valid.txt'))


def test_identity_follows_the_text(tmp_path):
  path = tmp_path / 'text.txt'
  path.write_text(numbered_lines(100))
  first = load(path).identity
  assert list(first['files']) == [str(path)]
  assert load(path).identity == first
  path.write_text(numbered_lines(100).replace('line 3\n', 'line 4\n'))
  assert load(path).identity != first


def test_bad_text_is_a_plain_error(tmp_path):
  contents = {
    'empty': b'',
    'blank': b' \n\n',
    'binary': b'text\0more',
    'latin1': 'caf\u00e9 au lait'.encode('latin-1'),
  }
  for name, data in contents.items():
    (tmp_path / name).write_bytes(data)
  (tmp_path / 'folder').mkdir()
  expected = {
    'missing': 'missing',
    'empty': 'empty is empty',
    'blank': 'blank is empty',
    'binary': 'binary is binary .NUL at byte 4',
    'latin1': 'latin1 is not UTF-8 at byte 3',
    'folder': 'folder holds no files',
  }
  for name, message in expected.items():
    with pytest.raises(UserError, match=message):
      load(tmp_path / name)
  for name in ('missing', 'empty', 'binary', 'latin1', 'folder'):
    with pytest.raises(UserError, match=name):
      corpus.read_text(tmp_path / name)
  with pytest.raises(UserError, match=r'data\.source is empty'):
    load('')
  with pytest.raises(UserError, match=r'valid_fraction=1\.5'):
    load('builtin', valid_fraction=1.5)


def test_read_text_changes_nothing(tmp_path):
  text = '\ufeffa\r\nb\rc\u2028d\n\n'
  (tmp_path / 'text').write_bytes(text.encode())
  assert corpus.read_text(tmp_path / 'text') == text


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  tfds = pytest.importorskip('tensorflow_datasets')
  directory = tmp_path_factory.mktemp('tfds')

  class ArdiffToy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
      features = {'text': tfds.features.Text(), 'label': np.int64}
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(40), 'test': self._generate_examples(3)}

    def _generate_examples(self, count):
      for i in range(count):
        yield i, {'text': f'größe {i} of {count}', 'label': i}

  ArdiffToy(data_dir=directory, file_format='array_record').download_and_prepare()
  return str(directory)


def test_tfds_holds_out_the_last_documents(tfds_dir):
  result = load('tfds:ardiff_toy', tfds_dir=tfds_dir, valid_fraction=0.1)
  assert result.name == 'ardiff_toy'
  assert len(result.train) == 36 and len(result.valid) == 4
  documents = [*result.train, *result.valid]
  assert sorted(documents) == sorted(f'größe {i} of 40' for i in range(40))
  assert result.identity == {
    'name': 'ardiff_toy',
    'version': '1.2.0',
    'split': 'train',
  }
  assert load('tfds:ardiff_toy', tfds_dir=tfds_dir, valid_fraction=0.1).identity == result.identity


def test_tfds_splits(tfds_dir):
  result = load(
    'tfds:ardiff_toy', tfds_dir=tfds_dir, tfds_split='train[:25%]', tfds_valid_split='test'
  )
  assert len(result.train) == 10
  assert sorted(result.valid) == [f'größe {i} of 3' for i in range(3)]


@pytest.mark.parametrize('damage', ['cut', 'gone'])
def test_tfds_shard_that_is_damaged_is_named(tfds_dir, tmp_path, damage):
  directory = tmp_path / 'copy'
  shutil.copytree(tfds_dir, directory)
  (shard,) = directory.rglob('*toy-train.array_record*')
  if damage == 'gone':
    shard.unlink()
  else:
    shard.write_bytes(shard.read_bytes()[:-100])
  with pytest.raises(UserError, match=f'Cannot read example 0 of {shard}'):
    list(load('tfds:ardiff_toy', tfds_dir=str(directory), valid_fraction=0.1).train)


def test_tfds_mistakes_are_plain_errors(tfds_dir):
  expected = {
    'tfds:ardiff_toi': ({}, 'ardiff_toi not found'),
    'tfds:ardiff_toy': ({'tfds_text_key': 'body'}, "'body'.* it has .*text"),
    'tfds:ardiff_toy:1.2.0': ({'tfds_text_key': 'label'}, 'not text'),
    'tfds:ardiff_toy:*.*.*': ({'tfds_split': 'dev'}, "Unknown split 'dev'"),
  }
  for source, (changes, message) in expected.items():
    with pytest.raises(UserError, match=message) as error:
      load(source, tfds_dir=tfds_dir, **changes)
    assert '\n' not in str(error.value)
