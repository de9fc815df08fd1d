"""The names of many images: a sequence of texts, in a fifth of the memory."""

import pickle
import sys

from hypothesis import given
from hypothesis import strategies as st

from fext.data.names import Names, name_from_bytes, name_to_bytes

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
