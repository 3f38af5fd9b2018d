"""The faults of `mutations.py` fit the package; whether tests catch them is for that to say."""

import ast

import pytest
from mutations import FAULTS, ROOT, Fault, read_verdict

of_each = pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.name)


def test_there_are_thirty_of_different_names():
  assert len(FAULTS) == len({fault.name for fault in FAULTS}) == 30


@of_each
def test_a_fault_fits_one_place_and_leaves_other_python(fault):
  text = (ROOT / fault.file).read_text()
  faulty = fault.put_into(text)
  assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(text))


@of_each
def test_what_must_catch_it_is_there(fault):
  assert (ROOT / 'tests' / fault.test).is_file()


def test_a_text_that_is_not_there_once_is_refused():
  fault = Fault('twice', 'file.py', 'a', 'b', 'test_file.py')
  assert fault.put_into('x = a') == 'x = b'
  for text in ('x = y', 'a = a'):
    with pytest.raises(ValueError, match=r'file\.py holds [02] times'):
      fault.put_into(text)


@pytest.mark.parametrize(
  'status, output, verdict, by',
  [
    (0, '3 passed in 1.00s\n', 'missed', ''),
    (
      1,
      'FAILED tests/a.py::b[c d-0.5] - assert 1 - 2\n1 failed\n',
      'caught',
      'tests/a.py::b[c d-0.5]',
    ),
    (1, 'FAILED tests/a.py::b\n1 failed\n', 'caught', 'tests/a.py::b'),
    (1, 'ERROR tests/a.py::b\n1 error in 1.00s\n', 'broken', 'status 1: 1 error'),
    (2, 'ERROR tests/a.py - ImportError\n1 error in 1.00s\n', 'broken', 'status 2: 1 error'),
    (-11, '', 'broken', 'status -11'),
  ],
)
def test_only_a_test_that_fails_catches_a_fault(status, output, verdict, by):
  found = read_verdict(status, output)
  assert found[0] == verdict and by in found[1]
