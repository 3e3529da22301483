"""Addresses and proxies that cannot be used: one line, without the passwords in them."""

from __future__ import annotations

import pytest

from methods.core import BadInput
from tasks.data import network
from tasks.judges.chat import Chat, check_address
from tasks.judges.spending import Budget, Price


def chat(url: str = "http://127.0.0.1:9/v1") -> Chat:
    return Chat(url, "", Price(0.0, 0.0), Budget(1.0))


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*network.PROXIES, "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_a_variable_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@[::1")  # the others: tests/tasks/test_network.py
    with pytest.raises(BadInput, match=r"^the environment variable HTTPS_PROXY cannot be used: ") as caught:
        chat()
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://host:99999/v1", "http://host:0/v1", "http://host:port/v1", "http://host/v1#part", "host/v1",
     "http://host/v1?key=word", "http://host/v1?", "http://user:word@host/v1", "http://user:word/more@host/v1",
     "http://user:word@[::1", "http:///v1", "ftp://host/v1", "http://ho st/v1", "http://a..b/v1", "http:\\\\host\\v1",
     f"http://{'a' * 64}.org/v1", "http://host/\nv1", "http://host/\ud800", "x" * 70_000],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_one_line_without_its_password(url: str) -> None:
    with pytest.raises(
        BadInput, match=r"^judge's address '.*': expected http\(s\)://host/path, and any key in"
    ) as caught:
        chat(url)
    assert "word" not in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_addresses_that_can_be_used() -> None:
    for url in ("http://[::1]:8000/v1", "https://bücher.example/v1/", "http://127.0.0.1:65535", "HTTP://host"):
        check_address(url)
    held = chat(" http://127.0.0.1:9/v1/ ")
    assert held.url == "http://127.0.0.1:9/v1/chat/completions"
    held.close()
