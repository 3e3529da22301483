"""`python -m tasks.judge RUN...`: compares the responses that runs recorded with their references."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    from core.command import main as start

    start("tasks.judge:app")

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import tasks
from core import strict_json
from core.command import INTERRUPTED, guarded
from core.errors import BadInput, reason
from core.knobs import HELP, Knobs
from core.options import path
from core.text import printable
from tasks.judges import GoldJudge, Judge, RewardModelJudge, Verdict
from tasks.judges import core as judges
from tasks.judges.chat import Chat
from tasks.judges.files import Responses, find, narrowed, read, refuse_unwritable, swapped, values_of, write
from tasks.judges.http import HttpJudge
from tasks.judges.reward_model import described, identity, load_scorer, names
from tasks.judges.spending import Budget, Cache, Price
from tasks.judges.templates import Asks, template_for, template_named
from tasks.language.core import half_character
from tasks.screen import console, say

KINDS = ("gold", "http", "reward-model")
MOST_CALLS = 256  # at a time
DAY = 86400  # seconds
One = TypeVar("One")
Made = TypeVar("Made")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(parser=path, help="Folders of seeds or runs, or above.")],
    judge: Annotated[str, typer.Option(help="gold, http or reward-model.")] = "http",
    model: Annotated[str, typer.Option(help="http: the server's name for it; reward-model: folder or hub name.")] = "",
    base_url: Annotated[str, typer.Option(help="http: up to, not including, /chat/completions.")] = "",
    key_variable: Annotated[str, typer.Option(help="http: holds the key; '' if none is needed.")] = "OPENAI_API_KEY",
    price: Annotated[str, typer.Option(help="http: USD for a million tokens of prompt, of answer; 0,0 if free.")] = "",
    max_cost: Annotated[float, typer.Option(help="http: USD that this command may spend.")] = 5.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says how many calls, and what they would cost.")] = False,
    episodes: Annotated[int | None, typer.Option(help="Judge the first so many prompts only.")] = None,
    knob: Annotated[list[str] | None, typer.Option(help=HELP)] = None,
    template: Annotated[
        str, typer.Option(help="http: tldr, hh, dpo-tldr-s, dpo-tldr-c, dpo-hh or a file; by the suite if unset.")
    ] = "",
    body: Annotated[str, typer.Option(help="http: JSON of further request fields; null takes one away.")] = "{}",
    concurrency: Annotated[int, typer.Option(help="http: calls at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="http: seconds for an answer.")] = 60.0,
    cache: Annotated[Path, typer.Option(parser=path, help="http: keeps the answers.")] = Path("results/answers.sqlite"),
    allow_optimised: Annotated[
        bool, typer.Option("--allow-optimised", help="reward-model: also the one that the run optimised.")
    ] = False,
) -> None:
    """Writes verdicts-<judge>.csv beside each responses.jsonl, which every seed of a run has. What a judge over HTTP
    answered is kept: the same command continues after a stop, and asks nothing twice. Exits with 1 where a seed cannot
    be read or written to, has pairs that the server failed on, or no valid verdict; the others have theirs. Exits with
    2 where the judge is given up."""

    def judged() -> int:
        if judge not in KINDS:
            raise BadInput(f"judge {printable(repr(judge))} is none of {', '.join(KINDS)}")
        _check_numbers(concurrency, timeout, max_cost, episodes)
        if half_character(model):
            raise BadInput(f"--model {model!r} is no text")
        meant, asks = Knobs.parse(knob or ()), template_named(template) if template else None
        found, whole = _readable(find(runs), episodes)
        found = _meant(found, meant)
        if judge == "http":
            chat = _chat(base_url, "" if dry_run else key_variable, price, max_cost, timeout, dry_run)
            with contextlib.closing(chat):
                whole &= _http(chat, found, model, asks, body, cache, concurrency, dry_run, bool(price))
        elif dry_run:
            say(f"{sum(len(one.rows) for one in found)} pairs, no calls")
        elif judge == "gold":
            whole &= _gold_judged(found)
        else:
            whole &= _reward_model(model, found, allow_optimised)
        return 0 if whole else 1

    raise typer.Exit(guarded(judged))


def _check_numbers(concurrency: int, timeout: float, max_cost: float, episodes: int | None) -> None:
    for option, value, fits, expected in (
        ("concurrency", concurrency, 1 <= concurrency <= MOST_CALLS, f"from 1 to {MOST_CALLS}"),
        ("timeout", timeout, 0 < timeout <= DAY, f"seconds, above 0 and at most {DAY}"),
        ("max-cost", max_cost, max_cost >= 0, "USD, 0 or more"),
        ("episodes", episodes, episodes is None or episodes >= 1, "1 or more"),
    ):
        if not fits:
            raise BadInput(f"--{option} {value}: expected {expected}")


def _readable(folders: Sequence[Path], episodes: int | None) -> tuple[list[Responses], bool]:
    """The responses of the runs that can be read and written to, and whether all can. Raises: BadInput if none can."""

    def checked(folder: Path) -> Responses:
        refuse_unwritable(found := read(folder, episodes))
        return found

    return _sound(folders, checked)


def _meant(found: Sequence[Responses], knobs: Knobs) -> list[Responses]:
    """What `--knob` leaves of the responses; a line for each run of which it leaves none."""
    knobs.check((one.meta["method"], values_of(one)) for one in found)
    kept = list[Responses]()
    for one in (narrowed(one, knobs) for one in found):
        if one.rows:
            kept.append(one)
        else:
            say(f"{one.folder}: none of its settings is asked for by --knob")
    if not kept:
        raise BadInput("no run has a setting that all of --knob ask for")
    return kept


def _sound(some: Sequence[One], make: Callable[[One], Made]) -> tuple[list[Made], bool]:
    """What `make` makes of those it does not refuse, a line for each of the others, and whether there are none.
    Raises: BadInput if it refuses all."""
    made: list[Made] = []
    left_out: list[BadInput] = []
    for one in some:
        try:
            made.append(make(one))
        except BadInput as error:
            left_out.append(error)
    if not made:
        raise left_out[0]
    for refusal in left_out:
        say(f"left out: {refusal}")
    return made, not left_out


def _http(
    chat: Chat, found: Sequence[Responses], model: str, asks: Asks | None, body: str, cache: Path, concurrency: int,
    dry_run: bool, priced: bool,
) -> bool:  # fmt: skip
    """Judges by the server, or estimates that; returns whether every pair of every run was answered."""
    fields = _fields(model, body)
    with contextlib.closing(Cache(cache)) as answers:
        groups = [
            (HttpJudge(chat, model, template, answers, concurrency, fields), of)
            for template, of in _by_template(found, asks)
        ]
        if dry_run:
            _estimate(groups, priced)
            return True
        try:
            return all([_judge(by, of, [by.about] * len(of)) for by, of in groups])
        except KeyboardInterrupt:
            say("stopped; the same command continues")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            say(f"spent {chat.budget.spent:.4f} USD of {chat.budget.limit:g}")


def _judge(judge: Judge, found: Sequence[Responses], abouts: Sequence[Mapping[str, Any]]) -> bool:
    """Judges run after run; each has its file as soon as it is done. `abouts`: what to record of the judge in each.
    Returns whether every run has its verdicts."""
    whole = True
    for one, about in zip(found, abouts, strict=True):
        with _bar(one.name) as report:
            verdicts = judge.verdicts(one.pairs, report)
        try:
            whole &= _kept(one, judge.id, verdicts, about)
        except (OSError, BadInput) as error:
            say(f"{one.folder}: its verdicts cannot be written: {reason(error)}")
            whole = False
    return whole


def _kept(one: Responses, judge: str, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> bool:
    """Writes a run's verdicts and says how they are; writes none, and returns False, where that would mislead."""
    if unanswered := sum(verdict.unanswered for verdict in verdicts):
        say(f"{one.folder}: {unanswered} pairs unanswered, no verdicts written; the same command asks again")
        return False
    valid = [verdict for verdict in verdicts if verdict.outcome != "invalid"]
    if not valid:
        say(f"{one.folder}: no answer held a verdict that could be read, no verdicts written")
        return False
    path = write(one, judge, verdicts, {"judge": judge, **about})
    rate = sum(verdict.score for verdict in valid) / len(valid)
    agree = f", orders agree on {swapped(one, verdicts)}" if about["kind"] == "http" else ""
    say(f"{path}: win rate {rate:.3f}, {len(valid)} of {len(verdicts)} valid{agree}")
    return True


def _gold_judged(found: Sequence[Responses]) -> bool:
    """Judges each run by the reward of its own task; returns whether all have their verdicts."""
    judges, whole = _sound(found, lambda one: (_gold(one), one))
    for by, one in judges:
        try:
            whole &= _judge(by, [one], [{"kind": "gold", "task": one.meta["task"]}])
        except BadInput as error:
            say(f"left out: {one.folder}: {error}")
            whole = False
    return whole


def _gold(one: Responses) -> GoldJudge:
    """The judge that knows the run's task. Raises: BadInput for a task whose reward nobody knows."""
    task = tasks.suite(one.meta["suite"]).get(one.meta["task"])
    if getattr(task, "gold", None) is None:
        raise BadInput(f"{one.meta['suite']}/{one.meta['task']} has no gold reward; --judge http or reward-model")
    return GoldJudge(task.gold)


def _reward_model(model: str, found: Sequence[Responses], allowed: bool) -> bool:
    if not model:
        raise BadInput("--judge reward-model needs --model")
    mine = names(model)
    for one in found:  # before what takes long
        judges.refuse_optimised(model, mine, one.optimised, allowed)
    judge = RewardModelJudge(load_scorer(model), identity(model))
    about = {"kind": "reward model", "model": model, **described(model)}
    return _judge(judge, found, [about | {"optimised": bool(mine & one.optimised)} for one in found])


def _chat(base_url: str, key_variable: str, price: str, max_cost: float, timeout: float, dry_run: bool) -> Chat:
    for option, value in (("base-url", base_url), ("price", price or dry_run)):
        if not value:
            raise BadInput(f"--judge http needs --{option}")
    return Chat(base_url, key_variable, Price.parse(price or "0,0"), Budget(max_cost), timeout)


def _fields(model: str, body: str) -> dict[str, Any]:
    """Further fields of a request."""
    if not model:
        raise BadInput("--judge http needs --model")
    shown = printable(body if len(body) <= 60 else f"{body[:57]}...")
    try:
        fields = strict_json.parse(body, "--body")
        json.dumps(fields, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # NaN, half a character, ...
        fields = None
    if not isinstance(fields, dict):
        raise BadInput(f"--body '{shown}' is no JSON object")
    if "messages" in fields or fields.get("stream") or not isinstance(fields.get("model", ""), str):
        raise BadInput(f"--body '{shown}': messages are the judge's own, an answer comes whole, and model is a name")
    return fields


def _by_template(found: Sequence[Responses], asks: Asks | None) -> list[tuple[Asks, list[Responses]]]:
    """Runs by the template that fits their suite, or all by the one that was asked for."""
    groups: dict[Asks, list[Responses]] = {}
    for one in found:
        groups.setdefault(asks or template_for(one.meta["suite"]), []).append(one)
    return list(groups.items())


def _estimate(groups: Sequence[tuple[HttpJudge, Sequence[Responses]]], priced: bool) -> None:
    found = [judge.estimate([pair for one in of for pair in one.pairs]) for judge, of in groups]
    calls, kept = sum(one.calls for one in found), sum(one.kept for one in found)
    prompt, answer = (sum(one.usage[i] for one in found) for i in (0, 1))
    cost, most = sum(one.cost for one in found), sum(one.most for one in found)
    costs = f"about {cost:.4f} USD, at most {most:.4f}" if priced else "cost unknown without --price"
    say(f"{calls} calls ({kept} answers are kept), about {prompt} + {answer} tokens: {costs}")


@contextlib.contextmanager
def _bar(what: str) -> Iterator[judges.Progress]:
    """Progress with an ETA on a terminal."""
    shown = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns = (*shown, TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(printable(what), total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
