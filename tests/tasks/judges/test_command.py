"""`python -m tasks.judge` on records of runs."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from typer.testing import CliRunner, Result

import tasks
from tasks.judge import app
from tasks.judges import reward_model
from tasks.judges.chat import Chat
from tasks.judges.core import refuse_optimised
from tasks.judges.files import read
from tests.tasks.judges.server import KEY, Server, texts

PROMPTS = [f"POST: my cat number {i}" for i in range(6)]

SFT = {"name": "sft", "steps": 20}
RECORD: dict[str, Any] = {
    "schema": 1, "suite": "tldr", "task": "tldr", "method": "vgf", "fingerprint": "def456", "status": "finished",
    "seeds": [0, 1], "knobs": ["L_test"], "episodes": len(PROMPTS), "config": {},
}  # fmt: skip


def write_seeds(run: Path, seeds: tuple[int, ...] = (0, 1), **meta: Any) -> list[Path]:
    """The same, a folder a seed."""
    return [
        write_responses(run / f"seed-{seed}", seeds=(seed,), **{"format": 2, "seed": seed, **meta}) for seed in seeds
    ]


def write_responses(
    folder: Path, knobs: tuple[str, ...] = ("L_test",), seeds: tuple[int, ...] = (0, 1), **meta: Any
) -> Path:
    """A run of two seeds at L_test 0 and 1, whose responses to odd prompts are good at L_test 1 alone."""
    folder.mkdir(parents=True)
    run = RECORD | {"seeds": list(seeds), "knobs": list(knobs), "stages": [{**SFT, "fingerprint": "5f7"}]}
    (folder / "run.json").write_text(json.dumps(run | meta))
    rows = []
    for seed in seeds:
        for level in (0, 1) if knobs else (0,):
            for episode, prompt in enumerate(PROMPTS):
                good = "good" if level and episode % 2 else "bad"
                setting = dict.fromkeys(knobs, level)
                row = {"seed": seed, **setting, "episode": episode, "prompt": prompt, "response": f"{good} {seed}"}
                rows.append(json.dumps(row | {"reference": "a plain good one" if episode % 2 == 0 else "plain"}))
    (folder / "responses.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server(lambda first, second: "tie" if ("good" in first) == ("good" in second) else "AB"["good" in second])
    server.folder = tmp_path  # type: ignore[attr-defined]
    yield server
    server.close()


def judge(server: Server, *runs: Path, price: str = "10,100", **options: object) -> Result:
    more = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    cache = str(server.folder / "answers.sqlite")  # type: ignore[attr-defined]
    words = [*map(str, runs), "--judge", "http", "--model", "m/4", "--base-url", server.url, "--cache", cache]
    return CliRunner().invoke(app, [*words, *(["--price", price] if price else []), *[w for w in more if w != "True"]])


def verdicts(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("verdicts-*.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_verdicts_lie_beside_the_responses(server: Server, tmp_path: Path) -> None:
    one, two = write_responses(tmp_path / "runs" / "vgf"), write_responses(tmp_path / "runs" / "sft", knobs=())
    result = judge(server, tmp_path / "runs")
    assert result.exit_code == 0, result.stderr
    rows = verdicts(one)
    assert list(rows[0]) == ["seed", "L_test", "episode", "verdict", "swap_consistent", "cost"] and len(rows) == 24
    for row in rows:
        expected = "loss" if row["episode"] in "024" else "win" if row["L_test"] == "1" else "tie"
        assert row["verdict"] == expected and row["swap_consistent"] == "1" and float(row["cost"]) == 0.004
    assert list(verdicts(two)[0]) == ["seed", "episode", "verdict", "swap_consistent", "cost"]
    (about,) = one.glob("verdicts-*.json")
    about_judge = json.loads(about.read_text())
    assert about_judge["model"] == "m/4" and about_judge["judge"] in about.name and about_judge["temperature"] == 0
    asked = {tuple(texts(body)) for body in server.requests}
    assert len(server.requests) == len(asked)  # what several runs share is asked once
    assert "win rate 0.375, 24 of 24 valid" in result.stderr
    again = judge(server, one)
    assert again.exit_code == 0 and "spent 0.0000 USD" in again.stderr and len(server.requests) == len(asked)
    assert KEY not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())


def test_the_budget_stops_and_more_continues(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "vgf")
    result = judge(server, folder, max_cost=0.07)
    assert result.exit_code == 2 and "--max-cost 0.07" in result.stderr and not list(folder.glob("verdicts-*"))
    asked = len(server.requests)
    assert 0 < asked < 48 and f"spent {0.002 * asked:.4f} USD of 0.07" in result.stderr
    assert judge(server, folder).exit_code == 0 and len(verdicts(folder)) == 24
    assert len(server.requests) == len({tuple(texts(body)) for body in server.requests})


def test_a_dry_run_asks_nothing_and_needs_no_key(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    folder = write_responses(tmp_path / "vgf")
    result = judge(server, folder, dry_run=True, episodes=2)
    assert result.exit_code == 0 and server.requests == []
    assert "12 calls (0 answers are kept)" in result.stderr and "USD, at most" in result.stderr
    unpriced = judge(server, folder, price="", dry_run=True)
    assert "cost unknown without --price" in unpriced.stderr


def test_pairs_that_the_server_failed_on_are_no_verdicts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other runs have theirs; the same command asks for the rest."""
    one = write_responses(tmp_path / "a", knobs=(), seeds=(0,))
    other = write_responses(tmp_path / "b", knobs=(), seeds=(1,))
    monkeypatch.setattr(Chat.__init__, "__defaults__", (60.0, tenacity.wait_none()))
    server.script = ["500"] * 6  # attempts at one question of the first run
    result = judge(server, one, other, concurrency=1)
    assert result.exit_code == 1 and f"{one}: 1 pairs unanswered" in " ".join(result.stderr.split()), result.stderr
    assert not list(one.glob("verdicts-*")) and len(verdicts(other)) == 6
    asked = len(server.requests)
    assert judge(server, one, other).exit_code == 0
    assert len(server.requests) == asked + 1 and "invalid" not in {row["verdict"] for row in verdicts(one)}


def test_a_torn_run_is_left_out(server: Server, tmp_path: Path) -> None:
    torn, sound = write_responses(tmp_path / "runs" / "a"), write_responses(tmp_path / "runs" / "b")
    path = torn / "responses.jsonl"
    path.write_text(path.read_text()[:-40])
    result = judge(server, tmp_path / "runs")
    assert result.exit_code == 1 and "left out: " in result.stderr and "responses.jsonl:24" in result.stderr
    assert len(verdicts(sound)) == 24 and not list(torn.glob("verdicts-*"))


def test_verdicts_say_which_texts_they_judged_and_never_become_fewer(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "vgf")
    assert judge(server, folder, episodes=2).exit_code == 0 and len(verdicts(folder)) == 8
    (about,) = folder.glob("verdicts-*.json")
    path = folder / "responses.jsonl"
    said = json.loads(about.read_text())
    assert (said["rows"], said["episodes"]) == (8, 2)
    assert said["responses"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert judge(server, folder).exit_code == 0 and len(verdicts(folder)) == 24
    asked = len(server.requests)
    assert judge(server, folder, episodes=1).exit_code == 0
    assert len(verdicts(folder)) == 24 and len(server.requests) == asked
    said = json.loads(about.read_text())
    assert (said["rows"], said["episodes"]) == (24, 6)
    path.write_text(path.read_text().replace("bad 0", "worse 0"))  # those verdicts were about other texts
    assert judge(server, folder, episodes=1).exit_code == 0 and len(verdicts(folder)) == 4


def test_the_first_prompts_only(server: Server, tmp_path: Path) -> None:
    folder = write_responses(tmp_path / "vgf")
    assert judge(server, folder, episodes=2).exit_code == 0
    assert [row["episode"] for row in verdicts(folder)] == ["0", "1"] * 4


def test_gold_judges_by_the_run_s_own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        gold = staticmethod(lambda prompt, response: -float(len(response)))

    class Suite:
        get = staticmethod({"known": Known(), "unknown": object()}.__getitem__)

    monkeypatch.setattr(tasks, "suite", lambda name: Suite())
    folder = write_responses(tmp_path / "vgf", task="known")
    assert CliRunner().invoke(app, [str(folder), "--judge", "gold"]).exit_code == 0
    # "bad 0" against "a plain good one": shorter; "good 0" and "bad 0" against "plain": longer and as long
    assert [row["verdict"] for row in verdicts(folder)][:6] == ["win", "tie"] * 3
    other = write_responses(tmp_path / "other", task="unknown")
    refused = CliRunner().invoke(app, [str(other), "--judge", "gold"])
    assert refused.exit_code == 2 and "tldr/unknown has no gold reward" in refused.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"judge": "oracle"}, "judge 'oracle' is none of gold, http, reward-model"),
        ({"model": ""}, "--judge http needs --model"),
        ({"base_url": ""}, "--judge http needs --base-url"),
        ({"price": ""}, "--judge http needs --price"),
        ({"key_variable": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set"),
        ({"template": "poem"}, "no judge's template 'poem'; --template tldr, hh, dpo-tldr-s, "),
        ({"body": "[1]"}, "--body '[1]' is no JSON object"),
        ({"concurrency": 0}, "--concurrency 0: expected from 1 to 256"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(server: Server, tmp_path: Path, options: dict[str, Any], line: str) -> None:
    folder = write_responses(tmp_path / "vgf")
    result = judge(server, folder, **options)
    assert result.exit_code == 2 and line in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert server.requests == [] and not list(folder.glob("verdicts-*"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", r"responses\.jsonl is empty"),
        ('{"seed": 0, "L_test": 1, "episode"', r"responses\.jsonl:1: "),
        ('{"seed": 0, "episode": 0, "prompt": "", "response": "", "reference": ""}', "1: L_test: Field required"),
        ('{"seed": 0, "L_test": 1, "episode": 0, "prompt": "", "response": 3, "reference": ""}', "response: .*is 3"),
        ("[1, 2]", "1: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_broken_responses_are_named(tmp_path: Path, content: str, line: str) -> None:
    folder = write_responses(tmp_path / "vgf")
    (folder / "responses.jsonl").write_text(content)
    with pytest.raises(tasks.BadInput, match=line):
        read(folder)


def test_nothing_to_judge_and_twice_the_same(tmp_path: Path) -> None:
    nothing = CliRunner().invoke(app, [str(tmp_path), "--judge", "gold"])
    assert nothing.exit_code == 2 and "no responses.jsonl in" in nothing.stderr
    folder = write_responses(tmp_path / "vgf")
    path = folder / "responses.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(tasks.BadInput, match=":25: another response for the same seed, L_test, episode"):
        read(folder)


def test_the_model_that_was_optimised_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    model = tmp_path / "artifacts" / "abc123"
    model.mkdir(parents=True)
    stages = [{"name": "reward_model", "fingerprint": "abc123", "steps": 20}]
    folder = write_responses(tmp_path / "vgf", stages=stages)
    refused = CliRunner().invoke(app, [str(folder), "--judge", "reward-model", "--model", str(model)])
    assert refused.exit_code == 2 and "is the reward model that the run optimised (abc123)" in refused.stderr


@pytest.mark.parametrize(
    ("recorded", "judge"),
    [
        ("models/rm", "{cwd}/models/rm"), ("models/rm", "./models/rm"), ("models/rm", "models/rm/"),
        ("{cwd}/models/rm", "models/rm"), ("models/rm", "elsewhere/copy"), ("elsewhere/copy", "models/rm"),
        ("models/gone", "{cwd}/other/models/gone"), ("owner/name", "owner/name"), ("{cwd}/linked", "models/rm"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_refused_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, judge: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("models/rm", b"1"), ("elsewhere/copy", b"1"), ("other/models/gone", b"2")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(content)
    (tmp_path / "linked").symlink_to("models/rm")
    config = {"reward_checkpoint": {"value": recorded.format(cwd=tmp_path), "origin": "set"}}
    write_responses(tmp_path / "vgf", config=config)
    words = ["vgf", "--judge", "reward-model", "--model", judge.format(cwd=tmp_path)]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "is the reward model that the run optimised" in refused.stderr


@pytest.mark.parametrize("judge", ["artifacts/abc123/state/20", "artifacts/abc123/../abc123", "exported", "models/rm"])
def test_what_a_stage_made_is_refused_wherever_it_lies(tmp_path: Path, judge: str) -> None:
    results = tmp_path / "results"
    for folder in (results / "artifacts/abc123/state/20", results / "exported"):
        folder.mkdir(parents=True)
        (folder / "reward-0.safetensors").write_bytes(b"1")
    (results / "models" / "rm").mkdir(parents=True)  # another one, which may judge
    (results / "models" / "rm" / "model.safetensors").write_bytes(b"2")
    stages = [{"name": "reward_model", "fingerprint": "abc123", "steps": 20}]
    folder = write_responses(results / "runs" / "tldr" / "tldr" / "vgf" / "def456", stages=stages)
    known = reward_model.names(str(results / judge))
    if judge == "models/rm":
        refuse_optimised(judge, known, read(folder).optimised)
    else:
        with pytest.raises(tasks.BadInput, match="is the reward model that the run optimised"):
            refuse_optimised(judge, known, read(folder).optimised)


def test_each_seed_has_its_verdicts(server: Server, tmp_path: Path) -> None:
    """The results, a run or a seed may be named; messages name the seed, ten after two."""
    run = tmp_path / "results" / "runs" / "tldr" / "tldr" / "vgf" / "def456"
    two, ten = write_seeds(run, (2, 10))
    asked = judge(server, ten)
    assert asked.exit_code == 0 and len(verdicts(ten)) == 12 and not list(two.glob("verdicts-*"))
    assert {row["seed"] for row in verdicts(ten)} == {"10"} and read(ten).name == "vgf def456 seed 10"
    for place in (run, tmp_path / "results"):
        for path in run.rglob("verdicts-*"):
            path.unlink()
        result = judge(server, place)
        said = [line for line in result.stderr.splitlines() if "win rate" in line]
        assert result.exit_code == 0 and all(f"seed-{seed}/" in line for seed, line in zip((2, 10), said, strict=True))
        assert [len(verdicts(folder)) for folder in (two, ten)] == [12, 12]


def test_a_torn_seed_takes_no_other_down(server: Server, tmp_path: Path) -> None:
    torn, strange, sound = write_seeds(tmp_path / "vgf" / "def456", (0, 1, 2))
    (torn / "run.json").write_text("{")
    path = strange / "responses.jsonl"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    result = judge(server, tmp_path)
    said = [line for line in result.stderr.splitlines() if line.startswith("left out: ")]
    assert result.exit_code == 1 and len(said) == 2 and f"{torn / 'run.json'}:1" in said[0]
    assert said[1] == f"left out: {path} has responses of seed 2, which the run.json beside it does not have"
    assert len(verdicts(sound)) == 12 and not [*torn.glob("verdicts-*"), *strange.glob("verdicts-*")]


def test_the_reward_model_of_another_seed_was_optimised_too(tmp_path: Path) -> None:
    run = tmp_path / "results" / "runs" / "tldr" / "tldr" / "vgf" / "def456"
    for seed in (0, 1):
        stage = {"name": "reward_model", "fingerprint": f"abc{seed}", "steps": 20}
        write_seeds(run, (seed,), stages=[stage])
        (model := tmp_path / "results" / "artifacts" / f"abc{seed}" / "state").mkdir(parents=True)
        (model / "reward.safetensors").write_bytes(b"%d" % seed)
    (run / "seed-5").mkdir()
    (run / "seed-5" / "run.json").write_text("{")  # says nothing, and hides nothing
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "reward.safetensors").write_bytes(b"1")
    assert {"abc0", "abc1"} <= read(run / "seed-0").optimised
    for model in (copy, tmp_path / "results" / "artifacts" / "abc1"):
        refused = CliRunner().invoke(app, [str(run / "seed-0"), "--judge", "reward-model", "--model", str(model)])
        assert refused.exit_code == 2 and "is the reward model that the run optimised" in refused.stderr
