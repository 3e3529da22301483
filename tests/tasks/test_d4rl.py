"""D4RL tasks: how a file's rows become transitions, what is refused, where data come from, rewards and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import tasks
from core import files
from methods.core import BadInput
from tasks.core import RewardTransform
from tasks.d4rl import suite as d4rl
from tasks.minari import data as minari_data
from tasks.minari import files as minari_files
from tests.tasks.conftest import nan_at
from tests.tasks.d4rl_file import d4rl_file

HOPPER = d4rl.get("hopper-medium-v2")
MAZE = d4rl.get("antmaze-umaze-v2")

pytestmark = pytest.mark.usefixtures("d4rl_folders")


def kept(task: d4rl.D4RLTask) -> Path:
    """Where D4RL's package would have left the task's file."""
    return d4rl.data_folder() / d4rl.FILES[task.name].file


# ---- names ----


def test_names_are_the_paper_s():
    table = {"halfcheetah": 3, "hopper": 3, "walker2d": 3, "antmaze": 6}
    assert len(d4rl.PAPER_TASKS) == 15 == sum(table.values())
    assert {name: sum(task.startswith(name) for task in d4rl.PAPER_TASKS) for name in table} == table
    assert tuple(task.name for task in tasks.select("d4rl", [])) == d4rl.PAPER_TASKS == d4rl.names()
    assert {task.name for task in tasks.select("d4rl", ["antmaze-*-diverse-v2"])} == {
        "antmaze-umaze-diverse-v2", "antmaze-medium-diverse-v2", "antmaze-large-diverse-v2"}  # fmt: skip
    (local,) = tasks.select("d4rl", ["walker2d-medium-expert-local"])  # not made yet: loading it will say so
    assert local.name == "walker2d-medium-expert-local" and local.local and local.environment == "walker2d"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hopper-medum-v2", "unknown D4RL task 'hopper-medum-v2'; did you mean 'hopper-medium-v2'"),
        ("mujoco/hopper/medium-v0", "no Minari dataset mujoco/hopper/medium-v0 in .*; minari download mujoco/hopper/"),
    ],
)
def test_unknown_names_get_a_hint(name, line):
    with pytest.raises(BadInput, match=line):
        d4rl.get(name)


def test_files_are_d4rl_s():
    root = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
    walker, maze = d4rl.FILES["walker2d-medium-replay-v2"], d4rl.FILES["antmaze-medium-play-v2"]
    assert walker.urls[0] == f"{root}/gym_mujoco_v2/walker2d_medium_replay-v2.hdf5" == walker.usable[0]
    name = "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    assert maze.urls[0] == f"{root}/ant_maze_v2/{name}"
    assert maze.usable == (f"https://huggingface.co/datasets/imone/D4RL/resolve/main/{name}",)  # its hash is not known
    assert len(d4rl.SOURCES) == len(d4rl.FILES) == 15
    assert sum(len(source.sha256) == 64 and source.bytes is not None for source in d4rl.SOURCES.values()) == 14


# ---- transitions ----


def test_timeouts_are_dropped_and_terminals_kept():
    d4rl_file(kept(HOPPER))
    data = HOPPER.load()
    found = data.transitions
    # rows 7 and 8 timed out, row 9 is where the file breaks off: none has a successor
    assert found["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    # rows 2 and 3 terminate: what they lead to is the file's next observation, not the next episode's first
    assert found["next_observations"][:, 0].tolist() == [1, 2, 2.5, 3.5, 5, 6, 7]
    assert found["masks"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert found["terminals"].tolist() == [0, 0, 1, 1, 0, 0, 1]
    np.testing.assert_allclose(found["actions"][:, 2], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rtol=1e-6)
    following = data.columns({"next_actions"})["next_actions"][:, 0]
    np.testing.assert_allclose(following, [0.1, 0.2, 0, 0, 0.5, 0.6, 0], rtol=1e-6)
    assert all(column.dtype == np.float32 for column in found.values())


def test_an_episode_that_is_all_timeout_leaves_nothing():
    d4rl_file(kept(HOPPER), terminals=np.isin(np.arange(10), [1, 3]), timeouts=np.isin(np.arange(10), [4, 9]))
    found = HOPPER.load().transitions  # episodes 0-1, 2-3, 4, 5-9
    assert found["observations"][:, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_time_out_is_dropped_though_it_be_terminal():
    d4rl_file(kept(HOPPER), terminals=np.isin(np.arange(10), [2, 6, 7]))
    found = HOPPER.load().transitions  # rows 3 to 7 are an episode, but for row 6, which ends one
    assert found["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["masks"].tolist() == [1, 1, 0, 1, 1, 1, 0]


def test_without_next_observations_a_terminal_step_leads_to_itself():
    d4rl_file(kept(HOPPER), next_observations=None)
    assert HOPPER.load().transitions["next_observations"][:, 0].tolist() == [1, 2, 2, 3, 5, 6, 7]


def test_a_maze_s_episode_goes_on_at_its_goal():
    """Its terminals say that the ant is at the goal, where it stays until its time is up."""
    d4rl_file(kept(MAZE), obs=29, action=8, next_observations=None, rewards=np.isin(np.arange(10), [2, 3]) * 1.0)
    data = MAZE.load()
    found = data.transitions
    assert found["observations"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["next_observations"][:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found["masks"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert found["terminals"].tolist() == [0, 0, 1, 1, 0, 0, 1]
    assert found["rewards"].tolist() == [-1, -1, 0, 0, -1, -1, -1]
    assert data.reward == RewardTransform(shift=-1.0)


def test_returns_to_go_stay_within_an_episode():
    from methods.sfbc import planned_returns

    d4rl_file(kept(HOPPER), rewards=np.ones(10))
    data = HOPPER.load()
    steps = data.transitions["rewards"] / data.reward.scale
    masks, terminals = (data.transitions[name] for name in ("masks", "terminals"))
    togo = planned_returns(steps, masks, terminals, np.full(7, -np.inf, np.float32), 0.5)
    np.testing.assert_allclose(togo, [1.75, 1.5, 1, 1, 1.75, 1.5, 1], rtol=1e-6)


# ---- rewards and scores ----


def test_locomotion_rewards_are_scaled_by_the_span_of_returns():
    d4rl_file(kept(HOPPER))
    data = HOPPER.load()
    # returns 10 + 11 + 12 = 33 and 13; 14 + 15 + 16 = 45, broken off before 1000 rows, is none to VGF's code
    assert data.reward == RewardTransform(scale=1000 / (33 - 13))
    np.testing.assert_allclose(data.transitions["rewards"], np.arange(10, 17) * 50.0, rtol=1e-6)
    np.testing.assert_allclose(data.reward(np.array([2.0])), [100.0])  # what the online phase makes of a reward
    details = data.provenance.details
    assert details["reward"] == {"scale": 50.0, "shift": 0.0}
    assert (details["episodes"], details["return_max"]) == (3, 45.0)
    assert details["score_mean"] == pytest.approx(100 * ((33 + 13 + 45) / 3 + 20.272305) / (3234.3 + 20.272305))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("halfcheetah-medium-v2", -280.178953, 12135.0), ("hopper-medium-replay-v2", -20.272305, 3234.3),
     ("walker2d-medium-expert-v2", 1.629008, 4592.3), ("antmaze-large-diverse-v2", 0.0, 1.0)],
)  # fmt: skip
def test_scores_are_d4rl_s(name, low, high):
    score = d4rl.get(name).score
    returns = np.array([low, high, (low + high) / 2])
    np.testing.assert_allclose(score(returns, np.zeros(3)), [0, 100, 50], atol=1e-9)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"timeouts": None}, "column 'timeouts' is missing"),
        ({"observations": np.zeros((10, 17))}, r"observations has shape \(10, 17\), expected \(10, 11\)"),
        ({"actions": np.zeros((9, 3))}, r"actions has shape \(9, 3\), expected \(10, 3\)"),
        ({"rewards": np.zeros((10, 2))}, r"rewards has shape \(10, 2\), expected \(10,\)"),
        ({"observations": nan_at(4, 10, 11)}, "observations holds a non-finite value in row 4"),
        ({"next_observations": nan_at(9, 10, 11)}, "next_observations holds a non-finite value in row 9"),
        ({"rewards": nan_at(0, 10)}, "rewards holds a non-finite value in row 0"),
        ({"actions": np.full((10, 3), 1.01)}, r"100% of the action numbers lie outside \[-1, 1\] \(up to 1.01; first "
         r"in row 0\): they are of another scale"),
        ({"rewards": np.full(10, 1e300)}, r"rewards holds 1e\+300, too large for float32, in row 0"),
        ({"observations": np.full((10, 11), -1e39)}, r"observations holds -1e\+39, too large for float32, in row 0"),
        ({"actions": np.full((10, 3), b"x")}, "actions holds no numbers"),
        ({"timeouts": np.ones(10), "terminals": np.zeros(10)}, "no transitions"),
        ({"rewards": np.zeros(10)}, "all episodes have the same return"),
        ({name: np.zeros((0, *shape)) for name, shape in (("observations", (11,)), ("actions", (3,)), ("rewards", ()),
          ("terminals", ()), ("timeouts", ()), ("next_observations", (11,)))}, "no transitions"),
    ],
)  # fmt: skip
def test_bad_columns_are_named_and_nothing_is_kept(changes, line):
    path = d4rl_file(kept(HOPPER), **changes)
    refused(line, path)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: b"<html>down for maintenance</html>", "not an HDF5 file"),
    ],
)
def test_bad_files_are_named_and_nothing_is_kept(spoil, line):
    path = d4rl_file(kept(HOPPER))
    path.write_bytes(spoil(path.read_bytes()))
    refused(line, path)


def refused(line: str, path: Path) -> None:
    """In one line, leaving no dataset and no pinned checksum behind."""
    before = path.read_bytes()
    for data in ("auto", str(path)):
        with pytest.raises(BadInput, match=line) as caught:
            HOPPER.load(data)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert minari_data.ids() == [] and path.read_bytes() == before
    assert {found.name for found in path.parent.iterdir()} == {path.name}
    assert not [left for left in minari_data.root().glob("**/*") if left.is_file() and left.suffix != ".lock"]


def test_scalars_kept_as_columns_are_read():
    d4rl_file(kept(HOPPER), rewards=10 + np.arange(10.0)[:, None], timeouts=np.isin(np.arange(10), [7, 8])[:, None])
    assert HOPPER.load().reward.scale == 50.0


# ---- where data come from ----


def test_a_file_is_imported_once(capsys):
    path = d4rl_file(kept(HOPPER))
    assert HOPPER.data_location().text == f"to import from {path}"
    first = HOPPER.load()
    assert "importing" in capsys.readouterr().err
    path.unlink()
    again = HOPPER.load("download")
    assert HOPPER.data_location().text == f"imported: {minari_data.folder('d4rl_v2/hopper-medium-v2')}"
    assert "importing" not in capsys.readouterr().err
    for name, column in first.transitions.items():
        np.testing.assert_array_equal(again.transitions[name], column)
    provenance = again.provenance
    assert (provenance.name, provenance.origin) == ("hopper-medium-v2", "downloaded")
    assert provenance.sha256 == first.provenance.sha256 == provenance.details["source"]["sha256"]
    assert (provenance.details["source"]["rows"], provenance.details["source"]["dropped"]) == (10, 3)
    assert provenance.details["minari"] == "d4rl_v2/hopper-medium-v2"


def test_minari_reads_what_was_imported():
    import minari

    d4rl_file(kept(HOPPER))
    HOPPER.load()
    dataset = minari.load_dataset("d4rl_v2/hopper-medium-v2")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 7)
    assert [episode.terminations.tolist() for episode in dataset] == [[False, False, True], [True], [False] * 3]
    assert [episode.truncations.tolist() for episode in dataset] == [[False] * 3, [False], [False, False, True]]
    np.testing.assert_allclose(minari.get_normalized_score(dataset, np.array([3234.3])), [1.0])


def test_a_given_file_never_becomes_d4rl_s(tmp_path):
    path = d4rl_file(tmp_path / "mine.hdf5")
    data = HOPPER.load(str(path))
    assert data.provenance.origin == "given" and HOPPER.data_location(str(path)).text == f"given: {path}"
    (kept_as,) = minari_data.ids()
    assert kept_as == f"given/hopper-medium-{files.digest(path)[:12]}-v0"
    assert HOPPER.data_location().text.startswith("to download from http")
    assert kept_as.replace("/", "--") not in d4rl.names()
    d4rl_file(path, rewards=np.arange(10.0))
    with pytest.raises(BadInput, match=f"{path} changed since its first use"):
        HOPPER.load(str(path))


def test_an_import_that_changed_is_refused():
    d4rl_file(kept(HOPPER))
    HOPPER.load()
    with h5py.File(minari_data.folder(HOPPER.dataset_id) / "data" / minari_files.FILE, "a") as file:
        file["episode_0/rewards"][0] = 7.0
    with pytest.raises(BadInput, match="changed since its first use"):
        HOPPER.load()


@pytest.mark.parametrize(
    ("task", "data", "line"),
    [
        ("hopper-medium-v2", "generate", "cannot be generated; python -m tasks.collect d4rl/hopper-medium makes "
         "hopper-medium-local"),
        ("antmaze-umaze-v2", "generate", "cannot be generated; use --data PATH"),
        ("hopper-medium-local", "auto", "hopper-medium-local was not made yet; python -m tasks.collect d4rl/"),
        ("hopper-medium-v2", "downlaod", r"no such file: downlaod \(--data takes auto, download or an HDF5 file\)"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said_beforehand(task, data, line):
    for ask in (d4rl.get(task).data_location, d4rl.get(task).load):
        with pytest.raises(BadInput, match=line):
            ask(data)
    assert not d4rl.data_folder().exists() and not minari_data.root().exists()


def test_no_host(monkeypatch):
    elsewhere = d4rl.FILES["hopper-medium-v2"]._replace(urls=("http://127.0.0.1:9/x",))
    monkeypatch.setitem(d4rl.FILES, "hopper-medium-v2", elsewhere)
    with pytest.raises(BadInput, match=r"missing download: hopper_medium-v2\.hdf5 \(127.*--data PATH, or python -m"):
        HOPPER.load()
    assert minari_data.ids() == []


def test_a_download_that_is_no_dataset_is_not_kept(monkeypatch, tmp_path):
    def deliver(source: Any, path: Path, check: Any) -> str:
        assert source == d4rl.FILES["hopper-medium-v2"] and path == kept(HOPPER)
        check(d4rl_file(tmp_path / "part", timeouts=None))
        raise AssertionError("a bad file passed")

    monkeypatch.setattr(d4rl.sources, "fetch", deliver)
    with pytest.raises(BadInput, match="column 'timeouts' is missing"):
        HOPPER.load("download")


def test_tasks_have_no_options():
    assert dict(HOPPER.choices) == {} and replace(HOPPER, name="hopper-medium-v2") == HOPPER
