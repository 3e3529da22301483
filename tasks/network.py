"""A client of the web whose environment may be wrong: what the variables about proxies and certificates say is tried
when it is made, and a line names the one that is at fault.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from core.errors import reason
from methods.core import BadInput

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_OTHERS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "no_proxy")


def client(**settings: Any) -> httpx.Client:
    """`httpx.Client(**settings)`.

    Raises:
      BadInput: a variable of the environment asks for what cannot be done; names it, but not its value, in which a
        password may stand.
    """
    try:
        return httpx.Client(**settings)
    except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
        name = next(_faulty(), "the variables about proxies and certificates")
        raise BadInput(f"{name}: {_why(name, error)}") from error


def through(url: str) -> str:
    """ " through HTTPS_PROXY", where a request to `url` would go through a proxy; else ""."""
    address = httpx.URL(url)
    kind = next((kind for kind in (address.scheme, "all") if kind in getproxies()), None)
    return f" through {_spelled(f'{kind}_proxy')}" if kind and not proxy_bypass(address.host) else ""


def _spelled(name: str) -> str:
    """As the variable is written in the environment: both cases are heeded."""
    return name if name in os.environ else name.upper()


def _faulty() -> Iterator[str]:
    """The variables that alone would make a client fail."""
    for name in _PROXIES:
        if value := os.environ.get(name) or os.environ.get(name.upper()):
            try:
                httpx.HTTPTransport(proxy=value if "://" in value else f"http://{value}", verify=False).close()
            except (ImportError, ValueError, httpx.InvalidURL):
                yield _spelled(name)
    for name in _OTHERS:
        if (value := os.environ.get(name)) and _unusable(name, value):
            yield name


def _unusable(name: str, value: str) -> bool:
    try:
        if name == "SSL_CERT_FILE":
            ssl.create_default_context(cafile=value)
        elif name == "SSL_CERT_DIR":
            ssl.create_default_context(capath=value)
        else:
            for host in value.split(","):
                httpx.URL(f"all://{host.strip()}")
    except (OSError, ValueError, httpx.InvalidURL):
        return True
    return False


def _why(name: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return "a SOCKS proxy needs the package socksio (pip install 'httpx[socks]')"
    if name.startswith("SSL"):
        return f"no certificates can be read from {os.environ[name]} ({reason(error)})"
    if name in ("NO_PROXY", "no_proxy"):
        return "not a list of hosts"
    return "not a proxy's address" if name.lower() in _PROXIES else reason(error)
