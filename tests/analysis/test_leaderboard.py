"""Who stands where, how sure that is, and what every row is linked to."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from analysis import published_command, report
from analysis.statistics.ranks import places, standings
from tests.analysis.command import invoke
from tests.analysis.synthetic import write_run

CUBE = "cube-single-play-singletask-task{}-v0"
SCENE = "scene-play-singletask-task1-v0"


def test_places_by_hand() -> None:
    """Means over two tasks: 50, 60, 60, 10; equals share a place and the next one is left out."""
    scores = np.array([[40.0, 60.0], [60.0, 60.0], [20.0, 100.0], [10.0, 10.0]])
    assert places(scores).tolist() == [3, 1, 1, 4]


def test_standings_by_hand() -> None:
    """Without any spread within a task, draws differ by tasks alone. Of two tasks A wins one by 20 and B the other by
    10: a draw has (20 + 20, 10 - 10...)/2: A is first unless both slots drew B's task, a quarter of the draws."""
    a, b = [np.full(3, 70.0), np.full(3, 30.0)], [np.full(3, 50.0), np.full(3, 40.0)]
    found = standings([a, b], np.random.default_rng(0))
    assert found.place.value.tolist() == [1, 2] and found.score.value.tolist() == [50.0, 45.0]
    assert found.place.low.tolist() == [1, 1] and found.place.high.tolist() == [2, 2]
    assert (found.score.low[0], found.score.high[0]) == (30.0, 70.0)
    assert found.rank.value.tolist() == [1.5, 1.5]
    assert (found.rank.low[0], found.rank.high[0]) == (1.0, 2.0)
    sure = standings([[np.full(3, 70.0)] * 2, [np.full(3, 50.0)] * 2], np.random.default_rng(0))
    assert sure.place.high.tolist() == [1, 2] and sure.place.low.tolist() == [1, 2]


def test_standings_of_one_task_draw_seeds() -> None:
    """The interval of the mean of seeds 0 and 10: draws are 0, 5 or 10."""
    found = standings([[np.array([0.0, 10.0])], [np.array([4.0, 4.0])]], np.random.default_rng(0))
    assert (found.score.low[0], found.score.high[0]) == (0.0, 10.0)
    assert found.place.low.tolist() == [1, 1] and found.place.high.tolist() == [2, 2]


@pytest.mark.parametrize("tasks, spread, noise", [(5, 10.0, 1.0), (5, 1.0, 10.0), (10, 10.0, 10.0)])
def test_intervals_hold_the_truth_as_often_as_the_page_says(tasks: int, spread: float, noise: float) -> None:
    """New tasks with true means around 0, three seeds each: at least COVERAGE's share, less three standard errors."""
    rng, hits, runs = np.random.default_rng(1), 0, 400
    for _ in range(runs):
        strata = [mean + rng.normal(0, noise, 3) for mean in rng.normal(0, spread, tasks)]
        score = standings([strata], rng, 400).score
        hits += bool(score.low[0] <= 0 <= score.high[0])
    said = {5: 0.84, 10: 0.90}[tasks]
    assert hits / runs > said - 3 * (said * (1 - said) / runs) ** 0.5


@pytest.mark.parametrize("strata", [[], [[]], [[np.zeros(0)]]])
def test_standings_of_nothing(strata: list[list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="no methods"):
        standings(strata, np.random.default_rng(0))


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
    assert "iql (1 of 3 tasks)" in parts["all tasks"]
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
