"""OGBench's data: how a file becomes transitions, and what is said of a bad one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import ogbench as package
import pytest

from methods.core import BadInput
from tasks.data import download
from tasks.ogbench import collect
from tasks.ogbench import suite as ogbench
from tests.tasks.conftest import nan_at

ANT = ogbench.OGBenchTask("antmaze-medium-navigate-singletask-task1-v0")
CUBE = ogbench.OGBenchTask("cube-single-play-singletask-task2-v0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ant_file(path: Path, **changes: Any) -> Path:
    """Three episodes of 4, 3 and 5 states, with `changes` to the columns (None: left out)."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(12, 29)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (12, 8)).astype(np.float32),
        "terminals": np.isin(np.arange(12), [3, 6, 11]),
        "qpos": rng.normal(size=(12, 15)).astype(np.float32),
        "qvel": rng.normal(size=(12, 14)).astype(np.float32),
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    return path


def test_agrees_with_the_benchmarks_loader(cube_file, tmp_path):
    """On episodes in some of which the cube is where the task wants it."""
    with np.load(cube_file) as file:
        columns = dict(file)
    goal = (0.5, 0.0, 0.02)  # task 2
    solved = [10, 11, 61 * 2 + 60, 61 * 3]  # two in the first episode, the third one's last state, the fourth's first
    columns["qpos"][solved, 14:17] = goal
    for path in (tmp_path / "cube.npz", tmp_path / "cube-val.npz"):
        np.savez(path, **columns)

    data = CUBE.load(str(tmp_path / "cube.npz"))
    ours = data.transitions
    _, theirs, _ = package.make_env_and_datasets(CUBE.name, dataset_path=str(tmp_path / "cube.npz"))
    for column in ("observations", "next_observations", "rewards", "masks", "terminals"):
        np.testing.assert_array_equal(ours[column], theirs[column], err_msg=column)
        assert ours[column].dtype == np.float32
    np.testing.assert_array_equal(ours["actions"], theirs["actions"].clip(-1 + 1e-5, 1 - 1e-5))
    assert np.abs(ours["actions"]).max() < 1 == np.abs(theirs["actions"]).max()

    # A reward judges the state acted in; the state that an episode ends in is never judged.
    assert len(data) == 12 * 60
    assert {10, 11, 60 * 3} <= set(np.flatnonzero(ours["masks"] == 0))
    np.testing.assert_array_equal(ours["rewards"] == 0, ours["masks"] == 0)
    assert ours["rewards"][9] == -1 and ours["rewards"][60 * 3 - 1] == -1
    assert np.flatnonzero(ours["terminals"]).tolist() == [60 * i + 59 for i in range(12)]


def test_validation_episodes_lie_beside_the_training_file(tmp_path):
    data = ANT.load(str(ant_file(tmp_path / "a.npz")))
    assert ANT.validation(data) is None
    observations = np.repeat(np.arange(12, dtype=np.float32)[:, None], 29, axis=1)
    ant_file(tmp_path / "a-val.npz", observations=observations)
    kept_back = ANT.validation(data)
    assert kept_back is not None and kept_back.provenance.sha256 != data.provenance.sha256
    assert kept_back.transitions["observations"][:, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10]
    (tmp_path / "a-val.npz").write_bytes(b"none")
    with pytest.raises(BadInput, match=r"a-val\.npz"):
        ANT.validation(data)


def test_transitions_stay_within_episodes(tmp_path):
    observations = np.repeat(np.arange(12, dtype=np.float32)[:, None], 29, axis=1)
    data = ANT.load(str(ant_file(tmp_path / "a.npz", observations=observations)))
    assert data.transitions["observations"][:, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10]
    assert data.transitions["next_observations"][:, 0].tolist() == [1, 2, 3, 5, 6, 8, 9, 10, 11]
    assert data.transitions["terminals"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 1]
    assert data.provenance.origin == "given"
    assert data.provenance.details["success_timing"] == "post"


def test_episodes_of_one_transition_and_of_none(tmp_path):
    """Of two states and of one, which has nothing to follow it."""
    numbers = np.repeat(np.arange(12, dtype=np.float32)[:, None], 29, axis=1)
    ends = np.isin(np.arange(12), [1, 2, 11])
    actions = np.repeat(np.linspace(-1, 1, 12)[:, None], 8, axis=1)
    data = ANT.load(str(ant_file(tmp_path / "a.npz", observations=numbers, terminals=ends, actions=actions)))
    assert data.transitions["observations"][:, 0].tolist() == [0, *range(3, 11)]
    assert data.transitions["next_observations"][:, 0].tolist() == [1, *range(4, 12)]
    assert data.transitions["terminals"].tolist() == [1] + [0] * 7 + [1]
    following = data.columns({"next_actions"})["next_actions"][:, 0]
    np.testing.assert_allclose(following, [0, *actions[4:11, 0], 0], atol=2e-5)


def test_returns_to_go_stay_within_their_episode_and_end_at_success(tmp_path):
    from methods.sfbc import planned_returns

    env = ANT.make_env()
    env.reset(seed=0)
    qpos = np.full((12, 15), 50.0, np.float32)  # far from the goal
    qpos[5, :2] = env.unwrapped.cur_goal_xy  # within the second episode of 4, 3 and 5 states
    found = ANT.load(str(ant_file(tmp_path / "a.npz", qpos=qpos))).transitions
    assert found["rewards"].tolist() == [-1, -1, -1, -1, 0, -1, -1, -1, -1]
    assert found["masks"].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    columns = (found["rewards"], found["masks"], found["terminals"], np.full(9, -np.inf, np.float32))
    togo = planned_returns(*columns, 0.5)
    np.testing.assert_allclose(togo, [-1.75, -1.5, -1, -1, 0, -1.875, -1.75, -1.5, -1])


def test_validation_data_are_not_trained_on(tmp_path):
    path = ant_file(tmp_path / "a.npz")
    before = ANT.load(str(path)).transitions
    (tmp_path / "a-val.npz").write_bytes(b"whatever")
    after = ANT.load(str(path)).transitions
    assert len(after["rewards"]) == 9 and all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"qpos": None}, "column 'qpos' is missing"),
        ({"observations": np.zeros((12, 28))}, r"observations has shape \(12, 28\), expected \(12, 29\)"),
        ({"actions": np.zeros((11, 8))}, r"actions has shape \(11, 8\), expected \(12, 8\)"),
        ({"observations": nan_at(7, 12, 29)}, "observations holds a non-finite value in row 7"),
        ({"qpos": nan_at(2, 12, 15)}, "qpos holds a non-finite value in row 2"),
        ({"actions": np.full((12, 8), -1.01)}, r"100% of the action numbers lie outside \[-1, 1\] \(up to 1.01"),
        ({"observations": np.full((12, 29), 1e39)}, r"observations holds 1e\+39, too large for float32, in row 0"),
        ({"terminals": np.zeros(12)}, "breaks off within an episode"),
        ({"terminals": np.ones(12)}, "no transitions"),
        ({name: np.zeros((0, width)) for name, width in (("observations", 29), ("actions", 8), ("qpos", 15))}
         | {"terminals": np.zeros(0)}, "breaks off|no transitions"),
        ({"actions": np.array([{}] * 12)}, "actions holds no numbers"),
        ({"observations": np.float32(1.0)}, r"observations has shape \(\), expected \(0, 29\)"),
        ({"actions": np.full((12, 8), "a")}, "actions holds no numbers"),
        ({"terminals": np.full(12, "yes")}, "terminals holds no numbers"),
        ({"actions": np.zeros((12, 8), complex)}, "actions holds no numbers"),
    ],
)  # fmt: skip
def test_bad_columns_are_named(tmp_path, changes, line):
    path = ant_file(tmp_path / "a.npz", **changes)
    with pytest.raises(BadInput, match=line) as caught:
        ANT.load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]  # not pinned either


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: b"\x93NUMPY" + content[6:100], "not an NPZ file"),
        (lambda content: content.replace(content[600:700], bytes(100)), "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, spoil, line):
    path = ant_file(tmp_path / "a.npz")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadInput, match=line) as caught:
        ANT.load(str(path))
    assert str(path) in str(caught.value)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(BadInput, match=str(tmp_path)):
        ANT.load(str(tmp_path))


def test_a_file_that_changed_is_refused(tmp_path):
    path = ant_file(tmp_path / "a.npz")
    first = ANT.load(str(path)).provenance.sha256
    assert ANT.load(str(path)).provenance.sha256 == first
    ant_file(path, qpos=np.zeros((12, 15)))
    with pytest.raises(BadInput, match=f"{path} changed since its first use"):
        ANT.load(str(path))
    (tmp_path / "a.npz.sha256").unlink()
    assert ANT.load(str(path)).provenance.sha256 != first


# ---- where the data come from ----


def test_nothing_there_and_no_host(cache, monkeypatch):
    for name in ("antmaze-medium-navigate-v0.npz", "cube-single-play-v0.npz"):
        nobody = ogbench.SOURCES[name]._replace(urls=("https://127.0.0.1:9/x", "https://localhost:9/x"))
        monkeypatch.setitem(ogbench.SOURCES, name, nobody)
    for data in ("download", "auto"):
        with pytest.raises(BadInput, match=r"missing download: antmaze-medium-navigate-v0\.npz") as caught:
            ANT.load(data)
        line = str(caught.value)
        assert "127.0.0.1" in line and "localhost" in line and line.endswith("use --data PATH") and "\n" not in line
    with pytest.raises(BadInput, match="cannot be generated"):
        ANT.load("generate")
    with pytest.raises(BadInput, match="no such file: downlaod"):
        ANT.load("downlaod")
    with pytest.raises(BadInput, match="use --data generate or --data PATH"):
        CUBE.load("download")
    assert not list(cache.glob("*.npz"))


def test_auto_generates_when_no_host_answers_and_says_so(cache, cube_file, monkeypatch, capsys):
    calls = []

    def generate(dataset: str, episodes: int, seed: int, workers: int | None, out: Path) -> Path:
        calls.append((dataset, episodes))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(cube_file.read_bytes())
        return out

    def unreachable(*_: Any, **how: Any) -> str:
        raise download.MissingDownload("missing download: x")

    monkeypatch.setattr(collect, "collect", generate)
    monkeypatch.setattr(download, "fetch", unreachable)
    task = dataclasses.replace(CUBE, episodes=12)
    data = task.load("auto")
    assert calls == [("cube-single-play-v0", 12)]
    assert data.provenance.origin == "generated"
    assert data.provenance.details["recipe"]["episodes"] == 12
    assert "missing download: x; generating 12 episodes instead" in capsys.readouterr().err
    assert task._file("auto")[1] == "generated"  # found again, without asking a host
    assert "generated earlier" in capsys.readouterr().err


def test_what_lies_in_a_download_s_place_is_what_it_says_it_is(cache, cube_file, capsys):
    cache.mkdir()
    (cache / "cube-single-play-v0.npz").write_bytes(cube_file.read_bytes())
    assert CUBE.load("auto").provenance.origin == "generated"
    assert "cube-single-play-v0.npz was generated, not downloaded: 12 episodes" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_is_ready_is_sound(cache):
    path = ant_file(cache / "antmaze-medium-navigate-v0.npz")
    assert ANT.ready("download") == path
    ant_file(path, qpos=np.zeros((12, 15)))
    with pytest.raises(BadInput, match="changed since its first use"):
        ANT.ready("download")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="truncated"):
        ANT.ready("download")


def test_auto_prefers_what_was_downloaded(cache, capsys):
    path = ant_file(cache / "antmaze-medium-navigate-v0.npz")
    (cache / "antmaze-medium-navigate-v0.npz.url").write_text("https://host/file.npz\n")
    for data in ("auto", "download"):
        provenance = ANT.load(data).provenance
        assert (provenance.origin, provenance.path) == ("downloaded", str(path))
        assert provenance.details["url"] == "https://host/file.npz"
    assert "downloaded earlier" in capsys.readouterr().err
