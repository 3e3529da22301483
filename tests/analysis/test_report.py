"""The report: what it says of records that are whole or not, that it is escaped and closed, and works in a browser."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import report
from analysis.missing import gaps
from analysis.published import read
from analysis.records.load import load
from tests.analysis.command import invoke
from tests.analysis.synthetic import write_candidates, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SCENE = "scene-play-singletask-task1-v0"
EVIL = "<script>document.title='owned'</script>"


def command(root: Path, out: Path) -> tuple[str, str]:
    """(the page, what the command printed)."""
    result = invoke(report.app, str(root), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.iterdir()] == ["index.html"]
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
    assert addresses and all(one.startswith(("data:", "#")) for one in addresses)
    assert "default-src 'none'" in text and "@import" not in text and "url(" not in text
    assert EVIL not in text and html.escape(EVIL, quote=False).split("'")[0] in text
    assert "<i>x</i>" not in text and "&lt;i&gt;x&lt;/i&gt;" in text
    assert text.count("<script>") == 1  # its own


def test_page_says_what_there_is(page: Path) -> None:
    text = html.unescape(page.read_text())
    said = ["NVIDIA H200", "5a" * 32, "0.10.2", "2 runs, 1,500 episodes", "1 failed", "scene-play-task1", "step_size"]
    for one in (*said, "of 1,000,000 steps", "differs; n=5", "105 without a run"):
        assert one in text, one
    for name in ("learning", "knob-L_test", "wall-clock", "gradients", "transport", "profiles", "improvement"):
        assert f'-{name}.csv" href="data:text/csv' in text, name


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
    monkeypatch.setattr("analysis.report.picture", lambda figure, frame, name: report.Picture(name, "", "", 1, 1))
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
const button = head.firstElementChild;
button.focus();
const focused = document.activeElement === button;
button.click(); const up = means();
button.click(); const down = means(), aria = head.getAttribute("aria-sort");
const filter = document.getElementById("filter");
filter.value = "FQL"; filter.dispatchEvent(new Event("input"));
const left = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
document.querySelectorAll("details").forEach((one) => one.open = true);
const controls = [...document.querySelectorAll(".scroll, a, button, summary, input")];
const unreachable = controls.filter((one) => one.tabIndex < 0);
const loaded = [...document.images].map((image) => image.decode().then(() => true, () => false));
Promise.all(loaded).then((images) => parent.postMessage(JSON.stringify({
  focused, up, down, aria, left, images, unreachable: unreachable.length, title: document.title,
  wide: document.documentElement.scrollWidth, screen: innerWidth,
  asked: performance.getEntriesByType("resource").map((one) => one.name).filter((name) => !name.startsWith("data:")),
}), "*"));
}</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page was not tried in a browser")
def test_in_a_browser_on_a_phone(page: Path, tmp_path: Path) -> None:
    """390 pixels wide: nothing hangs over, tables sort and filter, every control can be reached by keyboard."""
    (tmp_path / "page.html").write_text(page.read_text().replace("</body>", PROBE))
    listen = '<script>onmessage = (e) => document.getElementById("out").textContent = e.data</script>'
    frame = '<pre id="out"></pre><iframe src="page.html" width="390" height="800" style="border:0"></iframe>'
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
    assert seen["screen"] == 390 and seen["wide"] <= 390
    assert seen["focused"] and seen["unreachable"] == 0
    assert (
        seen["up"] == sorted(seen["up"]) and seen["down"] == sorted(seen["up"], reverse=True) and len(seen["up"]) == 4
    )
    assert seen["aria"] == "descending" and seen["left"] == 1
    assert len(seen["images"]) >= 8 and all(seen["images"])
    assert seen["title"].startswith("Report on") and seen["asked"] == []
