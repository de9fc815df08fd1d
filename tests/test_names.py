"""The names of many images: a sequence of texts, in a fifth of the memory; paths as people give them."""

import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fext.data.names import Names, name_from_bytes, name_to_bytes
from fext.data.spelling import given_path

# What os.fsdecode gives for any bytes: valid text, and lone surrogates for what is not UTF-8.
ANY_NAME = st.binary(max_size=30).map(name_from_bytes)


@given(st.lists(ANY_NAME, max_size=20))
def test_names_are_the_sequence_they_were_made_of(texts: list[str]) -> None:
    names = Names.of(texts)
    assert list(names) == texts
    assert names == texts
    assert names == Names.of(texts)
    assert len(names) == len(texts)
    assert [names[place] for place in range(-len(texts), len(texts))] == texts + texts
    assert names[1:5] == texts[1:5]
    assert names[::-2] == texts[::-2]
    assert names.select([0] * bool(texts)) == texts[:1]
    assert pickle.loads(pickle.dumps(names)) == texts
    assert list(names.iter_bytes()) == [name_to_bytes(text) for text in texts]


def test_other_names_are_not_equal() -> None:
    assert Names.of(["ab", "c"]) != Names.of(["a", "bc"])
    assert Names.of(["a"]) != ["a", "b"]
    assert Names.of(["a"]) != "a"


def test_a_hundred_thousand_names_are_small() -> None:
    texts = [f"folder/image_{number:06}.jpg" for number in range(100_000)]
    assert len(pickle.dumps(Names.of(texts))) < 4_000_000 < sum(map(sys.getsizeof, texts))


@pytest.mark.parametrize(
    "pasted",
    [
        "{}", "  {}\t", "{}\n", "'{}'", '"{}"', '"{}" ', "\u201c{}\u201d", '{}"', "\u202a{}", "file://{}", "file:{}",
    ],
)  # fmt: skip
def test_a_path_is_found_however_it_was_pasted(pasted: str, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    assert given_path(pasted.format(folder)) == folder
    assert given_path(pasted.format(tmp_path / "nothing")).name == "nothing"


@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
def test_a_pasted_path_may_be_escaped_and_is_taken_as_it_stands_where_it_leads_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my photos (1)", "'quoted'", " blank ", "~", "quoted", "blank", "a%20b", "fore\u0302t"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "quoted"))
    assert given_path(f"{tmp_path}/my\\ photos\\ \\(1\\)") == tmp_path / "my photos (1)"
    assert given_path(f"file://{tmp_path}/my%20photos%20(1)") == tmp_path / "my photos (1)"
    for name in ("'quoted'", " blank ", "~", "a%20b"):
        assert given_path(name) == Path(name)
    (tmp_path / "~").rmdir()
    assert given_path("~") == tmp_path / "quoted"
    assert given_path("for\u00eat").is_dir()
