"""Named sets of text: what becomes of their files, and of names and files that are wrong."""

import json
import re

import pytest

from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import sets

PAIRS = {
  'wikitext': [
    (' = M @-@ 82 ( highway ) = \n \n Text . \n', '= M-82 (highway) =\n\nText.\n'),
    (' = = Early life = = \n = = = At sea = = = \n', '== Early life ==\n=== At sea ===\n'),
    ('a hard @-@ shelled crab of 1 @,@ 000 kg', 'a hard-shelled crab of 1,000 kg'),
    ('0 @.@ 7 – 2 @.@ 2 kg in 1986 @,@ \n', '0.7 – 2.2 kg in 1986,\n'),
    ('the " <unk> , " he said ; the " cutter " .', 'the "<unk>," he said; the "cutter".'),
    ('one [ of us ] ( or { two } ) : who ? You !', 'one [of us] (or {two}): who? You!'),
    ("the dogs ' tails , cats ' and a horse 's", "the dogs' tails, cats' and a horse's"),
    ("Orwell 's ' turnspeak ' of dogs", "Orwell's 'turnspeak' of dogs"),
    ("she hadn 't and they 're and WE 'VE", "she hadn't and they're and WE'VE"),
    ("Company ' C ' and the song ' So It Is '", "Company 'C' and the song 'So It Is'"),
    ("in the U.S. ' s law", "in the U.S.'s law"),
    ('$ <unk> @.@ 6 million ; in $ or £', '$<unk>.6 million; in $ or £'),
    ('33 % at 90 ° F , 9 ° 15 ′ 32 ″ S', '33% at 90° F, 9° 15′ 32″ S'),
    ('150 km / h on <unk> / US 2 for US $ 25 @,@ 000', '150 km/h on <unk>/US 2 for US $25,000'),
    ('" Oh . . . well ... no " , said U.S. , etc .', '"Oh . . . well ... no", said U.S., etc.'),
    ('pairs " from the " left , not " all', 'pairs "from the" left, not " all'),
    ('a .22 rifle , ‘ so ’ — a / / b', 'a .22 rifle, ‘ so ’ — a / / b'),
  ],
  'ptb': [
    (" no it was n't black monday ", " no it wasn't black monday "),
    (" we ca n't say it 's $ N or # N a share ", " we can't say it's $N or #N a share "),
    (' $ <unk> million for nervous N investors ', ' $<unk> million for nervous N investors '),
    (r' the N N\/N-point rise of c\*d ', ' the N N/N-point rise of c*d '),
    (" some companies ' stocks ", " some companies' stocks "),
    (' this -lrb- and -LSB- that -RSB- -rrb- ', ' this (and [that]) '),
    (' a -lcb- b -rcb- ', ' a {b} '),
    (" he said , `` never mind . ''", ' he said, "never mind."'),
  ],
  'lm1b': [
    ("I don 't think so , he 'll say .", "I don't think so, he'll say."),
    ('It was titled " Cures & You . "', 'It was titled "Cures & You."'),
    ('a 6-3 , 6-7 ( 5 / 7 ) win -- well-known - now', 'a 6-3, 6-7 (5/7) win -- well-known - now'),
    ('It cost $ 1.5 million or £ 1 at 9 .', 'It cost $1.5 million or £1 at 9.'),
    ('See http : / / www.site.com / path !', 'See http://www.site.com/path!'),
  ],
  'lambada': [
    ("`` did n't you , '' she asked .", '"didn\'t you," she asked.'),
    ('“Yes, it’s me,” he said.\n\n“So?”', '"Yes, it’s me," he said.\n\n"So?"'),
    ("a plain, 'quoted' text. Isn't it? (Yes!)", "a plain, 'quoted' text. Isn't it? (Yes!)"),
    ("a block 'D', an 's' and . . . so", "a block 'D', an 's' and . . . so"),
  ],
  'ag_news': [
    ('China #39;s\nThe world #39;s largest', "China's The world's largest"),
    ('for his  quot;Gyro-Gen, quot; a machine', 'for his "Gyro-Gen," a machine'),
    ('Stocks\nquot;Up  #36;10, quot; at AT amp;T', 'Stocks "Up $10," at AT&T'),
    (r'dwindling\band (\$415 million)', 'dwindling band ($415 million)'),
    ('&lt;b&gt;New&lt;/b&gt;  at Turner   Newall', '<b>New</b> at Turner Newall'),
    ('a plain; text; of so-called news', 'a plain; text; of so-called news'),
  ],
}


@pytest.mark.parametrize('name, raw, text', [(k, *pair) for k, v in PAIRS.items() for pair in v])
def test_tokens_become_ordinary_text_once(name, raw, text):
  detokenise = sets.KNOWN[name].detokenise
  assert detokenise(raw) == text
  assert detokenise(text) == text


@pytest.mark.parametrize('name', ['pubmed', 'arxiv'])
def test_abstracts_stay_as_they_are(name):
  text = 'Rates ( n = 5 ) , of " x " and `` y \'\' @-@ #39;s'
  assert sets.KNOWN[name].detokenise(text) == text


ARTICLES = """ \n = One = \n \n The first , x \n = 3 = \n 4 . \n \n = = Life = = \n \n Long . \n
 \n = Two ( a = b ) = \n \n Short . \n"""


@pytest.mark.parametrize(
  'name, content, documents',
  [
    (
      'wikitext',
      ARTICLES,
      [
        '= One =\n\nThe first, x\n= 3 =\n4.\n\n== Life ==\n\nLong.',
        '= Two (a = b) =\n\nShort.',
      ],
    ),
    ('wikitext', ' = One = \n \n Text . \n', ['= One =\n\nText.']),
    ('wikitext', ' Cut off . \n \n = Two = \n \n Text . \n', ['Cut off.', '= Two =\n\nText.']),
    ('lambada', '{"text": "One . "}\n\n{"text": "“Two”", "id": 2}', ['One.', '"Two"']),
    ('pubmed', 'One.\n\n Two. \nA\u2028B\n', ['One.', 'Two.', 'A\u2028B']),
    ('arxiv', 'One.\nTwo.', ['One.', 'Two.']),
    ('ptb', " no it was n't \n it is \n", ["no it wasn't", 'it is']),
    ('lm1b', 'One .\nTwo !\n', ['One.', 'Two!']),
    (
      'ag_news',
      '"3","One","The ""first"", x #39;s"\n"1", "Two","So, \nso"\n',
      ['One The "first", x\'s', 'Two So, so'],
    ),
  ],
)
@pytest.mark.parametrize('ends', ['\n', '\r\n'])
def test_files_become_documents(tmp_path, name, content, documents, ends):
  """From the standard place and from elsewhere, with line ends of either kind."""
  standard, own = tmp_path / 'sets' / sets.KNOWN[name].path, tmp_path / 'own: file'
  standard.parent.mkdir(parents=True)
  for path in (standard, own):
    path.write_bytes(content.replace('\n', ends).encode())
  assert sets.read(name, tmp_path / 'sets') == documents
  assert sets.read(f'{name}:{own}', tmp_path / 'nowhere') == documents


def test_other_files_are_one_document_as_they_are(tmp_path):
  path = tmp_path / 'a:b.txt'
  path.write_bytes(b' One , two @-@ .\r\n\nThree \n')
  assert sets.read(str(path), tmp_path) == [' One , two @-@ .\r\n\nThree \n']
  assert sets.note(str(path)) == ''


def test_every_set_has_a_note_and_a_place_of_its_own():
  assert all(sets.note(name) == known.note != '' for name, known in sets.KNOWN.items())
  assert 'stand-in' in sets.note('pubmed') and 'stand-in' in sets.note('arxiv')
  assert sets.note('pubmed:articles.txt') == f'read as {sets.KNOWN["pubmed"].form}'
  assert len({known.path for known in sets.KNOWN.values()}) == len(sets.KNOWN) == 7


@pytest.mark.parametrize(
  'name, hint',
  [
    ('wikitext2', 'Did you mean wikitext?'),
    ('PTB', 'Did you mean ptb?'),
    ('agnews:my.csv', 'Did you mean ag_news:my.csv?'),
    ('/nowhere/text.txt', None),
  ],
)
def test_an_unknown_name_is_told_the_known_ones(tmp_path, name, hint):
  with pytest.raises(UserError) as caught:
    sets.read(name, tmp_path)
  message = str(caught.value)
  assert message.startswith(f'{name!r} is neither a text file nor a known set')
  assert 'wikitext, lambada, pubmed, arxiv, ptb, lm1b, ag_news' in message
  assert message.endswith(hint) if hint else 'Did you mean' not in message


def test_a_set_without_its_file_says_where_it_was_looked_for(tmp_path):
  path = re.escape(str(tmp_path / 'ptb' / 'ptb.test.txt'))
  said = rf'ptb has no file {path}: .ARDIFF_DATA, or --data_dir .* ptb:FILE'
  with pytest.raises(UserError, match=said):
    sets.read('ptb', tmp_path)


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('wikitext', b' \n', 'is empty'),
    ('wikitext', b'a\0b', 'is binary'),
    ('ptb', b'caf\xe9', 'is not UTF-8 at byte 3'),
    ('lambada', b'{"text": "a"}\n\n{"txt": "b"}', r'file, line 3 is no \{"text": \.\.\.\}'),
    ('lambada', b'{"text": 5}', 'file, line 1 is no'),
    ('lambada', b'["text"]', 'file, line 1 is no'),
    ('lambada', b'plain text', 'file, line 1 is no'),
    ('lambada', b'{"text": " "}', 'file holds no document of the set lambada'),
    ('ag_news', b'"3","a","b"\n"3","a"\n', 'file, line 2 is no row of class, title and desc'),
    ('ag_news', b'Class,Title,Description\n', 'file, line 1 is no row'),
    ('ag_news', b'"3","a","' + b'x' * 140_000, 'file, line 1 is no row'),
    ('ag_news', b'"3","","\\"\n', 'file holds no document of the set ag_news'),
  ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
  path = tmp_path / 'file'
  path.write_bytes(content)
  with pytest.raises(UserError, match=message):
    sets.read(f'{name}:{path}', tmp_path)


def test_missing_files_and_folders_are_named(tmp_path):
  with pytest.raises(UserError, match=r'nowhere\.txt: No such file'):
    sets.read(f'wikitext:{tmp_path / "nowhere.txt"}', tmp_path)
  with pytest.raises(UserError, match='Is a directory'):
    sets.read(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
  'name, count, first',
  [
    ('wikitext', 60, '= Homarus gammarus =\n\nHomarus gammarus, known as the European lobster or'),
    ('lambada', 5153, 'In my palm is a clear stone, and inside it is a small ivory statuette.'),
    ('pubmed', 1000, 'Programmed cell death (PCD) is the regulated death of cells within an'),
    ('arxiv', 619, 'Mixed precision training (MPT) is becoming a practical technique to'),
  ],
)
def test_real_sets(shared_data, name, count, first):
  documents = sets.read(name, shared_data)
  assert len(documents) == count and documents[0].startswith(first)
  assert all(text == text.strip() != '' for text in documents)


def test_real_wikitext_keeps_its_words_and_no_marks_of_tokens(shared_data):
  raw = (shared_data / 'wikitext-2' / 'valid.txt').read_text()
  documents = sets.read('wikitext', shared_data)
  text = '\n'.join(documents)
  words = re.findall(r'\w+|<unk>', text)
  assert words == re.findall(r'\w+|<unk>', raw)
  assert len(raw.split()) * 0.8 < len(text.split()) < len(words)
  assert '@' not in text and '= =' not in text
  for mark in (' ,', ' ;', ' :', ' ?', ' !', ' )', '( ', " 's ", ' %'):
    assert raw.count(mark) > 20 and mark not in text
  assert all(sets.detokenise_wikitext(x) == x for x in documents)


def test_articles_of_the_real_training_text(shared_data):
  """600, as its release says; 29 lines of lists and formulas look like titles, too."""
  path = shared_data / 'wikitext-2' / 'train.txt'
  text = path.read_text()
  assert len(re.findall(r'(?m)^ = [^=].* = $', text)) == 629
  assert sum(bool(article.strip()) for article in sets.KNOWN['wikitext'].split(text)) == 600


def test_real_lambada_changes_little_but_its_curly_quotes(shared_data):
  lines = (shared_data / 'lambada' / 'lambada_test.jsonl').read_text().splitlines()
  raw = [re.sub('[“”]', '"', json.loads(line)['text']) for line in lines]
  changed = [a for a, b in zip(raw, sets.read('lambada', shared_data), strict=True) if a != b]
  assert 0 < len(changed) < 20
