from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshca.store.texts import storable


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_storable_and_what_was_storable_stays_as_it_is(text: str) -> None:
    found = storable(text)
    assert "\0" not in found
    assert found.encode().decode() == found
    assert storable(found) == found


def test_nul_and_lone_surrogates_become_escapes() -> None:
    assert storable("a\0\ud800ü") == "a\\x00\\ud800ü"
