"""`analysis.tables --paper table3`: win rates by every judge, with intervals and without comparisons of judges."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis import tables, verdicts
from analysis.compare import Terms
from analysis.published import COLUMNS, FOLDER, FURTHER
from analysis.query import Query
from analysis.records.load import load
from analysis.tables import app
from analysis.winrates import NOT_COMPARED, beside
from tasks import judge as judging
from tests.analysis.command import Result, invoke, refused
from tests.analysis.synthetic_language import write_language
from tests.analysis.test_verdicts import sealed
from tests.tasks.judges.server import Server

LENGTHS = {0: 20.0, 1: 40.0, 2: 30.0}
"""L_test -> tokens of VGF's responses, five characters each, beside a reference of 150 characters."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A judge that prefers what is longer."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    server = Server(lambda a, b: "A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie")
    yield server
    server.close()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """SFT answers as the reference does, VGF shorter, longer or as long, by L_test; nobody has judged."""
    write(tmp_path, "sft", lambda _: 30.0)
    write(tmp_path, "vgf", lambda setting: LENGTHS[int(setting["L_test"])], {"L_test": [0, 1, 2]})
    return tmp_path


def write(
    root: Path, method: str, length: Callable[[dict[str, float]], float], knobs: dict[str, list[float]] | None = None,
    **more: object,
) -> Path:  # fmt: skip
    options = {"suite": "tldr", "seeds": 2, "prompts": 20, "noise": 0.0, **more}
    means = lambda setting: {"length": length(setting), "eos": 1.0}  # noqa: E731
    return write_language(root, method, means, knobs, **options)  # type: ignore[arg-type]


def judge(server: Server, results: Path, *options: str, model: str = "m") -> None:
    words = ["--judge", "http", "--model", model, "--base-url", server.url, "--price", "0,0"]
    done = CliRunner().invoke(judging.app, [str(results), *words, "--cache", str(results / "a.sqlite"), *options])
    assert done.exit_code == 0, done.stderr


def table3(results: Path, *options: str) -> tuple[Result, pd.DataFrame]:
    done = invoke(app, str(results), "--paper", "table3", *options)
    assert done.exit_code == 0, done.stderr
    return done, pd.read_csv(results / "tables" / "paper" / "table3.csv", keep_default_na=True)


def test_every_judge_has_its_rows_and_its_name(server: Server, results: Path) -> None:
    judge(server, results, "--template", "dpo-tldr-c")
    judge(server, results, "--knob", "L_test=1", model="other")
    done, found = table3(results)
    rows = found[(found["task"] == "tldr") & (found["runs"] > 0)]
    first, second = sorted(rows["judge"].unique())
    assert first.startswith("http-m-dpo-tldr-c-") and re.fullmatch(r"http-other-[0-9a-f]{8}", second)
    by = rows.set_index(["judge", "method"])
    assert by.loc[(first, "vgf"), ["measured", "picks", "consistent", "prompts"]].tolist() == [100, "L_test=1", 1, 20]
    low, high = by.loc[(first, "vgf"), ["measured_low", "measured_high"]]
    assert (low, high) == (pytest.approx(100 * 20 / (20 + 1.959964**2)), 100)  # Wilson's of 20 of 20: n / (n + z^2)
    assert by.loc[(first, "sft"), "measured"] == 50 and by.loc[(second, "vgf"), "picks"] == "L_test=1"
    assert set(found["verdict"]) == {NOT_COMPARED} and found["difference"].isna().all()
    assert f"Judge {first}: m, asked with dpo-tldr-c." in done.stdout
    assert f"Judge {second}: other, asked with tldr." in done.stdout
    assert "Win rates by different judges are never compared" in done.stdout
    assert f"tldr, judged by {first}: 2 of 5 methods (the others: no run)" in done.stdout
    assert max(map(len, done.stdout.split("Measured:")[0].splitlines())) <= 100


def test_without_a_deviation_an_interval_needs_its_n(server: Server, results: Path, tmp_path: Path) -> None:
    """The paper does not say n, and none is invented; where a file says it, Wilson's interval: by hand, for 48.5% of
    1000, centre (.485 + z^2/2000) / (1 + z^2/1000), half-width z sqrt(.485 .515/1000 + z^2/4e6) / (1 + z^2/1000)."""
    judge(server, results)
    done, found = table3(results)
    assert found["published_low"].isna().all() and "48.5 (n unknown)" in done.stdout
    assert "n unknown: print does not say how many prompts were judged" in done.stdout
    lines = (FOLDER / "table3_rlhf.csv").read_text().splitlines()
    (tmp_path / "print").mkdir()
    text = [",".join((*COLUMNS, *FURTHER)), f"{lines[1]},1000,gpt-4-0314", *(f"{line},," for line in lines[2:])]
    (tmp_path / "print" / "theirs.csv").write_text("\n".join(text) + "\n")
    done, found = table3(results, "--published", str(tmp_path / "print"))
    sft = found[(found["published_method"] == "SFT") & (found["task"] == "tldr")].iloc[0]
    assert sft[["published_low", "published_high"]].tolist() == pytest.approx([45.415, 51.597], abs=0.001)
    assert "48.5 [45.4, 51.6]" in done.stdout and "Print's judge: gpt-4-0314." in done.stdout
    page = (results / "tables" / "paper" / "table3.md").read_text()
    assert r"48.5 \[45.4, 51.6\]" in page and "61.2 (n unknown)" in page


def test_the_two_orders_are_reported(server: Server, results: Path) -> None:
    """A judge that takes what comes first: all ties, none consistent but SFT's, whose texts are the references."""
    server.prefers = lambda first, second: "A"
    judge(server, results, "--knob", "L_test=1")
    done, found = table3(results)
    by = found[found["runs"] > 0].set_index("method")
    assert by["consistent"].to_dict() == {"sft": 1.0, "vgf": 0.0} and by["measured"].to_dict() == {"sft": 50, "vgf": 50}
    assert re.search(r"VGF +50\.0 \[[^]]*\] +0\.0% +20 x 2 +L_test=1 \(fixed\) +68\.1 \(n unknown\)", done.stdout)
    assert "so a judge that goes by the order says 50" in done.stdout


def test_the_rule_picks_by_the_judge_s_verdicts(server: Server, results: Path) -> None:
    judge(server, results)
    _, found = table3(results, "--select", "fixed:0")
    assert found.set_index("method").loc["vgf", ["measured", "picks"]].iloc[0].tolist() == [0, "L_test=0"]
    records = load(results)
    published = tables.read(FOLDER)[0]
    rows, _, _ = beside(records, published[published["table"] == "table3"], Terms.of(Query.of(select="fixed:7")))
    assert "no L_test=7 among L_test=0, L_test=1, L_test=2" in set(rows["why"])


def test_several_runs_are_not_pooled(server: Server, results: Path) -> None:
    write(results, "sft", lambda _: 40.0, fingerprint="2b" * 6)
    judge(server, results)
    _, found = table3(results)
    sft = found[(found["task"] == "tldr") & (found["method"] == "sft")].iloc[0]
    assert pd.isna(sft["measured"]) and sft["why"] == "2 runs (1a1a1a1a, 2b2b2b2b), --run names one"
    _, found = table3(results, "--run", "2b2b")
    assert found[(found["task"] == "tldr") & (found["method"] == "sft")].iloc[0]["measured"] == 100


def test_what_nobody_has_judged_is_said(results: Path) -> None:
    done, found = table3(results)
    assert set(found.loc[found["task"] == "tldr", "why"]) == {"not judged yet", "no run"}
    assert "tldr/tldr: not judged yet by a judge that counts here: sft, vgf; python -m tasks.judge" in done.stdout


def test_the_proxy_is_refused(tmp_path: Path) -> None:
    """Alone, before anything is written; among other tables, in a note."""
    write_language(
        tmp_path, "sft", lambda _: {"length": 30.0, "gold": 2.0}, suite="tldr", task_options={"judge": "proxy"}
    )
    line = refused(app, str(tmp_path), "--paper", "table3")
    assert line.startswith("tldr/tldr: the judge recorded:proxy (task.judge=proxy) is the reward model that runs there")
    assert "judge by another one: python -m tasks.judge" in line and not (tmp_path / "tables").exists()
    done = invoke(app, str(tmp_path), "--paper", "all")
    assert done.exit_code == 0 and line in done.stdout
    found = pd.read_csv(tmp_path / "tables" / "paper" / "table3.csv")
    assert found["measured"].isna().all() and len(found) == 10


def test_beside_another_judge_only_the_proxy_is_left_out(server: Server, tmp_path: Path) -> None:
    write_language(tmp_path, "sft", lambda _: {"length": 40.0, "gold": 2.0}, suite="tldr", seeds=1, prompts=20,
                   noise=0.0, task_options={"judge": "proxy"})  # fmt: skip
    judge(server, tmp_path)
    done, found = table3(tmp_path)
    assert found["measured"].dropna().tolist() == [100] and "recorded:proxy (task.judge=proxy) is the" in done.stdout


@pytest.mark.parametrize(
    "about",
    [
        {"optimised": True, "model": "rm", "weights": []}, {"model": "models/rm", "weights": []},
        {"model": "results/artifacts/ffff00000000/state", "weights": []}, {"model": "copy", "weights": ["5" * 64]},
        {"model": "copy", "weights": [], "contents": "6" * 64},
        {"model": "copy", "weights": [], "stage": "ffff00000000"},
    ],
)  # fmt: skip
def test_a_reward_model_that_was_optimised_is_refused_by_what_is_known_of_it(
    tmp_path: Path, about: dict[str, object]
) -> None:
    """By its own record, by name, by the stage's fingerprint, by the weights of the stage, and by the folder that was
    given; of SFT too, which has no reward model, where VGF beside it has."""
    folder = write(tmp_path, "sft", lambda _: 30.0, seeds=1)
    other = write(tmp_path, "vgf", lambda _: 30.0, seeds=1, config={"reward_checkpoint": {"value": "models/rm"}})
    run = json.loads((other / "run.json").read_text())
    run["stages"].append({"name": "reward_model", "fingerprint": "ffff00000000", "steps": 1})
    (other / "run.json").write_text(json.dumps(run))
    stage = {"finished": True, "step": 1, "identity": {"files": ["6" * 64]}, "files": {"a": "5" * 64}}
    (tmp_path / "artifacts" / "ffff00000000").mkdir(parents=True)
    (tmp_path / "artifacts" / "ffff00000000" / "stage.json").write_text(json.dumps(stage))
    by_reward_model(folder, "reward-model-x", about)
    assert "the judge reward-model-x is the reward model that runs there optimised" in refused(
        app, str(tmp_path), "--paper", "table3"
    )
    by_reward_model(folder, "reward-model-y", {"model": "another", "weights": ["7" * 64], "optimised": False})
    done, found = table3(tmp_path)
    assert found.loc[found["runs"] > 0, ["method", "judge"]].to_numpy().tolist() == [["sft", "reward-model-y"]]
    assert "Judge reward-model-y: the reward model another, which is not the one that was optimised." in done.stdout


def by_reward_model(folder: Path, name: str, about: dict[str, object]) -> None:
    rows = "".join(f"0,{episode},win,1,0\n" for episode in range(20))
    path = sealed(folder, name, f"seed,episode,verdict,swap_consistent,cost\n{rows}").with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "reward model", **about}))


def test_latex_has_intervals_and_no_average(server: Server, results: Path) -> None:
    judge(server, results)
    table3(results)
    text = (results / "tables" / "paper" / "table3.tex").read_text()
    assert "Average" not in text and r"100.0 {\scriptsize {[}83.9, 100.0{]}}" in text and "(48.5)" in text


def test_the_filter_of_knobs_in_win_rates(server: Server, results: Path) -> None:
    judge(server, results)
    done = invoke(verdicts.app, str(results), "--knob", "L_test=0,1")
    rows = pd.read_csv(results / "tables" / "winrates.csv")
    assert done.exit_code == 0 and rows["row"].tolist() == ["sft", "vgf L_test=0", "vgf L_test=1", "vgf (held-out)"]
    invoke(verdicts.app, str(results), "--knob", "vgf.L_test=2")
    assert pd.read_csv(results / "tables" / "winrates.csv")["row"].tolist() == ["sft", "vgf L_test=2"]
    assert "no run has such a knob; did you mean 'L_test'?" in refused(verdicts.app, str(results), "--knob", "L_tets=1")
    assert "no run has it; there is 0, 1, 2" in refused(verdicts.app, str(results), "--knob", "L_test=5")


def test_the_report_shows_judges_and_refuses_the_proxy(server: Server, results: Path) -> None:
    from analysis.report import build

    write_language(results, "dpo", lambda _: {"length": 30.0, "gold": 2.0}, suite="hh", task_options={"judge": "proxy"})
    judge(server, results, "--knob", "L_test=1")
    pages, notes = build(load(results), FOLDER)
    (name,) = {
        path.stem.removeprefix("verdicts-") for path in results.rglob("verdicts-http-*.json") if "tldr" in str(path)
    }
    assert f"tldr by {name}" in pages["index.html"] and "hh by recorded:proxy" not in pages["index.html"]
    assert any("hh/hh: the judge recorded:proxy" in note for note in notes)


@pytest.mark.slow
def test_another_reward_model_may_judge_and_the_optimised_one_may_not(results: Path) -> None:
    """By the real command: the shipped one, which VGF's run says it optimised, and a copy with other weights."""
    from safetensors.torch import load_file, save_file

    from tasks import shipped

    source = shipped("shipped:tldr-synthetic/reward_model")
    copy = results / "copy"
    copy.mkdir()
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            save_file({name: -value for name, value in load_file(path).items()}, copy / path.name, {"format": "pt"})
        elif path.name != "checkpoint.json":  # which says that it is the shipped one
            (copy / path.name).write_bytes(path.read_bytes())
    (vgf,) = (results / "runs" / "tldr" / "tldr" / "vgf").iterdir()
    run = json.loads((vgf / "run.json").read_text())
    run["config"]["reward_checkpoint"] = {"value": "shipped:tldr-synthetic/reward_model", "origin": "set"}
    (vgf / "run.json").write_text(json.dumps(run))
    for model, more in ((source, ["--allow-optimised"]), (copy, [])):
        words = [str(results), "--judge", "reward-model", "--model", str(model), "--episodes", "4", *more]
        done = CliRunner().invoke(judging.app, words)
        assert done.exit_code == 0, done.stderr
    done, found = table3(results)
    names = set(found.loc[found["runs"] > 0, "judge"])
    assert len(names) == 1 and names.pop().startswith("reward-model-copy-")
    assert "the judge reward-model-reward-model-" in done.stdout
