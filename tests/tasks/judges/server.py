"""A judge's server on this machine that misbehaves as it is told to."""

from __future__ import annotations

import http.server
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

KEY = "sk-secret-0123456789"
OF_DPO = re.compile(r"(?:Post|Query):\s(.*)\n\n\w+ A:\n(.*)\n\n\w+ B:\n(.*)\n\nFIRST provide", re.S)
LABELS = {'Preferred: <"A" or "B">': "Preferred", 'More helpful: <"A" or "B">': "More helpful"}


class Server:
    """Answers one request after the other as `script` says, each word of it consumed by one request.

    "500"; "429 N" (Retry-After: N seconds); "429 date" (an HTTP date two seconds ahead); "quota"; "filter"; "401" (the
    message repeats the key); "silent" (no answer in time); "drip", "drip headers" (a byte now and then, for ever);
    "reset" (the connection is cut); "json" (half of one); "html", "none" (no choices); "empty"; "vague" (no verdict);
    "says TEXT"; "raw STATUS BODY", word for word; "dear N" (an answer that counts N tokens); "answer", which is also
    what comes after.
    """

    def __init__(self, prefers: Callable[[str, str], str], delay: float = 0.0) -> None:
        self.prefers, self.script, self.delay = prefers, [], delay  # type: ignore[var-annotated]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.open = self.most_open = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                act = server.script.pop(0) if server.script else "answer"
                server.requests.append(body)
                server.headers.append(dict(self.headers))
                server.times.append(time.monotonic())
                server.open += 1
                server.most_open = max(server.most_open, server.open)
            server.closing.wait(server.delay)
            try:
                self.act(act, body)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with server.lock:
                    server.open -= 1

        def act(self, act: str, body: dict[str, Any]) -> None:
            word, _, after = act.partition(" ")
            if word == "429":
                when = formatdate(time.time() + 2, usegmt=True) if after == "date" else after
                self.send({"error": {"message": "slow down"}}, 429, {"Retry-After": when})
            elif word in ("quota", "filter"):
                code = {"quota": "insufficient_quota", "filter": "content_filter"}[word]
                self.send({"error": {"code": code, "message": f"{code}!"}}, {"quota": 429, "filter": 400}[word])
            elif word == "401":
                self.send({"error": {"message": f"Incorrect API key: {self.headers['Authorization']}"}}, 401)
            elif word == "raw":
                status, _, content = after.partition(" ")
                self.send(content, int(status))
            elif word.isdigit():
                self.send({"error": {"message": "oops"}}, int(word))
            elif word == "silent":
                server.closing.wait(10)
            elif word == "drip":
                self.send_response(200)
                self.send_header("X", "") if after else self.end_headers()
                self.flush_headers()
                while not server.closing.wait(0.05):
                    self.wfile.write(b" ")
            elif word == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif word in ("json", "html", "none"):
                self.send({"json": '{"choices": [{"mess', "html": "<html>busy</html>", "none": "{}"}[word])
            else:
                says = {"empty": "", "vague": "Both are fine.", "says": after}.get(word)
                _, first, second = texts(body)
                tokens = int(after) if word == "dear" else 10
                label = LABELS.get(body["messages"][-1]["content"].rpartition("\n")[2], "Verdict")
                verdict = f"Compared.\n{label}: {server.prefers(first, second)}"
                self.send(reply(verdict if says is None else says, tokens))

        def send(self, body: dict[str, Any] | str, status: int = 200, headers: dict[str, str] | None = None) -> None:
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def texts(body: dict[str, Any]) -> list[str]:
    """(prompt, first, second) of a request, by our own templates or the DPO paper's."""
    if len(body["messages"]) > 1:
        return [part.strip() for part in body["messages"][1]["content"].split("=====")[1::2]]
    found = OF_DPO.search(body["messages"][0]["content"])
    return [part.strip() for part in found.groups()] if found else ["", "", ""]


def reply(content: str | None, tokens: int) -> dict[str, Any]:
    """A completion of 100 tokens of prompt and so many of answer."""
    message = {"role": "assistant", "content": content}
    return {"choices": [{"message": message}], "usage": {"prompt_tokens": 100, "completion_tokens": tokens}}


def lines(result: Any) -> list[str]:
    """What a command said, but for what it spent."""
    return [line for line in result.stderr.splitlines() if not line.startswith("spent ")]
