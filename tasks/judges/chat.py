"""Chat completions of an OpenAI-compatible server that may be busy, slow or broken: one question, one answer.

The key is read from its environment variable as each request is sent. No object here holds it, and what a server says
is shown and kept without it (`key.py`).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import tenacity

from core import strict_json
from core.errors import BadInput
from core.text import printable
from tasks.data.network import opened
from tasks.judges import key
from tasks.judges.spending import Budget, Kept, Price, Usage
from tasks.language.core import UNFINISHED, whole_characters

ATTEMPTS = 6  # at a server that fails
ANSWERS = 3  # of them may be useless
LONGEST = 300.0  # seconds that a server may ask to wait
LARGEST = 1 << 20  # bytes of an answer
COMPLAINT = 1 << 13  # bytes of an error that are read: it takes a while to look through more for the key
MOST_TOKENS = 1 << 31  # that a request may ask for, or a server count
WAIT = tenacity.wait_exponential_jitter(initial=1, max=60)  # seconds, where the server does not say

Body = Mapping[str, Any]


class Unreachable(Exception):
    """No answer in `ATTEMPTS` attempts; another time there may be one."""


class _TryAgain(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after  # seconds, as the server asked


class _Useless(Exception):
    """An answer that is none."""

    def __init__(self, answer: str = "") -> None:
        super().__init__(answer)
        self.answer = answer


class _Key(httpx.Auth):
    """Adds the key to each request, from the environment."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {key.of(self.variable)}"
        yield request


class Chat:
    """A server's chat completions, within a budget. `ask` may be called from several threads."""

    def __init__(
        self,
        base_url: str,
        key_variable: str,
        price: Price,
        budget: Budget,
        timeout: float = 60.0,
        wait: tenacity.wait.wait_base = WAIT,
    ) -> None:
        """`timeout`: seconds for a whole answer. `key_variable`: "" for a server that wants no key.

        Raises: BadInput for an address or a key that cannot be used.
        """
        base_url = base_url.strip()
        self.host = check_address(base_url).host
        key.check(key_variable)
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.key_variable, self.price, self.budget = key_variable, price, budget
        self.stopping = threading.Event()
        self._timeout, self._wait = timeout, wait
        self._quiet_until = 0.0  # monotonic: a server that asked one of us to wait means all of us
        limits, auth = httpx.Timeout(None, connect=10.0), _Key(key_variable) if key_variable else None
        self._client = opened(lambda: httpx.AsyncClient(auth=auth, timeout=limits))
        # A loop of its own, since only there one deadline bounds a whole exchange: connection, headers and content.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(self, body: Body, usable: Callable[[str], bool]) -> Kept:
        """The answer to one request, and the tokens of all attempts at it; what was answered last, if nothing usable.

        Raises:
          Unreachable: the server failed at every attempt, or `stopping` was set.
          OverBudget: the next attempt could exceed the budget.
          BadInput: the server refuses, in a way that asking again would not change, or charges for more tokens than
            `bound` allows.
        """
        paid: list[Usage] = []
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_TryAgain, _Useless)), stop=self._enough, wait=self._pause,
            sleep=tenacity.sleep_using_event(self.stopping), reraise=True,
        )  # fmt: skip
        try:
            answer = retrying(self._attempt, body, usable, paid)
        except _Useless as error:
            if self.stopping.is_set():
                raise Unreachable("stopped") from None
            answer = error.answer
        except _TryAgain as error:
            raise Unreachable(str(error)) from None
        total = Usage()
        for one in paid:
            total = total.plus(one)
        return Kept(answer, total)

    def _enough(self, state: tenacity.RetryCallState) -> bool:
        useless = state.outcome is not None and isinstance(state.outcome.exception(), _Useless)
        return self.stopping.is_set() or state.attempt_number >= (ANSWERS if useless else ATTEMPTS)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return max(float(self._wait(state)), getattr(error, "after", None) or 0.0)

    def _attempt(self, body: Body, usable: Callable[[str], bool], paid: list[Usage]) -> str:
        """One attempt. What it cost is settled with the budget; of answers, their tokens are added to `paid`."""
        self.stopping.wait(max(0.0, self._quiet_until - time.monotonic()))
        if self.stopping.is_set():
            raise _TryAgain("stopped")
        most = bound(body)
        with self.budget.call(self.price.of(most)) as cost:
            if self.stopping.is_set():  # while this waited for money
                cost.append(0.0)
                raise _TryAgain("stopped")
            # An exchange that breaks off may have been answered and charged, so it counts as the most it can cost.
            status, headers, content = self._exchange(body, cost)
            if status != 200:
                cost.append(0.0)
                content = self._scrubbed(content[:COMPLAINT].decode(errors="replace")).encode()  # shown, if anything
                return self._refused(status, headers, content)
            answer, usage = _read(content)
            paid.append(usage or most)
            cost.append(self.price.of(paid[-1]))
        if cost[0] > self.price.of(most):
            counted, possible = (f"{one.prompt} + {one.completion}" for one in (paid[-1], most))
            raise BadInput(f"judge at {self.host}: it counts {counted} tokens where {possible} are the most there are; "
                           "--max-cost cannot be kept")  # fmt: skip
        if answer is None:
            raise _TryAgain("an answer that is no completion")
        answer = self._scrubbed(answer)
        if not usable(answer):
            raise _Useless(answer)
        return answer

    def _exchange(self, body: Body, cost: list[float]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and content, all of it within the time-out, however slowly it drips."""
        try:
            return asyncio.run_coroutine_threadsafe(self._send(body), self._loop).result()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            cost.append(0.0)
            raise _TryAgain(f"cannot connect ({_line(error)})") from None
        except TimeoutError:
            raise _TryAgain(f"no answer in {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _TryAgain(self._scrubbed(_line(error))) from None

    async def _send(self, body: Body) -> tuple[int, httpx.Headers, bytes]:
        content = b""
        async with asyncio.timeout(self._timeout), self._client.stream("POST", self.url, json=dict(body)) as response:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > LARGEST:
                    raise _TryAgain("an answer that does not end")
            return response.status_code, response.headers, content

    def _refused(self, status: int, headers: httpx.Headers, content: bytes) -> str:
        """Raises what an error of the server means; "" if it is a filter's refusal of these very texts."""
        code, message = _complaint(content)
        if status in (408, 409, 429) or status >= 500:
            after = retry_after(headers.get("Retry-After", ""), datetime.now(UTC))
            if code != "insufficient_quota" and (after or 0.0) <= LONGEST:
                if after is not None:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + after)
                raise _TryAgain(f"HTTP {status}", after)
            message = f"it asks to wait {after:.0f} s" if (after or 0.0) > LONGEST else message
        elif status == 400 and code == "content_filter":
            return ""
        message = printable(self._scrubbed(message))  # again: JSON may write the key in other characters
        raise BadInput(f"judge at {self.host}: HTTP {status}{': ' if message else ''}{message[:200]}")

    def _scrubbed(self, text: str) -> str:
        """What the server said, without the key, should it repeat that."""
        return key.scrubbed(text, key.of(self.key_variable))


def check_address(base_url: str) -> httpx.URL:
    """The address. Raises: BadInput for one that no request can be sent to; a password in it is not repeated."""
    shown = printable(base_url.rpartition("@")[2].partition("?")[0].partition("#")[0])[:100]
    refusal = BadInput(f"judge's address {shown!r}: expected http(s)://host/path, and any key in the environment")
    try:
        address = httpx.URL(base_url)
        address.host.encode("idna")  # as the system's resolver does
    except (httpx.InvalidURL, UnicodeError):
        raise refusal from None
    port = 1 if address.port is None else address.port
    usable = address.scheme in ("http", "https") and address.host and 0 < port < 1 << 16
    if not usable or address.userinfo or set("?#@ \\") & set(base_url) or not base_url.isprintable():
        raise refusal
    return address


def bound(body: Body) -> Usage:
    """The most tokens that a request can take: a token is at least a byte, a message a few more than its text.

    Raises: BadInput for a body that does not limit its answer.
    """
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if not limits:
        raise BadInput("a judge's request needs max_tokens or max_completion_tokens: its cost is unlimited otherwise")
    for number in (*limits, body.get("n", 1)):
        if type(number) is not int or not 0 < number < MOST_TOKENS:
            raise BadInput(f"a judge's request: max_tokens, max_completion_tokens and n are whole numbers above 0, not "
                           f"{printable(repr(number))[:60]}")  # fmt: skip
    texts = sum(len(message["content"].encode()) + 16 for message in body["messages"])
    return Usage(texts + 16, max(limits) * body.get("n", 1))


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, a number or an HTTP date (RFC 9110, 10.2.3); None if it does not."""
    try:
        return max(0.0, float(value)) if value.strip().isdigit() else max(
            0.0, (parsedate_to_datetime(value) - now).total_seconds()
        )  # fmt: skip
    except (ValueError, TypeError):
        return None


def _read(content: bytes) -> tuple[str | None, Usage | None]:
    """The answer's text ("" if it has none; None if this is no completion) and its tokens (None if it does not say)."""
    try:
        found = strict_json.parse(content, "answer")
    except BadInput:
        return None, None
    try:
        counts = (found["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
        usage = Usage(*(min(int(count), MOST_TOKENS) for count in counts))
    except (LookupError, TypeError, ValueError, OverflowError):
        usage = None
    usage = usage if usage and min(usage) >= 0 else None
    try:
        choice = found["choices"][0]
        text = _text(choice["message"].get("content"))
        return (text + UNFINISHED if text and choice.get("finish_reason") == "length" else text), usage
    except (LookupError, TypeError, AttributeError):
        return None, usage


def _text(content: Any) -> str:
    """Of a message: its text, or those of its parts that are text and not thoughts. Half characters are replaced."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return whole_characters(content) if isinstance(content, str) else ""


def _complaint(content: bytes) -> tuple[str, str]:
    """(code, one-line message) of an error's body, as OpenAI writes them; ("", the body's first line) of others."""
    try:
        error = strict_json.parse(content, "error")["error"]
        return str(error.get("code") or ""), " ".join(str(error.get("message") or "").split())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", " ".join(content[:400].decode(errors="replace").split())


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
