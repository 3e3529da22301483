"""An S3 server in a process of its own, and a proxy before it that breaks what it is told to."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

BUCKET = "lab"
SECRET = "hidden-word"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Faults:
    """A TCP proxy: what it is told to do happens to every connection from then on.

    "": nothing; "refuse": nobody listens; "slow": pauses; "mute": takes connections and says nothing; "some": one in
    three is cut at a random place.
    """

    def __init__(self, behind: int) -> None:
        self.behind, self.port = behind, free_port()
        self.mode, self.cuts = "", 0
        self._random, self._server, self._open = random.Random(0), None, set[socket.socket]()
        self._over = False
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", self.port))
        server.listen(64)
        self._server = server
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def now(self, mode: str) -> None:
        was, self.mode = self.mode, mode
        if mode == "refuse":
            self._close()
        elif was == "refuse":
            self.listen()
        for one in list(self._open):  # kept-alive connections would not notice
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        if self._server:
            with suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None

    def close(self) -> None:
        self._over = True
        self._close()

    def _accept(self, server: socket.socket) -> None:
        while not self._over:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        left = self._random.randrange(200, 4000) if self.mode == "some" and self._random.random() < 1 / 3 else -1
        while self.mode == "mute" and not self._over:
            time.sleep(0.05)
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.behind)) as server:
            self._open |= {client, server}
            there = threading.Thread(target=self._pass, args=(client, server, left), daemon=True)
            there.start()
            self._pass(server, client, left)
            there.join(30)
        self._open.discard(client)
        client.close()

    def _pass(self, source: socket.socket, target: socket.socket, left: int) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.mode == "slow":
                    time.sleep(0.1)
                if 0 <= left <= len(data):
                    target.sendall(data[:left])
                    self.cuts += 1
                    for one in (source, target):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
                        one.close()
                    return
                left -= len(data) if left > 0 else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def served(log: Path) -> Iterator[tuple[Faults, Bucket]]:
    """The proxy, and the one bucket of the server behind it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | ENVIRONMENT)
    faults = Faults(port)
    try:
        for _ in range(300):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        bucket = Bucket(port)
        bucket.make()
        yield faults, bucket
    finally:
        faults.close()
        server.send_signal(signal.SIGKILL)
        server.wait()


class Bucket:
    """What the server holds, past the proxy."""

    def __init__(self, port: int) -> None:
        import boto3

        self._client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
                                    aws_access_key_id="x", aws_secret_access_key="x")  # fmt: skip

    def make(self) -> None:
        self._client.create_bucket(Bucket=BUCKET)

    def names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [one["Key"].removeprefix(f"{prefix}/") for page in pages for one in page.get("Contents", [])]

    def read(self, prefix: str, name: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read()
        return body

    def write(self, prefix: str, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)

    def remove(self, prefix: str, name: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}")

    def copied(self, prefix: str, folder: Path) -> Path:
        """All of it as files."""
        for name in self.names(prefix):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.read(prefix, name))
        return folder


def environment(faults: Faults, scratch: Path) -> dict[str, str]:
    """What a user of that server sets."""
    return {**ENVIRONMENT, "AWS_ENDPOINT_URL": faults.url, "VGF_SCRATCH": str(scratch)}


def needed() -> None:
    """Leaves the test out where the S3 extra or its server is not installed."""
    for name in ("s3fs", "moto", "flask", "boto3"):
        pytest.importorskip(name, reason=f"{name} is not installed, so remote storage is not tested")
