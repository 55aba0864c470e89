"""A table of anybody's to cells: stray quotes, and separators inside quotes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import DataError
from data_prep.datasets import anytable


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error(data):
    with TemporaryDirectory() as place:
        path = Path(place) / "t.csv"
        path.write_bytes(data)
        try:
            cells, rejects = anytable.load(path)
        except DataError as problem:
            assert "expected" in str(problem)
        else:
            assert all(isinstance(cell, str) for cell in cells.to_numpy().ravel())


def test_a_stray_quote_is_named_with_its_line(tmp_path):
    path = tmp_path / "t.csv"
    for text, where in [
        ('a,b\n1,2\n"x"y,3\n', "in line 3 "),
        ('a,b\n1,2\n3,"never\nclosed\n', "in line 3 to 4 "),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=where):
            anytable.load(path)


@pytest.mark.parametrize("header", ['image,"a;b;c"', 'image;"a, b, c"', 'image\t"x|y|z"'])
def test_a_separator_in_quotes_separates_nothing(tmp_path, header):
    mark = header[5]
    (tmp_path / "t.csv").write_text(f"{header}\n1{mark}2\n")
    cells, rejects = anytable.load(tmp_path / "t.csv")
    assert list(cells)[0] == "image" and cells.to_numpy().tolist() == [["1", "2"]] and not rejects
