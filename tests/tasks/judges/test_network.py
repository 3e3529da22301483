"""Proxies and certificates of the environment that cannot be used: one line that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods.core import BadInput
from tasks.judges import network
from tasks.judges.chat import Chat, check_address
from tasks.judges.spending import Budget, Price


def chat(url: str = "http://127.0.0.1:9/v1") -> Chat:
    return Chat(url, "", Price(0.0, 0.0), Budget(1.0))


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*network.PROXIES, "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("socks5://user:word@127.0.0.1:1080", "a SOCKS proxy needs pip install 'httpx[socks]'"),
        ("carrier-pigeon://user:word@coop", "it is not http://HOST:PORT, https:// or socks5://"),
        ("http://user:word@[::1", "it is not http://HOST:PORT"),
    ],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)  # as where it is not installed
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as caught:
        chat()
    assert str(caught.value).startswith(f"the environment variable {name} cannot be used: {why}")
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_hosts_without_a_proxy_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1080")
    monkeypatch.setenv(name, "localhost,[::1")
    with pytest.raises(BadInput, match=f"^the environment variable {name} cannot be used: it is no list of hosts$"):
        chat()


def test_certificates_that_are_gone_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "gone"))
    with pytest.raises(BadInput, match=r"variable SSL_CERT_DIR cannot be used: .*gone: no such folder$"):
        chat()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(BadInput, match=r"variable SSL_CERT_FILE cannot be used: .*gone\.pem: No such file"):
        chat()
    (tmp_path / "gone.pem").write_text("no certificate")
    with pytest.raises(BadInput, match=r"variable SSL_CERT_FILE cannot be used: .*gone\.pem: "):
        chat()


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
