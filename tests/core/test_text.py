"""What a stranger named cannot steer a terminal, and every stream prints everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text import MANY, PLAIN, nearest, printable

ANY = st.text(st.characters(exclude_categories=()))


@given(text=ANY)
def test_printable_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and "\n" not in shown
    assert printable(shown) == shown
    assert text.isprintable() is (shown == text)


def test_what_does_not_print_is_escaped() -> None:
    assert printable("a\x1b[2Jb\n\udcff é") == "a\\x1b[2Jb\\n\\udcff é"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
@given(text=ANY)
def test_every_encoding_takes_every_text(encoding: str, text: str) -> None:
    assert isinstance(text.encode(encoding, PLAIN), bytes)


def test_known_signs_are_spelled_out() -> None:
    assert "76.5 ± 2 → π≤1".encode("ascii", PLAIN) == b"76.5 +- 2 -> \\u03c0<=1"
    assert "±".encode("latin-1", PLAIN) == b"\xb1"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", PLAIN)


def test_the_nearest_name_or_all() -> None:
    assert nearest("vgff", ["fql", "vgf"]) == "did you mean 'vgf'?"
    assert nearest("zzz", ["fql", "vgf"]) == "valid: fql, vgf"
    many = [f"task{number}" for number in range(MANY + 5)]
    assert nearest("zzz", many).endswith("and 5 more (--list)")
