"""Data in several files, of which one is in memory: OGBench's 100M sets, at a small size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.errors import BadInput
from harness.config import RunSettings
from harness.control import check_series
from harness.plan import plan_run
from harness.training import Training
from tasks.core import Dataset, Provenance
from tasks.data import series
from tasks.data.series import Series, files_of
from tasks.ogbench import suite as ogbench
from tests.harness.command import invoke
from tests.tasks.test_ogbench_files import ANT, ant_file

NAME = ANT.name
RUN = ("--suite", "ogbench", "--tasks", NAME, "--methods", "fql", "--preset", "smoke", "--seeds", "1", "--steps", "40",
       "--set", "hidden_dims=8", "--set", "flow_steps=2", "--episodes", "1", "--evaluate-every", "40",
       "--set", "batch_size=16")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files whose observations tell them apart, named so that the order of letters is not theirs."""
    place = tmp_path / "big"
    place.mkdir()
    for number in (10, 2, 1):
        ant_file(place / f"ant-{number}.npz", observations=np.full((12, 29), float(number)))
    ant_file(place / "ant-1-val.npz")
    return place


def test_files_come_in_the_order_of_their_numbers(folder: Path, tmp_path: Path) -> None:
    assert [path.name for path in files_of(folder)] == ["ant-1.npz", "ant-2.npz", "ant-10.npz"]
    with pytest.raises(BadInput, match=r"empty has no NPZ file to train on$"):
        (tmp_path / "empty").mkdir()
        files_of(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"empty is a folder, and there is no NPZ file in it$"):
        ANT.load(str(tmp_path / "empty"))


def test_a_folder_is_a_dataset_whose_order_is_on_record(folder: Path) -> None:
    data = ANT.load(str(folder))
    assert data.provenance.details["files"] == ["ant-1.npz", "ant-2.npz", "ant-10.npz"]
    assert data.provenance.details["updates_a_file"] == 1000 and data.provenance.origin == "given"
    assert data.provenance.details["transitions"] == 3 * len(data) == 27
    assert data.series is not None
    seen = [float(data.part(data.series.place(step)).transitions["observations"][0, 0])
            for step in (0, 999, 1000, 1999, 2000, 2999, 3000, 5500)]  # fmt: skip
    assert seen == [1, 1, 2, 2, 10, 10, 1, 10]
    assert ANT.load(str(folder)).identity == data.identity != ANT.load(str(folder / "ant-1.npz")).identity
    assert ANT.data_location(str(folder)).text.endswith("big, 3 files")


def test_the_next_file_is_read_ahead_and_each_is_read_once_a_round() -> None:
    read: list[str] = []

    def reading(path: Path) -> dict[str, np.ndarray]:
        read.append(path.name)
        return {"observations": np.zeros((1, 1))}

    files = Series([Path("a"), Path("b"), Path("c")], reading, every=2)
    whole = Dataset({"rewards": np.zeros(1)}, Provenance("", "", ""), series=files)
    for step in range(0, 12, 2):
        whole.part(files.place(step))
    files._reader.shutdown()
    assert read[:6] == ["a", "b", "c", "a", "b", "c"] and len(read) == 7
    alone = Series([Path("a")], reading)
    alone.transitions(0)
    assert alone._ahead is None


def test_no_span_learns_from_two_files(folder: Path) -> None:
    """Pieces end at an evaluation, at a row of the log and at a change of files, wherever they start."""
    training = Training.__new__(Training)
    training.series, training.log_every, training.step = ANT.load(str(folder)).series, 700, 0
    assert training._spans(2500) == [(0, 700), (700, 300), (1000, 400), (1400, 600), (2000, 100), (2100, 400)]
    training.step = 2150
    assert training._spans(3100) == [(2150, 650), (2800, 200), (3000, 100)]
    training.series = None
    assert training._spans(3100) == [(2150, 650), (2800, 300)]


def test_a_bad_file_is_told_before_anything_is_trained(folder: Path) -> None:
    ant_file(folder / "ant-11.npz", actions=np.zeros((12, 7), np.float32))
    with pytest.raises(BadInput, match=r"ant-11\.npz: actions has shape \(12, 7\), expected \(12, 8\)$"):
        ANT.load(str(folder))
    for wrong, line in (({"observations": np.float32(1)}, r"observations has shape \(\), expected \(29,\)"),
                        ({"terminals": np.array(["a"] * 12)}, r": terminals holds no numbers"),
                        ({"actions": None}, r": column 'actions' is missing")):  # fmt: skip
        ant_file(folder / "ant-11.npz", **wrong)
        with pytest.raises(BadInput, match=line):
            ANT.load(str(folder))
    whole = (folder / "ant-1.npz").read_bytes()
    (folder / "ant-11.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"ant-11\.npz is not an NPZ file of numbers, or it is truncated or damaged$"):
        ANT.load(str(folder))
    ant_file(folder / "ant-11.npz", terminals=np.zeros(12, bool))
    with pytest.raises(BadInput, match=r"ant-11\.npz breaks off within an episode"):
        ANT.load(str(folder))


@pytest.mark.slow
def test_equal_files_are_as_one_and_a_stop_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Of two files with one content the parts are those of the content; of three that differ, a run of 40 steps that
    was made in two goes is equal to one that was not, and other than that of the first file alone."""
    monkeypatch.setattr(ogbench.OGBenchTask, "_series", partial_series(7))
    twice = tmp_path / "twice"
    twice.mkdir()
    for number in (1, 2):
        ant_file(twice / f"ant-{number}.npz")
    single = ant_file(tmp_path / "single.npz")
    whole, one = (parts(tmp_path / f"r{i}", str(data)) for i, data in enumerate((twice, single)))
    assert whole == one
    several, first = parts(tmp_path / "r2", str(folder)), parts(tmp_path / "r3", str(folder / "ant-1.npz"))
    assert several != first
    stopped = tmp_path / "r4"
    taken = Training._take

    def stop(self: Training, result: object) -> None:
        taken(self, result)  # type: ignore[arg-type]
        if self.step == 21:
            self.session.stop.wish()

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_take", stop)
        assert invoke(*RUN, "--data", str(folder), "--results", str(stopped)).exit_code == 130
    assert not list(stopped.glob("artifacts/*/state/40.safetensors"))
    assert parts(stopped, str(folder)) == several


def partial_series(every: int):
    """`_series` with another number of updates to a file."""
    own = ogbench.OGBenchTask._series

    def changed(self: ogbench.OGBenchTask, folder: Path):
        made = own(self, folder)
        made.series.every = every
        return made

    return changed


def parts(results: Path, data: str) -> list[bytes]:
    done = invoke(*RUN, "--data", data, "--results", str(results))
    assert done.exit_code == 0, done.stderr
    return [path.read_bytes() for path in sorted(results.glob("artifacts/*/state/40.safetensors"))]


def test_what_needs_all_of_the_data_is_refused(folder: Path) -> None:
    data, sizes = ANT.load(str(folder)), RunSettings(seeds=(0,), episodes=1, evaluate_every=5, log_every=5)
    from harness.config import parse_set

    sets = parse_set(["vgf.behavior=pretrained", "vgf.bank=4"])
    run = plan_run(ANT, "data", "vgf", sets, sizes)
    with pytest.raises(BadInput, match=r"its stage 'critic' looks at the whole dataset"):
        check_series(run, data)
    check_series(plan_run(ANT, "data", "fql", (), sizes), data)
    assert partial(check_series, run)(ANT.load(str(folder / "ant-1.npz"))) is None
    assert series.EVERY == 1000
