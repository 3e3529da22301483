"""`--track`: what people watch says what the records say, after an interruption, too; and it never costs a run."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import track
from tests.harness.command import SMALL, Command, invoke, refused

pytest.importorskip("tensorboardX")
event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of all event files there; no step stands twice."""
    (file,) = folder.glob("events.out.*")
    events = event_accumulator.EventAccumulator(str(file))
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        rows = [(event.step, event.value) for event in events.Scalars(tag)]
        assert len(dict(rows)) == len(rows), tag
        found[tag] = dict(rows)
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def compare(results: Path) -> None:
    """The events of every seed beside its tables."""
    notes = sorted(results.glob("runs/**/run.json"))
    assert len(notes) == 2
    for note in notes:
        folder = note.parent
        found = scalars(results / "track" / "tensorboard" / folder.relative_to(results / "runs"))
        for row in table(folder / "train.csv"):
            for name, value in row.items():
                if name not in ("seed", "step"):
                    assert found[f"train/{name}"][int(row["step"])] == pytest.approx(float(value), rel=1e-5)
        scores: dict[tuple[int, str], list[float]] = {}
        for row in table(folder / "episodes.csv"):
            scores.setdefault((int(row["step"]), row["L_test"]), []).append(float(row["score"]))
        assert {int(level) for _, level in scores} == {0, 2}
        for (step, level), values in scores.items():
            mean = sum(values) / len(values)
            assert found[f"evaluate/score/L_test_{level}"][step] == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert len(found["evaluate/score/L_test_0"]) == len(json.loads(note.read_text())["evaluation_steps"])


def test_tensorboard_has_what_the_tables_have(tmp_path: Path) -> None:
    done = invoke(*SMALL, "--results", str(tmp_path), "--track", "tensorboard")
    assert done.exit_code == 0, done.stderr
    compare(tmp_path)


def test_a_run_that_goes_on_is_told_once(tmp_path: Path, command: Command) -> None:
    """Killed after some rows were told, and gone on with: every row stands once, those of before among them."""
    words = [*SMALL, "--results", str(tmp_path), "--track", "tensorboard"]
    killed = command.run(*words, accident="harness.train:Trainer.run 3 after SIGKILL")
    assert killed.returncode == -9
    assert list(tmp_path.glob("track/tensorboard/**/events.out.*"))
    done = invoke(*words)
    assert done.exit_code == 0, done.stderr
    compare(tmp_path)


def test_off_by_default(tmp_path: Path) -> None:
    assert invoke(*SMALL, "--results", str(tmp_path)).exit_code == 0
    assert not (tmp_path / "track").exists()


def test_the_numbers_are_the_same_with_and_without(tmp_path: Path) -> None:
    for name, more in (("with", ("--track", "tensorboard")), ("without", ())):
        assert invoke(*SMALL, "--results", str(tmp_path / name), *more).exit_code == 0
    for path in (tmp_path / "with").glob("runs/**/episodes.csv"):
        other = tmp_path / "without" / path.relative_to(tmp_path / "with")
        assert path.read_bytes() == other.read_bytes()


class Broken:
    def begin(self, folder: Path, about: Any) -> Any:
        return self

    def log(self, rows: Any) -> None:
        raise RuntimeError("no route to host")

    def end(self, status: str) -> None:
        raise RuntimeError("no route to host")


def test_a_tracker_that_fails_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "TensorBoard", Broken)
    done = invoke(*SMALL, "--results", str(tmp_path), "--track", "tensorboard")
    assert done.exit_code == 0 and done.stderr.count("no route to host; tracking ends here, the runs go on") == 1
    assert len(list(tmp_path.glob("runs/**/episodes.csv"))) == 2


def test_words_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(*SMALL, "--track", "mlflow") == "--track mlflow: expected tensorboard or wandb"
    assert "has no meaning with results at a URL" in refused(
        *SMALL, "--track", "tensorboard", "--results", "s3://b/results"
    )
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused(*SMALL, "--track", "wandb", "--results", str(tmp_path))
    assert line == "--track wandb: is not installed: pip install -c constraints.txt -e '.[track]'"


def test_means_by_hand() -> None:
    rows = [{"step": 5, "seed": 0, "N": 1, "score": 10.0, "success": ""}, {"step": 5, "seed": 0, "N": 1, "score": 30.0},
            {"step": 5, "seed": 0, "N": "4", "score": "7"}, {"step": 9, "seed": 0, "N": 1, "score": 1.0}]  # fmt: skip
    assert track.means(rows, ["N"]) == {5: {"evaluate/score/N_1": 20.0, "evaluate/score/N_4": 7.0},
                                        9: {"evaluate/score/N_1": 1.0}}  # fmt: skip
    assert track.means([{"step": 1, "score": 2.0}], []) == {1: {"evaluate/score": 2.0}}


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in: files that `wandb sync` sends later; a second session tells what is new alone."""
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    done = invoke(*SMALL, "--seeds", "1", "--results", str(tmp_path / "results"), "--track", "wandb")
    assert done.exit_code == 0 and "tracking ends" not in done.stderr, done.stderr
    (file,) = tmp_path.glob("results/track/wandb/**/*.wandb")
    content = file.read_bytes()
    assert b"evaluate/score/L_test_2" in content and b"train/" in content and b"test_flow_steps" in content
    (notes,) = tmp_path.glob("results/track/wandb/**/seed-0/*.json")
    assert track.told(notes) == {"train": 40, "evaluate": 40}


class Sink:
    """Stands for a run of W&B: what it was told."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)


def test_wandb_is_told_everything_once(tmp_path: Path) -> None:
    """A session that is killed after it told an evaluation, and does it again; training of the same step is another."""
    first, second = Sink(), Sink()
    one = track._WandbRun(first, tmp_path / "told.json")
    one.log({10: {"train/loss": 1.0}})
    one.log({10: {"evaluate/score": 5.0}})
    two = track._WandbRun(second, tmp_path / "told.json")
    two.log({10: {"train/loss": 1.0}, 20: {"train/loss": 0.5}})
    two.log({10: {"evaluate/score": 5.0}, 20: {"evaluate/score": 6.0}, 30: {}})
    assert [row["step"] for row in first.rows] == [10, 10] and [row["step"] for row in second.rows] == [20, 20]


def test_a_run_that_is_begun_afresh_is_another_one(tmp_path: Path) -> None:
    about = {"fingerprint": "abc", "seed": 1, "created": "2026-01-01"}
    assert (
        track.identity_of(about) == track.identity_of(dict(about)) != track.identity_of({**about, "created": "later"})
    )
    assert track.told(tmp_path / "nothing") == {}
    (tmp_path / "half").write_text('{"train": 1')
    assert track.told(tmp_path / "half") == {}


def test_a_package_that_cannot_be_loaded_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise TypeError("Descriptors cannot be created directly")

    monkeypatch.setattr(track, "TensorBoard", broken)
    done = invoke(*SMALL, "--results", str(tmp_path), "--track", "tensorboard")
    assert done.exit_code == 0 and "Descriptors cannot be created directly; tracking ends here" in done.stderr
    assert len(list(tmp_path.glob("runs/**/episodes.csv"))) == 2


class Counting:
    """A tracker that counts experiments which were begun and not ended."""

    begun = 0
    ended: list[str] = []  # noqa: RUF012

    def begin(self, folder: Path, about: Any) -> Any:
        Counting.begun += 1
        return self

    def log(self, rows: Any) -> None:
        pass

    def end(self, status: str) -> None:
        Counting.ended.append(status)


def test_what_was_begun_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that is stopped, too: its seeds are ended once each, whatever became of them."""
    monkeypatch.setattr(track, "TensorBoard", Counting)
    words = [*SMALL, "--results", str(tmp_path), "--track", "tensorboard"]
    assert invoke(*words, "--stop-after", "1s").exit_code == 130
    assert Counting.begun == len(Counting.ended)
    assert invoke(*words).exit_code == 0
    assert Counting.begun == len(Counting.ended) and Counting.ended[-2:] == ["finished", "finished"]


def test_a_session_that_leaves_seeds_to_another_closes_its_experiments(tmp_path: Path) -> None:
    tracking, before = track.Tracking(Counting()), len(Counting.ended)  # type: ignore[arg-type]
    folder = tmp_path / "runs" / "toy"
    folder.mkdir(parents=True)
    watch = tracking.begin(tmp_path, folder, {}, [])
    tracking.close()
    assert Counting.ended[before:] == ["left"] and watch.experiment is None
    tracking.close()
    assert len(Counting.ended) == before + 1
