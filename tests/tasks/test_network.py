"""Variables about proxies and certificates that are wrong: named in one line, without what stands in them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx
import pytest
import tenacity

from methods.core import BadInput
from tasks.data import download, network

VARIABLES = [name for one in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
             for name in (one, one.upper())]  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def refused(url: str, place: Path) -> str:
    """The line that says why nothing came; nothing is left behind but a lock."""
    with pytest.raises(BadInput) as caught:
        download.fetch([url], place / "a.npz", wait=tenacity.wait_none())
    assert {path.suffix for path in place.iterdir()} <= {".lock", ".pem"}
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ALL_PROXY", "socks5://user:secret@host:1", "ALL_PROXY cannot be used: a SOCKS proxy needs pip install"),
        ("https_proxy", "socks4a://host:1", "https_proxy cannot be used: it is not http://HOST:PORT"),
        ("HTTPS_PROXY", "http://user:secret@[::1", "HTTPS_PROXY cannot be used: it is not http://HOST:PORT"),
        ("HTTP_PROXY", "http://user:secret@host:port", "HTTP_PROXY cannot be used: it is not http://HOST:PORT"),
        ("all_proxy", "carrier-pigeon://user:secret@coop", "all_proxy cannot be used: it is not http://HOST:PORT"),
        ("no_proxy", "localhost,[::1", "no_proxy cannot be used: it is no list of hosts"),
        ("HTTPS_PROXY", "ftp://secret", "HTTPS_PROXY cannot be used: it is not http://HOST:PORT"),
        ("NO_PROXY", "[::1", "NO_PROXY cannot be used: it is no list of hosts"),
        ("SSL_CERT_FILE", "/gone/a.pem", "SSL_CERT_FILE cannot be used: /gone/a.pem: No such file"),
        ("SSL_CERT_DIR", "/gone", "SSL_CERT_DIR cannot be used: /gone: no such folder"),
    ],
)
def test_what_no_client_can_be_made_with_is_named(monkeypatch, tmp_path, name, value, line):
    if "socks" in value:
        monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, value)
    assert refused("https://host.invalid/a.npz", tmp_path).startswith(f"the environment variable {line}")


def test_a_certificate_file_that_is_none_is_named(monkeypatch, tmp_path):
    (tmp_path / "ca.pem").write_text("nonsense")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    line = refused("https://host.invalid/a.npz", tmp_path)
    assert line.startswith(f"the environment variable SSL_CERT_FILE cannot be used: {tmp_path}/ca.pem: ")


@pytest.mark.parametrize(
    ("name", "value", "scheme"),
    [("HTTPS_PROXY", "nonsense.invalid", "https"), ("http_proxy", "http://user:secret@127.0.0.1:9", "http"),
     ("ALL_PROXY", "http://127.0.0.1:9", "https"), ("HTTP_PROXY", "http://127.0.0.1:99999", "http"),
     ("HTTPS_PROXY", "http://" + "x" * 300, "https")],
)  # fmt: skip
def test_what_cannot_be_reached_through_a_proxy_names_it(monkeypatch, tmp_path, name, value, scheme):
    monkeypatch.setenv(name, value)
    line = refused(f"{scheme}://host.invalid/a.npz", tmp_path)
    assert line.startswith("missing download: a.npz (host.invalid: ") and line.endswith(f" through {name})")


def test_hosts_that_need_no_proxy_are_not_said_to_use_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    line = refused("http://127.0.0.1:9/a.npz", tmp_path)
    assert "through" not in line and not os.environ.get("HTTPS_PROXY")


def test_a_client_is_a_client():
    with network.opened(lambda: httpx.Client(timeout=3.0)) as session:
        assert session.timeout.read == 3.0
