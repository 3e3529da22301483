"""Who stands where, how sure that is, and what every row is linked to."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from analysis import published_command, report
from analysis.leaderboard import _shared
from analysis.statistics.estimates import coverage
from analysis.statistics.ranks import Standings, places, standings
from tests.analysis.command import invoke
from tests.analysis.synthetic import split, write_run

CUBE = "cube-single-play-singletask-task{}-v0"
SCENE = "scene-play-singletask-task1-v0"


def test_places_by_hand() -> None:
    """Means over two tasks: 50, 60, 60, 10; equals share a place and the next one is left out."""
    scores = np.array([[40.0, 60.0], [60.0, 60.0], [20.0, 100.0], [10.0, 10.0]])
    assert places(scores).tolist() == [3, 1, 1, 4]


def generators(methods: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, number]) for number in range(methods)]


def stand(
    strata: Sequence[Sequence[np.ndarray]], floor: float = 0.0, seed: int = 0, resamples: int = 2000
) -> Standings:
    floors = np.full((len(strata), len(strata[0]) if strata else 0), floor)
    return standings(strata, floors, np.random.default_rng(seed), generators(len(strata), seed), resamples)


def test_standings_by_hand() -> None:
    """Without any spread within a task, draws differ by tasks alone: A's mean of two tasks is 30, 50 or 70, and its
    lead over B 20, 5 or -10, so that nobody is shown to be first."""
    found = stand([[np.full(3, 70.0), np.full(3, 30.0)], [np.full(3, 50.0), np.full(3, 40.0)]])
    assert found.place.tolist() == [1, 2] and found.score.value.tolist() == [50.0, 45.0]
    assert found.low.tolist() == [1, 1] and found.high.tolist() == [2, 2]
    assert (found.score.low[0], found.score.high[0]) == (30.0, 70.0)
    assert found.rank.tolist() == [1.5, 1.5]


def test_what_never_varies_shows_nothing_until_episodes_say_how_much_it_may() -> None:
    """Two seeds that agree by chance: only a floor of their variance tells how far a lead can be trusted."""
    strata = [[np.full(3, 70.0)] * 6, [np.full(3, 50.0)] * 6]
    assert stand(strata).high.tolist() == [2, 2]
    assert stand(strata, floor=4.0).high.tolist() == [1, 2] and stand(strata, floor=4.0).low.tolist() == [1, 2]
    assert stand(strata, floor=4000.0).high.tolist() == [2, 2]


def test_places_on_one_task_are_what_welch_shows() -> None:
    """40 +- 10 against 60 +- 10 at three seeds is p = .07: not shown; 160 is, against both."""
    known = [np.array([30.0, 40.0, 50.0]), np.array([50.0, 60.0, 70.0]), np.array([150.0, 160.0, 170.0])]
    found = stand([[one] for one in known])
    assert found.place.tolist() == [3, 2, 1] and np.isnan(found.score.low).all()
    assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == [(2, 3), (2, 3), (1, 1)]


@pytest.mark.parametrize(("methods", "tasks"), [(3, 10), (10, 10), (20, 10), (10, 3)])
def test_places_of_equal_methods_hold_as_often_as_the_page_says(methods: int, tasks: int) -> None:
    """All are equal over all tasks that there could be, so every true place is 1: at least 95%, less three standard
    errors, of repetitions have all of them."""
    rng, hits, runs = np.random.default_rng(1), 0, 120
    for run in range(runs):
        level, own = rng.normal(0, 15, tasks), rng.normal(0, 8, (methods, tasks))
        strata = [[level[t] + own[m, t] + rng.normal(0, 6, 5) for t in range(tasks)] for m in range(methods)]
        hits += bool((stand(strata, seed=run, resamples=400).low == 1).all())
    assert hits / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


def test_a_method_that_is_far_better_is_first() -> None:
    rng = np.random.default_rng(2)
    strata = [[rng.normal(50 + 30 * (m == 1), 5, 5) for _ in range(10)] for m in range(6)]
    found = stand(strata)
    assert (found.low[1], found.high[1]) == (1, 1) and (np.delete(found.low, 1) == 2).all()


def test_one_method_more_moves_no_interval() -> None:
    rng = np.random.default_rng(3)
    strata = [[rng.normal(50, 5, 4) for _ in range(5)] for _ in range(3)]
    few, many = stand(strata[:2]), stand(strata)
    assert few.score.low.tolist() == many.score.low[:2].tolist()


@pytest.mark.parametrize(("tasks", "spread", "noise"), [(5, 10.0, 1.0), (5, 1.0, 10.0), (10, 10.0, 10.0)])
def test_intervals_of_means_hold_the_truth_as_often_as_the_page_says(tasks: int, spread: float, noise: float) -> None:
    """New tasks with true means around 0, three seeds each: at least COVERAGE's share, less three standard errors."""
    rng, hits, runs = np.random.default_rng(1), 0, 400
    for run in range(runs):
        strata = [mean + rng.normal(0, noise, 3) for mean in rng.normal(0, spread, tasks)]
        score = stand([strata], seed=run, resamples=400).score
        hits += bool(score.low[0] <= 0 <= score.high[0])
    said = coverage(tasks) / 100
    assert hits / runs > said - 3 * (said * (1 - said) / runs) ** 0.5


@pytest.mark.parametrize("strata", [[], [[]], [[np.zeros(0)]]])
def test_standings_of_nothing(strata: list[list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="no methods"):
        stand(strata)


def test_the_tasks_ranked_over() -> None:
    """vgf 1-4, fql 2-5, iql 2-4: three methods have 2-4. Where all have all, all; where nobody shares, one's own."""
    assert _shared([set("1234"), set("2345"), set("234")]) == set("234")
    assert _shared([set("12"), set("12"), set("1")]) == set("12")
    assert _shared([set("123"), set("4")]) == set("123")
    assert _shared([set(), set()]) == set()


def sections(page: str) -> dict[str, str]:
    return {re.findall("<h3>(.*?)</h3>", one)[0]: one for one in re.findall(r"<section.*?</section>", page, re.DOTALL)}


def rows(section: str) -> list[list[str]]:
    body = section[section.index("<tbody>") :]
    plain = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall("<tr>.*?</tr>", body)]
    return [[html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in plain]


def level(score: float) -> Callable[[float, dict[str, float]], float]:
    return lambda progress, setting: score


def pages(root: Path, *options: str) -> tuple[dict[str, str], Path]:
    out = root.parent / "report"
    done = invoke(report.app, str(root), "--out", str(out), *options)
    assert done.exit_code == 0, done.output
    return {path.name: path.read_text() for path in out.iterdir()}, out


def test_a_page_a_protocol_with_its_environments(tmp_path: Path) -> None:
    """Three tasks of two environments, an imported method, one that lacks a task, another protocol."""
    root = tmp_path / "results"
    for method, base in (("vgf", 60.0), ("fql", 40.0)):
        for task in (CUBE.format(1), CUBE.format(2), SCENE):
            write_run(root, method, "ogbench", task, seeds=3, effect=level(base), protocol="fql")
    write_run(root, "iql", "ogbench", SCENE, seeds=3, effect=level(99.0), protocol="fql")
    write_run(root, "fql", "ogbench", SCENE, "0" * 12, seeds=3, effect=level(20.0), protocol="qam")
    write_run(root, "vgf", "ogbench", SCENE, "1" * 12, seeds=3, offline=5, protocol="fql")
    table = tmp_path / "theirs.csv"
    lines = [f"T,{task},{seed},{90 + seed}" for task in (CUBE.format(1), CUBE.format(2), SCENE) for seed in range(3)]
    table.write_text("\n".join(["method,task,seed,score", *lines]) + "\n")
    words = ["import", str(table), "--results", str(root), "--source", "https://example.org/paper?a=1, table <b>"]
    done = invoke(published_command.app, *words)
    assert done.exit_code == 0, done.output
    found, out = pages(root, "--protocol", "*")
    assert set(found) == {
        "index.html", "leaderboard-ogbench-fql.html", "leaderboard-ogbench-fql-online.html",
        "leaderboard-ogbench-qam.html",
    }  # fmt: skip
    page = found["leaderboard-ogbench-fql.html"]
    assert 'href="leaderboard-ogbench-fql.html"' in found["index.html"]
    parts = sections(page)
    assert list(parts) == ["all tasks", "cube-single-play", "scene-play"]
    assert [row[0] for row in rows(parts["all tasks"])] == ["T (theirs)", "vgf", "fql"]
    assert [row[1] for row in rows(parts["all tasks"])] == ["1", "2", "3"]
    assert "iql (1 of 3 tasks finished)" in parts["all tasks"]
    assert [row[0] for row in rows(parts["scene-play"])][:2] == ["iql", "T (theirs)"]
    assert "<b>" not in page and "&lt;b&gt;" in page and 'href="https://example.org/paper?a=1"' in page
    assert "python -m analysis.published import theirs.csv" in html.unescape(page)
    links = [html.unescape(link) for link in re.findall(r'<td class="long"><a href="(.*?)"', page)]
    assert len(links) == 3 * 2 + 1 + 3
    for link in links:
        assert (out / unquote(link)).exists(), link
    for anchor in re.findall(r'<th scope="row".*?><a href="#(.*?)"', page):
        assert f'<details id="{anchor}"' in page
    assert "harness.run --suite ogbench --tasks scene-play-singletask-task1-v0 --methods iql" in html.unescape(page)
    assert [row[0] for row in rows(next(iter(sections(found["leaderboard-ogbench-qam.html"]).values())))] == ["fql"]


def test_what_is_imported_lacks_nothing_that_could_be_run(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write_run(root, "vgf", "ogbench", SCENE, seeds=5)
    table = tmp_path / "theirs.csv"
    table.write_text(f"method,task,seed,score\nFQL,{CUBE.format(1)},0,50\nFQL,{CUBE.format(1)},1,60\n")
    assert invoke(published_command.app, "import", str(table), "--results", str(root)).exit_code == 0
    found, _ = pages(root)
    assert "--methods 'FQL (theirs)'" not in html.unescape(found["index.html"])


def test_unfinished_runs_are_not_ranked_and_lost_seeds_are_told(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write_run(root, "vgf", "ogbench", SCENE, seeds=3, effect=level(50.0))
    write_run(root, "fql", "ogbench", SCENE, seeds=3, effect=level(40.0))
    write_run(root, "iql", "ogbench", SCENE, seeds=3, effect=level(99.0), evaluations=2, status="failed", error="lost")
    folders = split(write_run(root, "rebrac", "ogbench", SCENE, seeds=3, effect=level(60.0)))
    note = folders[1] / "run.json"
    note.write_text("{")
    found, _ = pages(root)
    part = next(iter(sections(found["leaderboard-ogbench-fql.html"]).values()))
    assert "iql (0 of 1 tasks finished)" in part and "may be first: iql" not in found["index.html"]
    assert {row[0] for row in rows(part)} >= {"vgf", "fql"} and "iql" not in {row[0] for row in rows(part)}
    assert [row[6] for row in rows(part) if row[0] == "rebrac"] == ["2 of 3"]


def test_the_oracle_ranks_nothing(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write_run(root, "vgf", "ogbench", SCENE, seeds=3, knobs={"L_test": [0, 1]})
    found, _ = pages(root, "--select", "oracle")
    assert set(found) == {"index.html"} and "no leaderboard under the oracle" in found["index.html"]
