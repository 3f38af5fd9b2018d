"""What can be told of an English text from its words alone, and the rewriting of gendered words.

A *guidance* is a short text such as `voice: dialogue`, which asks for an attribute:

  voice      dialogue, narration   whether a fifth of the words or more stand in quotation marks
  tense      past, present         which auxiliary verbs there are more of
  sentences  short, medium, long   up to 10, up to 20, or more words a sentence, on average
  gender     male, female, neutral which of the paired words below there are most of
  keyword    a word                that the text has

and `fix`, which asks for nothing but better text. They are rough on purpose: small, the same for
every model, and easily checked by eye.
"""

import re
from collections.abc import Callable

import numpy as np

FIX = 'fix'
GENDERS = 'male', 'female', 'neutral'

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_QUOTED = re.compile(r'[“"][^”"]*[”"]|‘[^’]*’(?!\w)')
# present, past
_TENSES = (
  ('is', 'was'),
  ('are', 'were'),
  ('has', 'had'),
  ('does', 'did'),
  ('can', 'could'),
  ('will', 'would'),
  ('may', 'might'),
  ('am', 'was'),
  ('have', 'had'),
  ('do', 'did'),
)
_PAST_OF = dict(_TENSES)
_PRESENT_OF = {past: present for present, past in reversed(_TENSES)}  # the first wins
_PAST, _PRESENT = frozenset(_PRESENT_OF), frozenset(_PAST_OF)

# male, female, neutral; the first row with a word is how it is rewritten
_PAIRS = tuple(
  tuple(line.split())
  for line in """
    he she they
    him her them
    his her their
    himself herself themself
    man woman person
    men women people
    boy girl child
    boys girls children
    gentleman lady person
    gentlemen ladies people
    father mother parent
    son daughter child
    brother sister sibling
    husband wife spouse
    uncle aunt relative
    nephew niece relative
    king queen monarch
    prince princess royal
    lord lady noble
    sir madam friend
    mr mrs mx
  """.strip().splitlines()
)
_LISTS = {
  gender: frozenset(pair[i] for pair in _PAIRS) - frozenset(x for p in _PAIRS for x in p[i + 1 :])
  for i, gender in enumerate(GENDERS)
}


def words(text: str) -> list[str]:
  """Returns the words of a text in small letters, of letters and inner apostrophes."""
  return [word.lower() for word in _WORD.findall(text)]


def voice(text: str) -> str | None:
  """Returns 'dialogue' or 'narration'; None without words."""
  total = len(words(text))
  quoted = sum(len(words(part)) for part in _QUOTED.findall(text))
  return ('dialogue' if 5 * quoted >= total else 'narration') if total else None


def tense(text: str) -> str | None:
  """Returns 'past' or 'present'; None where neither prevails."""
  found = words(text)
  past, present = (sum(word in verbs for word in found) for verbs in (_PAST, _PRESENT))
  return None if past == present else 'past' if past > present else 'present'


def sentences(text: str) -> str | None:
  """Returns 'short', 'medium' or 'long'; None without words."""
  lengths = [n for part in re.split(r'[.!?]+', text) if (n := len(words(part)))]
  if not lengths:
    return None
  mean = sum(lengths) / len(lengths)
  return 'short' if mean <= 10 else 'medium' if mean <= 20 else 'long'


def gender(text: str) -> str | None:
  """Returns 'male', 'female' or 'neutral'; None where none prevails."""
  found = words(text)
  counts = [sum(word in _LISTS[name] for word in found) for name in GENDERS]
  best = max(counts)
  return GENDERS[counts.index(best)] if best and counts.count(best) == 1 else None


def keyword(text: str, draw: np.random.Generator) -> str | None:
  """Returns one of the words of six letters or more; None if there is none."""
  known = sorted({word for word in words(text) if len(word) >= 6 and "'" not in word})
  return known[draw.integers(len(known))] if known else None


ATTRIBUTES: dict[str, Callable[[str], str | None]] = {
  'voice': voice,
  'tense': tense,
  'sentences': sentences,
  'gender': gender,
}


def holds(guidance: str, text: str) -> bool:
  """Returns whether a text has the attribute that a guidance asks for.

  Raises:
    ValueError: it asks for none.
  """
  name, _, value = guidance.partition(': ')
  if name == 'keyword' and value:
    return value.lower() in words(text)
  if name in ATTRIBUTES and value:
    return ATTRIBUTES[name](text) == value
  known = ', '.join([*ATTRIBUTES, 'keyword'])
  raise ValueError(f"guidance {guidance!r} must be like 'voice: dialogue', of {known}")


def regender(text: str, to: str) -> str:
  """Returns the text with paired words in the form of GENDERS.

  *Her* is taken for *his* before a word, and for *him* elsewhere; verbs are left alone.
  """
  column = GENDERS.index(to)
  forms = {word: pair for pair in reversed(_PAIRS) for word in pair[:2]}

  def other(match: re.Match) -> str | None:
    word = match[0].lower()
    if word == 'her':
      return _PAIRS[2 if re.match(r'\s+\w', text[match.end() :]) else 1][column]
    return forms[word][column] if word in forms else None

  return _rewritten(text, other)


def without(guidance: str, text: str, draw: np.random.Generator) -> str | None:
  """Returns the text rewritten so that it lacks what a guidance asks for; None where that failed.

  Words of another gender or tense, another word for the keyword, quotation marks taken away or put
  around the last third, sentences joined or cut at commas: each leaves the rest as it is.

  Args:
    guidance: that `holds` of the text.
    text: to rewrite.
    draw: of the gender and of the other word.
  """
  name, _, value = guidance.partition(': ')
  if name == 'gender':
    others = [other for other in GENDERS if other != value]
    result = regender(text, others[draw.integers(len(others))])
  elif name == 'keyword':
    others = ' '.join(word for word in words(text) if word != value.lower())
    forms = {value.lower(): keyword(others, draw) or 'something'}
    result = _rewritten(text, lambda match: forms.get(match[0].lower()))
  elif name == 'tense':
    forms = _PRESENT_OF if value == 'past' else _PAST_OF
    result = _rewritten(text, lambda match: forms.get(match[0].lower()))
  elif name == 'voice' and value == 'dialogue':
    result = re.sub('["“”‘]', '', text)  # ’ may be an apostrophe
  elif name == 'voice':
    starts = [match.start() for match in _WORD.finditer(text)]
    start = starts[2 * len(starts) // 3]
    result = f'{text[:start]}“{text[start:].rstrip()}”'
  elif name == 'sentences' and value == 'long':
    result = text.replace(',', '.')
  else:
    result = re.sub(r'[.!?]+(?=.)', ',', text)
  return None if holds(guidance, result) else result


def _rewritten(text: str, other: Callable[[re.Match], str | None]) -> str:
  """Puts other words, given in small letters, in the place of words; None leaves one alone."""

  def rewrite(match: re.Match) -> str:
    new = other(match)
    return match[0] if new is None else new.capitalize() if match[0][0].isupper() else new

  return _WORD.sub(rewrite, text)
