"""The report: what it says of records that are whole or not, that it is escaped and closed, and works in a browser."""

from __future__ import annotations

import html
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis import report
from analysis.against import against
from analysis.figures.embed import DPI, Picture, packed, picture
from analysis.figures.pyplot import plt
from analysis.missing import gaps
from analysis.published import FOLDER, read
from analysis.query import Query
from analysis.records.load import load
from analysis.scoreboard import boards
from tests.analysis.command import invoke
from tests.analysis.synthetic import write_candidates, write_run
from tests.analysis.test_latex import exact

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SCENE = "scene-play-singletask-task1-v0"
EVIL = "<script>document.title='owned'</script>"


def command(root: Path, out: Path) -> tuple[str, str]:
    """(the page, what the command printed)."""
    result = invoke(report.app, str(root), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert {path.name.partition("-")[0] for path in out.iterdir()} <= {"index.html", "leaderboard"}
    return (out / "index.html").read_text(), result.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on a task, one of them failed with a message that is markup, and figures."""
    root = tmp_path_factory.mktemp("results")
    knobs = {"L_test": [0, 1]}
    more = {"versions": {"jax": "0.10.2"}, "device": {"platform": "gpu", "kind": "NVIDIA H200", "count": 1}}
    write_candidates(write_run(root, "vgf", "ogbench", SCENE, knobs=knobs, evaluations=2, **more), knobs)
    write_run(root, "fql", "ogbench", SCENE, evaluations=2, status="failed", error=EVIL, settings={"note": "<i>x</i>"})
    out = root / "report"
    command(root, out)
    return out / "index.html"


def test_page_is_closed_and_escaped(page: Path) -> None:
    text = page.read_text()
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    beside = {one.name for one in page.parent.iterdir()} - {page.name}  # pages that are linked to
    assert addresses and all(one.startswith(("data:", "#")) or one in beside for one in addresses)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text
    assert EVIL not in text and html.escape(EVIL, quote=False).split("'")[0] in text
    assert "<i>x</i>" not in text and "&lt;i&gt;x&lt;/i&gt;" in text
    assert text.count("<script>") == 1  # its own


def test_page_says_what_there_is(page: Path) -> None:
    text = html.unescape(page.read_text())
    said = ["NVIDIA H200", "5a" * 32, "0.10.2", "2 runs, 1,500 episodes", "1 failed", "scene-play-task1", "step_size"]
    for one in (*said, "of 1,000,000 steps", "differs; n=5", "105 printed numbers without a run"):
        assert one in text, one
    for name in ("learning", "knob-L_test", "wall-clock", "gradients", "transport", "profiles", "improvement"):
        assert f'-{name}.csv" href="data:text/csv' in text, name


class Tree(HTMLParser):
    """The elements of a page; an error where one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder = ElementTree.TreeBuilder()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in ("meta", "img", "input"):
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def parsed(page: Path) -> ElementTree.Element:
    return Tree(page.read_text()).root


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def test_page_opens_with_scores_then_verdicts_then_figures(page: Path) -> None:
    """By hand: two methods on one task; FQL's 5 seeds failed at the end, so its mean has a dagger."""
    tree = parsed(page)
    assert [one.text for one in tree.iter("h2")] == [
        "Scores", "Verdicts", "Figures over tasks", "Tasks", "Missing", "Provenance", "Notes"]  # fmt: skip
    table = next(one for one in tree.iter("table") if one.get("class") == "means")
    assert [text_of(one) for one in table.iter("th")] == ["task", "fql", "vgf", "scene-play-task1"]
    cells = [text_of(one) for one in table.iter("td")]
    expected, _ = boards(load(page.parents[1]))
    for cell, score in zip(cells, expected[0].tasks[0].scores, strict=True):
        assert score is not None and cell.startswith(f"{score.mean:.1f} ± {score.std:.1f}")
    assert cells[0].endswith("\N{DAGGER}") and not cells[1].endswith("\N{DAGGER}")
    text = text_of(tree)
    assert "5 seeds of 50 episodes" in text and "never bold by a test" in text


def test_verdicts_between_methods_by_hand(tmp_path: Path) -> None:
    """Seeds 0 to 2 of three methods on two tasks: b scores 10, 11, 12 and 30, 31, 32; a 5 less; c as b on one task.
    Welch of each: t = 5 / sqrt(2 / 3) = 6.12, four degrees of freedom, p = 0.0036; doubled and more by Holm."""
    for method, shift in (("a", -5.0), ("b", 0.0), ("c", 0.0)):
        for task, level in (("one", 10.0), ("two", 30.0))[: 1 if method == "c" else 2]:
            exact(tmp_path, method, task, level + shift, suite="toy")
    (board,), _ = boards(load(tmp_path))
    of = against(board, load(tmp_path))
    assert of is not None and of.first == "a"  # as many tasks as b, and by name before it
    ab, ac = of.pairs
    assert (ab.second, ab.tasks, ab.better, ab.worse, ab.tested) == ("b", 2, 0, 2, 2)
    assert ab.over.difference == pytest.approx(-5) and ab.verdict == "b is better on average"
    assert (ac.second, ac.tasks, ac.better, ac.worse) == ("c", 1, 0, 1) and ac.over.p == pytest.approx(0.0036, abs=1e-4)
    assert ac.verdict == "c is better on this task" and ac._replace(worse=0).verdict == "no difference shown"
    assert of.tests["p_welch_holm"].tolist() == pytest.approx([3 * 0.0036] * 3, abs=2e-4)
    asked = Query(methods=("c", "b")).load(tmp_path)
    of = against(boards(asked)[0][0], asked)
    assert of is not None and of.first == "c" and of.pairs[0].verdict == "no difference shown"
    pages, _ = report.build(asked, FOLDER, Query(methods=("c", "b")))
    text = pages["index.html"]
    assert "toy: c against the others" in text and "no difference shown" in text


def test_page_is_accessible(page: Path) -> None:
    """Headings in order, cells with scope, pictures with text, controls that are buttons, names for what scrolls."""
    tree = parsed(page)
    parents = {child: parent for parent in tree.iter() for child in parent}
    levels = [int(one.tag[1]) for one in tree.iter() if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(one.get("scope") in ("row", "col") for one in tree.iter("th"))
    for table in tree.iter("table"):
        around = parents[table]
        assert around.get("class") == "scroll" and around.get("aria-label") and around.get("tabindex") == "0"
        assert all(row[0].tag == "th" for row in table.iterfind("tbody/tr"))  # which stays where the row is scrolled
    shown = [one for one in tree.iter("img") if one.get("id") != "large-image"]
    assert shown and all(one.get("alt") and parents[one].tag == "button" for one in shown)
    identities = [one.get("id") for one in tree.iter() if one.get("id")]
    assert len(identities) == len(set(identities))
    assert {one.get("aria-labelledby") for one in tree.iter()} <= {None, *identities}
    assert tree.get("lang") == "en" and "width=device-width" in page.read_text()


def test_colours_can_be_read(page: Path) -> None:
    """WCAG 2: text has a contrast of 4.5 to what is behind it, in the light and in the dark."""

    def luminance(color: str) -> float:
        digits = color * 2 if len(color) == 3 else color
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return sum(w * one for w, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    themes = re.findall(r":root \{(.*?)\}", page.read_text())
    assert len(themes) == 2 and "prefers-color-scheme: dark" in page.read_text()
    for theme in themes:
        of = {name: luminance(color) for name, color in re.findall(r"--(\w+): #(\w+)", theme)}
        for ink, behind in itertools.product(("ink", "soft", "link"), ("paper", "tint")):
            low, high = sorted((of[ink], of[behind]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, behind)


def test_nothing_is_wider_than_a_phone_but_what_scrolls(page: Path) -> None:
    """Of the style: widths in fixed units stay below 360 pixels (22.5rem), unless they are bounds or scroll."""
    style = re.sub(r"/\*.*?\*/", "", re.findall(r"<style>(.*?)</style>", page.read_text(), re.DOTALL)[0])
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        for name, value in re.findall(r"(?<![\w-])((?:min-)?width): ([^;]+)", body):
            sizes = [float(one) for one in re.findall(r"([\d.]+)rem", value)]
            inside = ".pan" in selector or "min(" in value or "max-width: 100%" in body
            assert inside or all(size <= 20 for size in sizes), (selector, name, value)
    for said in (".scroll { overflow-x: auto", "th[scope=row] { position: sticky; left: 0", "overflow-wrap: anywhere"):
        assert said in style


STUB = """
const made = {};
const on = (one) => Object.assign(one, {handlers: {}, addEventListener(name, f) { this.handlers[name] = f; }});
const image = (end, i) => ({src: `data:image/png;base64,${end}`, alt: `figure ${i}; more`});
const pictures = ["AA", "BB"].map(image).map((one) => on({querySelector: () => one}));
const ways = [on({dataset: {way: "-1"}}), on({dataset: {way: "1"}})];
made.large = on({open: false, showModal() { this.open = true; }, close() { this.open = false; },
                 querySelectorAll: () => ways});
const document = {
  getElementById: (id) => id === "filter" ? null : made[id] ??= on({}),
  querySelectorAll: (selector) => selector === ".enlarge" ? pictures : [],
};
"""
PLAYED = """
const seen = [];
const look = () => seen.push([made.large.open, made["large-image"].src.slice(-2), made["large-name"].textContent]);
pictures[0].handlers.click(); look();
ways[1].handlers.click(); look();
ways[1].handlers.click(); look();
made.large.handlers.keydown({key: "ArrowLeft"}); look();
made.large.handlers.keydown({key: "x"}); made.close.handlers.click(); look();
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(NODE is None, reason="no Node is installed: the page's script was not run")
def test_pictures_enlarge(page: Path, tmp_path: Path) -> None:
    """A click opens the dialog with the same picture; arrows go round; nothing is asked of a network."""
    (script,) = re.findall(r"<script>(.*?)</script>", page.read_text(), re.DOTALL)
    (tmp_path / "page.js").write_text(STUB + script.replace('"use strict";', "") + PLAYED)
    done = subprocess.run([str(NODE), tmp_path / "page.js"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout or done.stderr) == [
        [True, "AA", "figure 0"], [True, "BB", "figure 1"], [True, "AA", "figure 0"], [True, "BB", "figure 1"],
        [False, "BB", "figure 1"]]  # fmt: skip
    assert "showModal" in script and "fetch" not in script and "innerHTML" not in script


def test_a_picture_is_small_and_true() -> None:
    """A crowded figure of 7 x 4 inches takes less than 100 kB, a part of its full colours, and looks the same."""
    figure, axes = plt.subplots(figsize=(7, 4))
    steps = np.arange(50)
    for i in range(20):
        axes.plot(steps, np.sin(steps / 9 + i), marker="o", label=f"method {i}")
        axes.fill_between(steps, np.sin(steps / 9 + i) - 0.1, np.sin(steps / 9 + i) + 0.1, alpha=0.2)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    small, width, height = packed(buffer.getvalue())
    assert (width, height) == (7 * DPI, 4 * DPI) and len(small) < 100e3 and len(small) < 0.6 * len(buffer.getvalue())
    one, two = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (buffer.getvalue(), small))
    assert np.abs(one - two).mean() < 2.0 and (two[0, 0] == 255).all()
    shown = picture(figure, pd.DataFrame({"x": [1.0]}), "crowd")
    assert len(shown.image) < 4 / 3 * 100e3 + 99 and (shown.width, shown.height) == (7 * DPI, 4 * DPI)


def test_a_page_of_fifty_runs_is_below_five_megabytes(page: Path) -> None:
    """What it takes is of three kinds: figures, of which fifty runs of ten tasks have some seventy; a run's facts and
    settings, and a fixed part (published numbers, style)."""
    tree, size = parsed(page), len(page.read_bytes())
    images = [len(one) for one in (one.get("src", "") for one in tree.iter("img"))]
    numbers = [len(one) for one in (one.get("href", "") for one in tree.iter("a") if one.get("download"))]
    rest = size - sum(images) - sum(numbers)
    assert 100 * max(images) < 4.5e6 and sum(images) / len(images) < 40e3
    assert 70 * sum(images) / len(images) + 70 * sum(numbers) / len(numbers) + rest < 4.5e6


def test_what_is_missing_and_its_command(tmp_path: Path) -> None:
    write_run(tmp_path, "vgf", "ogbench", SCENE, seeds=2, status="running", knobs={"L_test": [0, 1]})
    settings = {"alpha": {"value": 3.0, "origin": "--set"}, "steps": {"value": 500, "origin": "--steps"}}
    config = settings | {"batch_size": {"value": 64, "origin": "preset cpu"}}
    write_run(tmp_path, "fql", "toy", "toy", seeds=1, config=config)
    write_run(tmp_path, "bc", "toy", "other")
    published, _ = read()
    found = {gap.what: gap for gap in gaps(load(tmp_path), published)}
    where = ["--results", str(tmp_path)]
    running = found[f"ogbench/{SCENE}/vgf/3f9a12c0ffee"]
    start = ["python", "-m", "harness.run"]
    assert running.why == "killed" and shlex.split(running.command) == [
        *start, "--suite", "ogbench", "--tasks", SCENE, "--methods", "vgf", "--seeds", "2", *where]  # fmt: skip
    few = found["toy/toy fql"]
    assert few.why == "1 seed; the paper has 5" and shlex.split(few.command)[9:] == [
        "--seeds", "5", "--preset", "cpu", "--set", "fql.alpha=3.0", "--steps", "500", *where]  # fmt: skip
    assert shlex.split(found["toy: bc"].command)[5:9] == ["--tasks", "toy", "--methods", "bc"]
    missing_vgf = next(gap for what, gap in found.items() if what.startswith("ogbench: ") and "vgf" in what)
    assert "44 tasks" in missing_vgf.why and SCENE not in missing_vgf.command
    for suite in ("tldr", "hh"):  # one row each: every method of Table 3
        (gap,) = (gap for what, gap in found.items() if what.startswith(f"{suite}: "))
        assert shlex.split(gap.command)[3:7] == ["--suite", suite, "--tasks", suite] and "best_of_n" in gap.command


def test_the_command_of_what_is_printed_asks_for_its_protocol(tmp_path: Path) -> None:
    run = write_run(tmp_path, "fql", "ogbench", SCENE)
    said = {gap.what for gap in gaps(load(tmp_path), read()[0])}
    assert any(what.startswith("ogbench: ") for what in said) and not any("[qam]" in what for what in said)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"protocol": "qam"}))
    found = {gap.what: gap.command for gap in gaps(load(tmp_path), read()[0])}
    printed = [command for what, command in found.items() if what.startswith("ogbench [qam]: ")]
    assert printed and all(command.count("--protocol qam") == 1 for command in printed)
    assert not any(what.startswith("ogbench: ") for what in found) and "bam" not in " ".join(found)


def test_the_command_of_a_swept_setting_names_its_value(tmp_path: Path) -> None:
    for alpha in (1.0, 10.0, 100.0):
        config = {"alpha": {"value": alpha, "origin": "--sweep"}, "tau": {"value": 0.5, "origin": "default"}}
        write_run(tmp_path, "fql", fingerprint=f"{int(alpha):012x}", seeds=1, config=config, status="failed")
    published, _ = read()
    commands = [gap.command for gap in gaps(load(tmp_path), published) if gap.what.startswith("toy/toy/fql/")]
    assert sorted(shlex.split(one)[11:13] for one in commands) == [
        ["--set", "fql.alpha=1.0"], ["--set", "fql.alpha=10.0"], ["--set", "fql.alpha=100.0"]]  # fmt: skip
    assert not any("tau" in one for one in commands)


def test_the_command_of_an_online_run_names_its_phase(tmp_path: Path) -> None:
    online = {"continues": "0" * 12, "from_step": 40, "steps": 200, "warmup": 0, "updates": 2, "capacity": 0}
    write_run(tmp_path, "fql", seeds=1, status="failed", online=online)
    write_run(tmp_path, "vgf", seeds=1, status="failed", online=online | {"capacity": 99})
    first, second = (shlex.split(gap.command) for gap in gaps(load(tmp_path), read()[0]) if gap.what.endswith("ffee"))
    phase = ["--online-steps", "200", "--online-warmup", "0", "--updates-per-step", "2"]
    assert first[11:-2] == phase and second[11:-2] == [*phase, "--replay-capacity", "99"]


@pytest.mark.parametrize("case", ["empty", "no rows", "one seed", "corrupt", "bad candidates"])
def test_records_that_are_not_whole(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.picture", lambda figure, frame, name: Picture(name, "", "", 1, 1))
    root = tmp_path / "results"
    root.mkdir()
    said = {"empty": "no runs under", "no rows": "has no evaluation yet"}.get(case, "")
    if case != "empty":
        folder = write_run(root, "fql", seeds=1, episodes=4, evaluations=1)
        if case == "no rows":
            (folder / "episodes.csv").write_text("")
        elif case == "corrupt":
            with (folder / "episodes.csv").open("a") as file:
                file.write("0,final\n")
            said = f"{folder / 'episodes.csv'}:6: 2 fields"
        elif case == "bad candidates":
            write_run(root, "vgf", seeds=2, episodes=4, evaluations=1, knobs={"L_test": [0, 1]})
            bad = root / "runs/toy/toy/vgf/3f9a12c0ffee/candidates.npz"
            bad.write_bytes(b"PK\x03\x04 cut short")
            said = f"{bad}: cannot be read"
    text, printed = command(root, tmp_path / "report")
    assert said in printed and said in html.unescape(text)
    assert "printed numbers without a run" in text  # published numbers stand there alone too


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    result = invoke(report.app, str(tmp_path / "none"), "--out", str(tmp_path / "report"))
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and not (tmp_path / "report").exists()


PROBE = """<script>{
const table = document.querySelector("#scored table"), head = table.querySelectorAll("thead th")[3];
const means = () => [...table.tBodies[0].rows].map((row) => +row.cells[3].dataset.v);
document.querySelectorAll("details").forEach((one) => one.open = true);
const button = head.firstElementChild;
button.focus();
const focused = document.activeElement === button;
button.click(); const up = means();
button.click(); const down = means(), aria = head.getAttribute("aria-sort");
const filter = document.getElementById("filter");
filter.value = "FQL"; filter.dispatchEvent(new Event("input"));
const left = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
const opener = document.querySelectorAll(".enlarge")[1], dialog = document.querySelector("dialog");
opener.click();
const enlarged = dialog.open && document.getElementById("large-image").src === opener.querySelector("img").src;
dialog.close();
const controls = [...document.querySelectorAll(".scroll, a, button, summary, input")];
const unreachable = controls.filter((one) => one.tabIndex < 0);
const loaded = [...document.images].map((image) => image.decode().then(() => true, () => false));
Promise.all(loaded).then((images) => parent.postMessage(JSON.stringify({
  enlarged, focused, up, down, aria, left, images, unreachable: unreachable.length, title: document.title,
  wide: document.documentElement.scrollWidth, screen: innerWidth,
  asked: performance.getEntriesByType("resource").map((one) => one.name).filter((name) => !name.startsWith("data:")),
}), "*"));
}</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page was not tried in a browser")
def test_in_a_browser_on_a_phone(page: Path, tmp_path: Path) -> None:
    """360 pixels wide: nothing hangs over, tables sort and filter, every control can be reached by keyboard."""
    (tmp_path / "page.html").write_text(page.read_text().replace("</body>", PROBE))
    listen = '<script>onmessage = (e) => document.getElementById("out").textContent = e.data</script>'
    frame = '<pre id="out"></pre><iframe src="page.html" width="360" height="800" style="border:0"></iframe>'
    (tmp_path / "phone.html").write_text(f"<!DOCTYPE html><body>{listen}{frame}</body>")
    address = (tmp_path / "phone.html").as_uri()
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, profile, "--virtual-time-budget=20000", "--dump-dom", address],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert seen["screen"] == 360 and seen["wide"] <= 360
    assert seen["focused"] and seen["enlarged"] and seen["unreachable"] == 0
    assert (
        seen["up"] == sorted(seen["up"]) and seen["down"] == sorted(seen["up"], reverse=True) and len(seen["up"]) == 4
    )
    assert seen["aria"] == "descending" and seen["left"] == 1
    assert len(seen["images"]) >= 8 and all(seen["images"])
    assert seen["title"].startswith("Report on") and seen["asked"] == []
