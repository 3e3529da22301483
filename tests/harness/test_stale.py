"""Code that has changed since something was made: it is refused, reused or made anew, and words about code are none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import provenance
from tests.harness.command import TINY, held, invoke, refused
from tests.harness.test_provenance import HERE, forget

TWO = (*TINY, "--seeds", "1", "--steps", "10", "--set", "behavior_steps=10", "--methods", "bc,best_of_n", "--set",
       "test_n=2", "--results")  # fmt: skip
"""One behaviour; best-of-N's critic, whose proposals are its samples."""
CHOICE = "--stale redo makes it anew, --stale reuse takes what is there"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both. Not to be changed."""
    results = tmp_path_factory.mktemp("trained") / "results"
    done = invoke(*TWO, str(results))
    assert done.exit_code == 0, done.stderr
    return results


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "results"))


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code, which stands for ours when digests are taken."""
    folder = tmp_path / "code"
    for name in ("methods", "harness"):
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", folder)
    forget()
    yield folder
    forget()


def change(path: Path, line: str = "CHANGED = True") -> None:
    path.write_text(f"{path.read_text()}\n{line}\n")
    forget()


def times(results: Path) -> dict[str, int]:
    """When each lane and record was written, by its name."""
    found = {}
    for path in results.rglob("*.json"):
        name = re.search(r'"stage": "(\w+)"', path.read_text()) if path.name == "stage.json" else None
        found[name[1] if name else path.parts[-4]] = path.stat().st_mtime_ns
    assert found.keys() == {"behavior", "critic", "bc", "best_of_n"}
    return found


def redone(results: Path, *more: str) -> set[str]:
    """What a run makes anew."""
    before = times(results)
    done = invoke(*TWO, str(results), *more)
    assert done.exit_code == 0, done.stderr
    return {name for name, time in times(results).items() if time != before[name]}


def test_what_no_code_of_a_method_says_changes_nothing(results: Path, code: Path) -> None:
    file = code / "methods" / "behavior.py"
    file.write_text(file.read_text().replace('"""', '"""Other words: ', 1))
    change(file, "# a comment")
    change(code / "methods" / "vgf.py")  # another's
    change(code / "harness" / "show.py")  # trains nothing
    (code / "methods" / "new.py").write_text("x = 1\n")
    assert redone(results) == set()


@pytest.mark.parametrize("file, whose, anew", [
    ("methods/best_of_n.py", "best_of_n on toy, seed 0 was", {"critic", "best_of_n"}),
    ("methods/behavior.py", "bc on toy, seed 0 and 1 more runs was", {"behavior", "critic", "bc", "best_of_n"}),
])  # fmt: skip
def test_a_changed_line(file: str, whose: str, anew: set[str], results: Path, code: Path) -> None:
    change(code / file)
    said, before = f"{file} changed since {whose} trained", times(results)
    assert refused(*TWO, str(results)) == f"{said}; {CHOICE}"
    looked = invoke(*TWO, str(results), "--dry-run")
    assert looked.exit_code == 0 and f"{said}; {CHOICE}\n" in looked.stdout and "to do: 0 lanes" in looked.stdout
    reused = invoke(*TWO, str(results), "--stale", "reuse")
    assert reused.exit_code == 0 and f"{said}; reused\n" in reused.stderr and times(results) == before
    looked = invoke(*TWO, str(results), "--dry-run", "--stale", "redo").stdout
    lanes = len(anew & {"behavior", "critic"})
    assert f"{said}; made anew\n" in looked and f"to do: {lanes} lane{'s' * (lanes > 1)} in " in looked
    assert times(results) == before and redone(results, "--stale", "redo") == anew
    assert redone(results) == set()  # it is of this code now


def test_code_that_went_on_with_it_counts_too(results: Path, code: Path) -> None:
    """Also when the code that began it is back."""
    note = next(path for path in results.rglob("stage.json") if '"stage": "critic"' in path.read_text())
    content = json.loads(note.read_text())
    file = "methods/best_of_n.py"
    note.write_text(json.dumps(content | {"code_later": {**content["code"], file: "0" * 16}}))
    assert refused(*TWO, str(results)) == f"{file} changed since best_of_n on toy, seed 0 was trained; {CHOICE}"
    assert redone(results, "--stale", "redo") == {"critic", "best_of_n"} and redone(results) == set()


def to_do(results: Path, *more: str) -> list[str]:
    """Lines of a dry run."""
    done = invoke(*TWO, str(results), "--dry-run", *more)
    assert done.exit_code == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("names", ["bc,best_of_n", "best_of_n,bc"])
def test_a_lane_is_the_same_for_all_who_read_it(names: str, results: Path, code: Path) -> None:
    """BC trained the behaviour: whoever is asked for first, it is made anew, and what was learned on it."""
    change(code / "methods" / "bc.py")
    lines = to_do(results, "--methods", names, "--stale", "redo")
    assert lines[-1].startswith("to do: 2 lanes in 2 programs") and not any("finished" in line for line in lines)


def test_who_does_not_reach_a_changed_file_is_not_stopped_by_it(results: Path, code: Path) -> None:
    change(code / "methods" / "bc.py")
    assert redone(results, "--methods", "best_of_n") == set()


def test_a_changed_loop_counts(results: Path, code: Path) -> None:
    change(code / "harness" / "train.py")
    line = "harness/train.py changed since bc on toy, seed 0 and 1 more runs was trained"
    assert refused(*TWO, str(results)) == f"{line}; {CHOICE}"


def test_lanes_without_records_count_and_other_seeds_do_not(results: Path, code: Path) -> None:
    shutil.rmtree(results / "runs")
    change(code / "methods" / "behavior.py")
    line = refused(*TWO, str(results), "--seeds", "2")
    assert line.startswith("methods/behavior.py changed since bc on toy, seed 0 and 1 more runs was trained; ")
    assert not (results / "runs").exists()
    lines = to_do(results, "--seeds", "1-1")
    assert lines[-1].startswith("to do: 2 lanes in 2 programs") and "changed" not in "".join(lines)


def test_fresh_asks_nobody(results: Path, code: Path) -> None:
    change(code / "methods" / "behavior.py")
    lines = to_do(results, "--fresh")
    assert lines[-1].startswith("to do: 2 lanes in 2 programs") and "changed" not in "".join(lines)


def test_what_another_process_writes_is_not_made_anew(results: Path, code: Path) -> None:
    change(code / "methods" / "best_of_n.py")
    (folder,) = (results / "runs" / "toy" / "toy" / "best_of_n").glob("*/seed-0")
    before = times(results)
    with held(folder) as other:
        line = refused(*TWO, str(results), "--stale", "redo")
    assert line.endswith(f"; it cannot be made anew: {folder} is being written by process {other.pid}")
    assert times(results) == before


@pytest.mark.parametrize("value", ["", "ask"])
def test_what_stale_may_say(value: str, tmp_path: Path) -> None:
    line = refused(*TWO, str(tmp_path / "r"), "--stale", value)
    assert line == ("--stale ask: expected reuse or redo" if value else "--stale: is empty")
