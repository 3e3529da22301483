"""`python -m tasks.judge RUN...`: compares the responses that runs recorded with their references."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import tasks
from methods.core import BadInput
from tasks.fetch import console
from tasks.judges import GoldJudge, Judge, RewardModelJudge
from tasks.judges import core as judges
from tasks.judges.chat import Chat
from tasks.judges.files import Responses, find, read, refuse_shrinking, write
from tasks.judges.http import HttpJudge
from tasks.judges.prompts import TEMPLATES, Template, template_of
from tasks.judges.reward_model import identity, load_scorer, names, weights
from tasks.judges.spending import Budget, Cache, Price

KINDS = ("gold", "http", "reward-model")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders above them.")],
    judge: Annotated[str, typer.Option(help="gold, http or reward-model.")] = "http",
    model: Annotated[str, typer.Option(help="http: the server's name for it; reward-model: folder or hub name.")] = "",
    base_url: Annotated[str, typer.Option(help="http: up to, not including, /chat/completions.")] = "",
    key_variable: Annotated[str, typer.Option(help="http: holds the key; '' if none is needed.")] = "OPENAI_API_KEY",
    price: Annotated[str, typer.Option(help="http: USD for a million tokens of prompt, of answer; 0,0 if free.")] = "",
    max_cost: Annotated[float, typer.Option(help="http: USD that this command may spend.")] = 5.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Says how many calls, and what they would cost.")] = False,
    episodes: Annotated[int | None, typer.Option(help="Judge the first so many prompts only.")] = None,
    template: Annotated[str, typer.Option(help="http: tldr or hh; by the suite if unset.")] = "",
    body: Annotated[str, typer.Option(help="http: JSON of further request fields; null takes one away.")] = "{}",
    concurrency: Annotated[int, typer.Option(help="http: calls at a time.")] = 8,
    timeout: Annotated[float, typer.Option(help="http: seconds for an answer.")] = 60.0,
    cache: Annotated[Path, typer.Option(help="http: keeps the answers.")] = Path("results/answers.sqlite"),
    allow_optimised: Annotated[
        bool, typer.Option("--allow-optimised", help="reward-model: also the one that the run optimised.")
    ] = False,
) -> None:
    """Writes verdicts-<judge>.csv beside each run's responses.jsonl. What a judge over HTTP answered is kept: the same
    command continues after a stop, and asks nothing twice. Exits with 1 where a run cannot be read, or has pairs that
    the server failed on; the other runs have their verdicts."""
    try:
        if judge not in KINDS:
            raise BadInput(f"judge {judge!r} is none of {', '.join(KINDS)}")
        if concurrency < 1 or timeout <= 0 or not max_cost >= 0 or (episodes is not None and episodes < 1):
            raise BadInput("--concurrency, --timeout and --episodes must be positive, --max-cost not negative")
        found, whole = _readable(find(runs), episodes)
        if judge == "http":
            chat = _chat(base_url, "" if dry_run else key_variable, price, max_cost, timeout, dry_run)
            with contextlib.closing(chat), contextlib.closing(Cache(cache)) as answers:
                fields = _fields(model, body)
                groups = [
                    (HttpJudge(chat, model, asks, answers, concurrency, fields), of)
                    for asks, of in _by_template(found, template)
                ]
                if dry_run:
                    _estimate(groups, bool(price))
                else:
                    try:
                        whole &= all([_judge(by, of, by.about) for by, of in groups])
                    finally:
                        console.print(f"spent {chat.budget.spent:.4f} USD of {max_cost:g}")
        elif dry_run:
            console.print(f"{sum(len(one.rows) for one in found)} pairs, no calls")
        elif judge == "gold":
            for one in found:
                _judge(_gold(one), [one], {"kind": "gold", "task": one.meta.get("task")})
        else:
            _reward_model(model, found, allow_optimised)
    except BadInput as error:
        console.print(f"error: {error}", markup=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command continues")
        raise typer.Exit(130) from None
    if not whole:
        raise typer.Exit(1)


def _readable(folders: Sequence[Path], episodes: int | None) -> tuple[list[Responses], bool]:
    """The responses of the runs that can be read, and whether all can. Raises: BadInput if none can."""
    found: list[Responses] = []
    left_out: list[BadInput] = []
    for folder in folders:
        try:
            found.append(read(folder, episodes))
        except BadInput as error:
            left_out.append(error)
    if not found:
        raise left_out[0]
    for reason in left_out:
        console.print(f"left out: {reason}", markup=False)
    return found, not left_out


def _judge(judge: Judge, found: Sequence[Responses], about: Mapping[str, Any]) -> bool:
    """Judges run after run; each has its file as soon as it is done. Returns whether every pair was answered."""
    for one in found:  # before what costs
        refuse_shrinking(one, judge.id)
    whole = True
    for one in found:
        with _bar(f"{one.folder.parent.name} {one.folder.name[:12]}") as report:
            verdicts = judge.verdicts(one.pairs, report)
        if unanswered := sum(verdict.unanswered for verdict in verdicts):
            line = f"{one.folder}: {unanswered} pairs unanswered, no verdicts written; the same command asks again"
            console.print(line, markup=False)
            whole = False
            continue
        path = write(one, judge.id, verdicts, {"judge": judge.id, **about})
        valid = [verdict for verdict in verdicts if verdict.outcome != "invalid"]
        rate = sum(verdict.score for verdict in valid) / len(valid) if valid else float("nan")
        console.print(f"{path}: win rate {rate:.3f}, {len(valid)} of {len(verdicts)} valid", markup=False)
    return whole


def _gold(one: Responses) -> GoldJudge:
    """The judge that knows the run's task. Raises: BadInput for a task whose reward nobody knows."""
    task = tasks.suite(one.meta["suite"]).get(one.meta["task"])
    if getattr(task, "gold", None) is None:
        raise BadInput(f"{one.meta['suite']}/{one.meta['task']} has no gold reward; --judge http or reward-model")
    return GoldJudge(task.gold)


def _reward_model(model: str, found: Sequence[Responses], allowed: bool) -> None:
    if not model:
        raise BadInput("--judge reward-model needs --model")
    known = names(model)
    for one in found:  # before what takes long
        judges.refuse_optimised(model, known, one.optimised, allowed)
    judge = RewardModelJudge(load_scorer(model), identity(model))
    _judge(judge, found, {"kind": "reward model", "model": model, "weights": sorted(weights(model))})


def _chat(base_url: str, key_variable: str, price: str, max_cost: float, timeout: float, dry_run: bool) -> Chat:
    for option, value in (("base-url", base_url), ("price", price or dry_run)):
        if not value:
            raise BadInput(f"--judge http needs --{option}")
    return Chat(base_url, key_variable, Price.parse(price or "0,0"), Budget(max_cost), timeout)


def _fields(model: str, body: str) -> dict[str, Any]:
    """Further fields of a request."""
    if not model:
        raise BadInput("--judge http needs --model")
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise BadInput(f"--body {body!r} is no JSON object")
    return fields


def _by_template(found: Sequence[Responses], named: str) -> list[tuple[Template, list[Responses]]]:
    """Runs by the template that fits their suite, or by the one that was named."""
    groups: dict[str, list[Responses]] = {}
    for one in found:
        suite = str(one.meta.get("suite"))
        template = TEMPLATES.get(named) if named else template_of(suite)
        if template is None:
            raise BadInput(f"no judge's template {named or suite!r}; --template {' or '.join(TEMPLATES)}")
        groups.setdefault(template.name, []).append(one)
    return [(TEMPLATES[name], of) for name, of in groups.items()]


def _estimate(groups: Sequence[tuple[HttpJudge, Sequence[Responses]]], priced: bool) -> None:
    found = [judge.estimate([pair for one in of for pair in one.pairs]) for judge, of in groups]
    calls, kept = sum(one.calls for one in found), sum(one.kept for one in found)
    prompt, answer = (sum(one.usage[i] for one in found) for i in (0, 1))
    cost, most = sum(one.cost for one in found), sum(one.most for one in found)
    costs = f"about {cost:.4f} USD, at most {most:.4f}" if priced else "cost unknown without --price"
    console.print(f"{calls} calls ({kept} answers are kept), about {prompt} + {answer} tokens: {costs}")


@contextlib.contextmanager
def _bar(what: str) -> Iterator[judges.Progress]:
    """Progress with an ETA on a terminal."""
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns = (*shown, TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


if __name__ == "__main__":
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        console.print(f"error: {' '.join(getattr(error, 'format_message', error.__str__)().split())}", markup=False)
        sys.exit(2)
