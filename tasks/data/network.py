"""Clients of the network as the environment asks for them: proxies and certificates are named by its variables."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx

from core.errors import BadInput, reason

PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")  # upper or lower case
Client = TypeVar("Client")


def opened(make: Callable[[], Client]) -> Client:
    """What `make()` makes: a client of httpx, which heeds the environment as it is made.

    Raises:
      BadInput: a variable of the environment cannot be used. Names it; a proxy's value, which may hold a password, is
        not shown.
    """
    if complaint := _certificates():
        raise BadInput(complaint)
    try:
        return make()
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise BadInput(_proxy() or f"cannot open a connection: {reason(error)}") from None


def through(url: str) -> str:
    """ " through HTTPS_PROXY", where a request to `url` goes through a proxy; else ""."""
    address = httpx.URL(url)
    kind = next((kind for kind in (address.scheme, "all") if kind in getproxies()), None)
    if kind is None or proxy_bypass(address.host):
        return ""
    name = f"{kind}_proxy"
    return f" through {name if name in os.environ else name.upper()}"


def _certificates() -> str:
    """What is wrong with the variables that name certificates; "" if nothing is."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            return f"the environment variable SSL_CERT_FILE cannot be used: {file}: {error.strerror or reason(error)}"
    elif folder and not Path(folder).is_dir():
        return f"the environment variable SSL_CERT_DIR cannot be used: {folder}: no such folder"
    return ""


def _proxy() -> str:
    """What is wrong with the variables that name proxies; "" if nothing is."""
    for name in (spelled for upper in PROXIES for spelled in (upper.lower(), upper)):
        address = os.environ.get(name)
        if not address:
            continue
        try:
            httpx.HTTPTransport(proxy=address if "://" in address else f"http://{address}").close()
        except ImportError:
            return f"the environment variable {name} cannot be used: a SOCKS proxy needs pip install 'httpx[socks]'"
        except (ValueError, OSError, httpx.InvalidURL):
            return f"the environment variable {name} cannot be used: it is not http://HOST:PORT, https:// or socks5://"
    for name in ("no_proxy", "NO_PROXY"):
        try:
            for host in os.environ.get(name, "").split(","):
                httpx.URL(f"all://{host.strip()}")
        except httpx.InvalidURL:
            return f"the environment variable {name} cannot be used: it is no list of hosts"
    return ""
