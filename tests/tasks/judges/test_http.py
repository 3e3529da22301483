"""The judge over HTTP, against a server that misbehaves."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tenacity

from methods.core import BadInput
from tasks.judges import Pair
from tasks.judges.chat import Chat, retry_after
from tasks.judges.http import HttpJudge
from tasks.judges.prompts import TEMPLATES, template_of
from tasks.judges.spending import Budget, Cache, OverBudget, Price
from tests.tasks.judges.server import KEY, Server, texts

PRICE = Price(10.0, 100.0)  # a call of 100 + 10 tokens: 0.002 USD
PAIRS = [Pair("p", "good", "bad"), Pair("p", "bad", "good"), Pair("q", "same", " same\n"), Pair("q", "bad", "good one")]
Make = Callable[..., HttpJudge]


def better(first: str, second: str) -> str:
    return "A" if "good" in first else "B"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(better)
    yield server
    server.close()


@pytest.fixture
def make(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Judges at that server: make(limit=..., timeout=..., and what HttpJudge takes)."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    made: list[HttpJudge] = []

    def build(limit: float = 100.0, timeout: float = 5.0, price: Price = PRICE, **options: object) -> HttpJudge:
        chat = Chat(server.url, "JUDGE_KEY", price, Budget(limit), timeout, tenacity.wait_none())
        made.append(HttpJudge(chat, "m/4", TEMPLATES["tldr"], Cache(tmp_path / "answers.sqlite"), **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for judge in made:
        judge.chat.close()
        judge.cache.close()


def outcomes(judge: HttpJudge, pairs: list[Pair] = PAIRS) -> list[str]:
    return [verdict.outcome for verdict in judge.verdicts(pairs)]


def test_both_orders_are_asked_and_paid_once(server: Server, make: Make) -> None:
    judge, reports = make(), []  # type: ignore[var-annotated]
    verdicts = judge.verdicts(PAIRS, progress=lambda done, of: reports.append((done, of)))
    assert [verdict.outcome for verdict in verdicts] == ["win", "loss", "tie", "loss"]
    assert all(verdict.consistent for verdict in verdicts)
    # the first two pairs are each other's swap: 2 + 2 requests, and identical texts are not asked about
    assert sorted(texts(body)[1:] for body in server.requests) == [
        ["bad", "good"], ["bad", "good one"], ["good", "bad"], ["good one", "bad"]
    ]  # fmt: skip
    assert [verdict.cost for verdict in verdicts] == pytest.approx([0.004, 0.004, 0.0, 0.004])
    assert judge.chat.budget.spent == pytest.approx(0.008) and reports[0] == (0, 4) and reports[-1] == (4, 4)
    again = make()
    assert again.verdicts(PAIRS) == verdicts and len(server.requests) == 4 and again.chat.budget.spent == 0


def test_what_comes_first_cannot_win(server: Server, make: Make) -> None:
    server.prefers = lambda first, second: "A"
    verdicts = make().verdicts(PAIRS[:1])
    assert verdicts[0].outcome == "tie" and not verdicts[0].consistent
    server.prefers = lambda first, second: "tie"
    verdicts = make().verdicts(PAIRS[3:])
    assert verdicts[0].outcome == "tie" and verdicts[0].consistent


@pytest.mark.parametrize("failure", ["500", "502", "reset", "json", "html", "none", "empty", "vague"])
def test_failures_that_pass(server: Server, make: Make, failure: str) -> None:
    server.script = [failure, failure, "answer"]
    assert outcomes(make(concurrency=1), PAIRS[:1]) == ["win"]
    assert len(server.requests) == 4


@pytest.mark.parametrize("failure", ["silent", "drip", "drip headers"])
def test_time_outs(server: Server, make: Make, failure: str) -> None:
    """A server that is silent, and one that always has another byte, are left after the time-out."""
    server.script = [failure]
    judge = make(timeout=0.4, concurrency=1)
    began = time.monotonic()
    assert outcomes(judge, PAIRS[:1]) == ["win"]
    assert 0.4 <= time.monotonic() - began < 3 and len(server.requests) == 3
    # what broke off may have been charged: it counts as the most it can cost, which is more than what the others did
    assert judge.chat.budget.spent > 0.004 + 0.01


def test_retry_after_is_honoured_by_all_calls(server: Server, make: Make) -> None:
    server.script = ["429 1"]
    assert outcomes(make(concurrency=1)) == ["win", "loss", "tie", "loss"]
    assert server.times[1] - server.times[0] >= 1
    server.script = ["429 date"]  # two seconds ahead, in whole seconds
    began = time.monotonic()
    assert outcomes(make(concurrency=2), [Pair("r", "good", "x")]) == ["win"]
    assert time.monotonic() - began >= 1


def test_retry_after_never_shortens_the_wait(server: Server, make: Make) -> None:
    server.script = ["429 0"]
    judge = make(concurrency=1)
    judge.chat._wait = tenacity.wait_fixed(0.3)
    assert outcomes(judge, PAIRS[:1]) == ["win"] and server.times[1] - server.times[0] >= 0.3


def test_retry_after_reads_seconds_and_dates() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after("7", now) == 7
    assert retry_after("Thu, 01 Jan 2026 12:01:30 GMT", now) == 90
    assert retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert retry_after("soon", now) is None and retry_after("", now) is None


def test_useless_answers_are_invalid_and_kept_so(server: Server, make: Make) -> None:
    server.script = ["vague"] * 3
    verdicts = make(concurrency=1).verdicts(PAIRS[:1])
    assert verdicts[0].outcome == "invalid" and not verdicts[0].consistent
    assert verdicts[0].cost == pytest.approx(4 * 0.002)  # three vague answers, and one in the other order
    assert outcomes(make(), PAIRS[:1]) == ["invalid"] and len(server.requests) == 4


def test_a_filter_s_refusal_is_invalid(server: Server, make: Make) -> None:
    server.script = ["filter"]
    assert outcomes(make(concurrency=1), PAIRS[:1]) == ["invalid"] and len(server.requests) == 2


def test_a_pair_the_server_failed_on_is_asked_again_next_time(server: Server, make: Make) -> None:
    for failure in ("500", "html", "none"):
        pair, asked = Pair(failure, "good", "bad"), len(server.requests)
        server.script = [failure] * 6
        judge = make(concurrency=1)
        (verdict,) = judge.verdicts([pair])
        assert verdict.outcome == "invalid" and verdict.unanswered and len(server.requests) == asked + 7
        # what is no completion may have been charged, an error was not
        assert (judge.chat.budget.spent > 0.01) == (failure != "500")
        (verdict,) = make().verdicts([pair])
        assert verdict.outcome == "win" and not verdict.unanswered and len(server.requests) == asked + 8


def test_a_server_that_is_down_is_given_up(server: Server, make: Make) -> None:
    server.script = ["500"] * 1000
    with pytest.raises(BadInput, match="failed 5 times in a row, the last time: HTTP 500"):
        make(concurrency=1).verdicts([Pair("p", f"good {i}", "bad") for i in range(50)])
    assert len(server.requests) == 5 * 6


def test_a_server_that_fails_too_often_is_given_up(server: Server, make: Make) -> None:
    """One question in four: never five in a row, but of the first 21 questions 6."""
    server.script = (["500"] * 6 + ["answer"] * 3) * 100
    with pytest.raises(BadInput, match="failed 6 times of 21, the last time: HTTP 500"):
        make(concurrency=1).verdicts([Pair("p", f"good {i}", "bad") for i in range(50)])


def test_of_a_long_refusal_little_is_read(server: Server, make: Make) -> None:
    """A megabyte is not looked through for the key; what is shown of it is."""
    server.script = [f"raw 403 {KEY} {'no ' * 300_000}"]
    looked: list[int] = []
    judge = make(concurrency=1)
    scrubbed = judge.chat._scrubbed
    judge.chat._scrubbed = lambda text: (looked.append(len(text)), scrubbed(text))[1]  # type: ignore[method-assign]
    with pytest.raises(BadInput, match=r"HTTP 403: \*\*\* no no"):
        judge.verdicts(PAIRS)
    assert max(looked) <= 1 << 13


@pytest.mark.parametrize(
    ("act", "line"),
    [
        ("401", "HTTP 401: Incorrect API key"), ("404", "HTTP 404: oops"), ("quota", "insufficient_quota"),
        ("429 3600", "it asks to wait 3600 s"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_at_once(server: Server, make: Make, act: str, line: str) -> None:
    server.script = [act] * 9
    with pytest.raises(BadInput, match=line) as caught:
        make(concurrency=1).verdicts(PAIRS)
    assert len(server.requests) == 1 and "\n" not in str(caught.value)


def test_the_key_is_nowhere(
    server: Server, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    judge = make(concurrency=1)
    server.script = ["answer", "500", "reset", "answer", "401"]
    with pytest.raises(BadInput, match=r"Incorrect API key: Bearer \*\*\*") as caught:
        judge.verdicts(PAIRS)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    state = f"{vars(judge)} {vars(judge.chat)} {vars(judge.chat._client)} {vars(judge.chat._client._auth)}"
    assert caplog.text and all(KEY not in text for text in (shown, state, caplog.text, *capfd.readouterr()))
    assert len(kept) > 0 and KEY.encode() not in kept


@pytest.mark.parametrize(("key", "kept"), [("A", "Verdict: A"), (KEY, "***\nVerdict: A")])
def test_a_key_that_is_a_placeholder_damages_no_answer(
    server: Server, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, kept: str
) -> None:
    judge = make(concurrency=1)
    monkeypatch.setenv("JUDGE_KEY", key)
    server.script = ["says " + kept.replace("***", key)]
    assert outcomes(judge, PAIRS[:1]) == ["win"]
    answers = sqlite3.connect(tmp_path / "answers.sqlite").execute("select answer from answers").fetchall()
    assert (kept,) in answers


def test_missing_and_unusable_keys(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(BadInput, match="the environment variable JUDGE_KEY is not set"):
        Chat(server.url, "JUDGE_KEY", PRICE, Budget(1.0))
    monkeypatch.setenv("JUDGE_KEY", "sk-a\nb")
    with pytest.raises(BadInput, match="holds something else") as caught:
        Chat(server.url, "JUDGE_KEY", PRICE, Budget(1.0))
    assert "sk-a" not in str(caught.value)
    for url in ("ftp://host/v1", "host/v1", "http://user:word@host/v1", "https://host/v1?key=word"):
        with pytest.raises(BadInput, match="judge's address") as caught:
            Chat(url, "", PRICE, Budget(1.0))
        assert "word" not in str(caught.value)
    chat = Chat(server.url, "", PRICE, Budget(1.0))  # a server that wants no key gets none
    assert HttpJudge(chat, "m", TEMPLATES["hh"], Cache(tmp_path / "a.sqlite")).verdicts(PAIRS[:1])[0].outcome == "win"
    assert "Authorization" not in server.headers[-1]
    chat.close()


def test_the_budget_is_never_exceeded(server: Server, make: Make) -> None:
    """It stops before a call that could go beyond, with many calls at once; the same judge continues with more."""
    pairs = [Pair("p", f"good {i}", "bad") for i in range(30)]
    judge = make(limit=0.08, concurrency=8)
    with pytest.raises(OverBudget, match=r"stopped at 0\.0\d+ USD: .* --max-cost 0\.08"):
        judge.verdicts(pairs)
    spent, asked = judge.chat.budget.spent, len(server.requests)
    assert 0 < spent <= 0.08 and spent == pytest.approx(0.002 * asked)
    # no call was refused that would have fitted: the most that one can cost is below 0.04
    assert spent > 0.04
    assert outcomes(make(concurrency=8), pairs) == ["win"] * 30 and len(server.requests) == 60


def test_a_server_that_counts_more_than_there_can_be_is_stopped(server: Server, make: Make) -> None:
    server.script = ["dear 161"]  # of an answer limited to 160
    assert outcomes(make(concurrency=1), PAIRS[:1]) == ["win"]  # the prompt was counted for less than its bound
    server.script = ["dear 20000"]
    judge = make(limit=0.1, concurrency=1)
    with pytest.raises(BadInput, match=r"it counts 100 \+ 20000 tokens where \d+ \+ 160 are the most there are"):
        judge.verdicts([Pair("p", f"good {i}", "bad") for i in range(9)])
    assert len(server.requests) == 3 and judge.chat.budget.spent == pytest.approx(2.001)


def test_an_estimate_asks_nothing(server: Server, make: Make) -> None:
    judge = make()
    before = judge.estimate(PAIRS)
    assert server.requests == [] and (before.calls, before.kept) == (4, 0)
    assert before.cost == pytest.approx(PRICE.of(before.usage)) and before.usage.completion == 4 * 60
    judge.verdicts(PAIRS[:1])
    after = judge.estimate(PAIRS)
    assert (after.calls, after.kept) == (2, 2) and after.most == pytest.approx(before.most / 2, rel=0.01)
    assert judge.chat.budget.spent < before.most


def test_concurrency_is_limited_and_used(server: Server, make: Make) -> None:
    server.delay = 0.05
    make(concurrency=3).verdicts([Pair("p", f"good {i}", "bad") for i in range(6)])
    assert server.most_open == 3


def test_another_question_is_another_judge(server: Server, make: Make) -> None:
    judge, warm = make(), make(body={"temperature": 1.0})
    assert judge.id.startswith("http-m-4-") and judge.id != warm.id and judge.id == make().id
    judge.verdicts(PAIRS[:1])
    warm.verdicts(PAIRS[:1])
    assert len(server.requests) == 4 and server.requests[-1]["temperature"] == 1.0
    with pytest.raises(BadInput, match="needs max_tokens or max_completion_tokens"):
        make(body={"max_tokens": None})
    assert "max_tokens" not in make(body={"max_tokens": None, "max_completion_tokens": 9})._fields


def test_a_file_that_keeps_no_answers_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("seed,episode,verdict\n" * 100)
    with pytest.raises(BadInput, match=r"cannot keep answers in .*a\.sqlite: file is not a database"):
        Cache(tmp_path / "a.sqlite")


KILLED = """
import sys
from pathlib import Path
from tests.tasks.judges.test_http import *
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the parent ignores it
chat = Chat(sys.argv[1], "", PRICE, Budget(9.0))
judge = HttpJudge(chat, "m/4", TEMPLATES["tldr"], Cache(Path(sys.argv[2])), concurrency=1)
judge.verdicts([Pair("p", f"good {i}", "bad") for i in range(40)])
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_judge_goes_on_where_it_was(server: Server, tmp_path: Path, sent: signal.Signals) -> None:
    """Every answer is on disk once it is there: after kill -9 at most the one under way is asked again, after Ctrl-C
    not even that one."""
    server.delay, path = 0.02, tmp_path / "answers.sqlite"
    command = [sys.executable, "-c", KILLED, server.url, str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(server.requests) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    process.wait(timeout=20)
    server.delay, asked = 0.0, len(server.requests)
    chat, cache = Chat(server.url, "", PRICE, Budget(9.0)), Cache(path)
    kept = sqlite3.connect(path).execute("select count(*) from answers").fetchone()[0]
    assert kept < 80 and (asked - 1 <= kept <= asked if sent == signal.SIGKILL else kept == asked)
    judge = HttpJudge(chat, "m/4", TEMPLATES["tldr"], cache)
    assert outcomes(judge, [Pair("p", f"good {i}", "bad") for i in range(40)]) == ["win"] * 40
    assert len(server.requests) == asked + 80 - kept
    chat.close()
    cache.close()


def test_texts_with_braces_and_templates_of_suites() -> None:
    (_, user) = TEMPLATES["tldr"].messages("a {prompt}", "{0}", "100% {second}")
    assert "a {prompt}" in user["content"] and "{0}" in user["content"] and "100% {second}" in user["content"]
    assert template_of("tldr-synthetic") is TEMPLATES["tldr"] and template_of("toy") is None
    assert Price.parse("0.15,0.6") == Price(0.15, 0.6)
    for text in ("1", "a,b", "-1,2", "nan,1", "inf,0"):
        with pytest.raises(BadInput, match="price"):
            Price.parse(text)
