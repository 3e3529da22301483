"""The key: which variable holds it, and that nothing shows it, however a server writes it."""

from __future__ import annotations

import base64
import html
import random
import string
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.core import BadInput
from tasks.judges.key import check, scrubbed

KEY = "sk-Secret/0123+456789_xyZ"


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ECHOES: dict[str, Callable[[str], str]] = {
    "plain": str, "upper case": str.upper, "lower case": str.lower, "backwards": lambda key: key[::-1],
    "base64": coded, "base64 of the header": lambda key: coded(f"Bearer {key}"),
    "base64 with more": lambda key: coded(f"user:{key}:more"), "base64 in upper case": lambda key: coded(key).upper(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "hexadecimal": lambda key: key.encode().hex(), "percent": lambda key: quote(key, safe=""),
    "all percent": lambda key: "".join(f"%{ord(sign):02X}" for sign in key),
    "JSON": lambda key: "".join(f"\\u{ord(sign):04x}" for sign in key),
    "HTML": lambda key: "".join(f"&#{ord(sign)};" for sign in key), "HTML's names": html.escape,
    "base64 of upper case": lambda key: coded(key.upper()), "base64 of lower case": lambda key: coded(key.lower()),
    "base32": lambda key: base64.b32encode(key.encode()).decode().rstrip("="),
    "base32 with more": lambda key: base64.b32encode(f"user:{key}:more".encode()).decode().rstrip("="),
    "spaced hexadecimal": lambda key: key.encode().hex(" "),
    "hexadecimal with colons": lambda key: key.encode().hex(":"),
    "hexadecimal in upper case": lambda key: key.upper().encode().hex("-").upper(),
    "a list of bytes": lambda key: ", 0x".join(f"{byte:02x}" for byte in key.encode()),
    "first half": lambda key: key[:12], "middle": lambda key: key[6:18], "last half": lambda key: key[-12:],
    "half of base64": lambda key: coded(key)[:16],
}  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES)
def test_an_echo_of_the_key_is_hidden(echo: str) -> None:
    said = f"Incorrect API key: {ECHOES[echo](KEY)}! See the page."
    shown = scrubbed(said, KEY)
    assert shown.startswith("Incorrect API key: ") and shown.endswith("! See the page.")
    left = shown.removeprefix("Incorrect API key: ").removesuffix("! See the page.").split("***")
    assert len(left) == 2 and all(len(some) <= 10 for some in left), "but for what stood around the key"


@given(st.text(alphabet=string.ascii_letters + string.digits + "-_", min_size=8, max_size=80), st.data())
def test_no_eight_characters_of_any_key_are_left(key: str, data: st.DataObject) -> None:
    before, after = (data.draw(st.text(max_size=12)) for _ in range(2))
    start, length = data.draw(st.integers(0, len(key) - 8)), data.draw(st.integers(8, len(key)))
    shown = scrubbed(before + key[start : start + length] + after, key)
    assert not any(key[i : i + 8] in shown for i in range(len(key) - 7))


def test_what_is_not_the_key_stays() -> None:
    answer = "Summary A names İstanbul and the cause; B does not. API keys stay secret.\nVerdict: A"
    draw = random.Random(0)
    for _ in range(20):
        assert scrubbed(answer, "sk-" + "".join(draw.choices(string.ascii_letters + string.digits, k=48))) == answer
    assert scrubbed(answer, "") == answer and scrubbed("EMPTY none", "EMPTY") == "EMPTY none"


@pytest.mark.parametrize(
    "given",
    [KEY, "0123456789abcdef", "AKIAIOSFODNN7EXAMPLE", "ABCDEFGHIJKLMNOPQRST", "abcdefghijklmnop", "hf_abcdefg", "a\0b"],
)  # fmt: skip
def test_a_key_given_instead_of_a_variable_s_name_is_never_repeated(given: str) -> None:
    with pytest.raises(BadInput, match=r"variable that --key-variable names is not set \(it takes the name") as caught:
        check(given)
    assert given not in str(caught.value) and given[:8] not in str(caught.value)


def test_a_variable_s_name_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"the environment variable NO_SUCH_KEY is not set$"):
        check("NO_SUCH_KEY")
    monkeypatch.setenv("my_key2", "x y\n")
    check("my_key2")
    check("")
