"""Minari datasets: written whole or not at all, read as transitions; Minari's own as tasks of their own."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

import tasks
from methods.core import BadInput, TaskSpec
from tasks import scores
from tasks.d4rl import suite as d4rl
from tasks.minari import data as minari_data
from tasks.minari import files as minari_files
from tasks.minari.data import Episode, metadata_of, read, write
from tests.tasks.minari_sets import amended

pytestmark = pytest.mark.usefixtures("d4rl_folders")


def episode(*values: float, terminated: bool = False, width: int = 11) -> Episode:
    """States `values`, rewards the values left behind; the last step terminates, or is broken off."""
    states = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
    ended = np.zeros(len(values) - 1, bool)
    ended[-1] = terminated
    return Episode(states, states[:-1, :3] / 10, states[:-1, 0], ended, truncated=not terminated)


def own(identity: str = "local/x-v0", *episodes: Episode, **metadata: Any) -> str:
    write(identity, episodes or (episode(1, 2, 3), episode(4, 5, terminated=True)), "Hopper-v5", metadata)
    return identity


def damage(identity: str, how: Any) -> None:
    file = minari_data.folder(identity) / "data" / minari_files.FILE
    file.write_bytes(how(file.read_bytes()))


def test_what_is_written_is_read():
    own(recipe={"seed": 1})
    loaded = read("local/x-v0")
    assert loaded.columns["observations"][:, 0].tolist() == [1, 2, 4]
    assert loaded.columns["next_observations"][:, 0].tolist() == [2, 3, 5]  # a step cut off by time leads somewhere
    assert loaded.columns["rewards"].tolist() == [1, 2, 4] and loaded.returns.tolist() == [3, 4]
    assert loaded.columns["masks"].tolist() == [1, 1, 0] and loaded.columns["terminals"].tolist() == [0, 1, 1]
    assert loaded.metadata["recipe"] == {"seed": 1} and minari_data.ids() == ["local/x-v0"]
    assert all(column.dtype == np.float32 for column in loaded.columns.values())


def test_many_episodes_keep_their_order(monkeypatch):
    monkeypatch.setattr(minari_data, "BATCH", 4)
    own("local/x-v0", *(episode(10 * i, 10 * i + 1, terminated=i % 3 == 0) for i in range(1, 14)))
    loaded = read("local/x-v0")
    assert loaded.columns["observations"][:, 0].tolist() == [10 * i for i in range(1, 14)]
    assert loaded.columns["masks"].tolist() == [float(i % 3 != 0) for i in range(1, 14)]
    assert (metadata_of("local/x-v0") or {})["total_episodes"] == 13


def test_a_full_disk_leaves_nothing(monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot write .*local/x-v0: No space left on device"):
        own()
    assert not list(minari_data.folder("local/x-v0").parent.iterdir())


@pytest.mark.parametrize(
    ("how", "line"),
    [(lambda content: b"", "is empty"), (lambda content: content[: len(content) // 2], "is truncated: it has"),
     (lambda content: b"nonsense", "is not an HDF5 file of numbers$")],
)  # fmt: skip
def test_damaged_files_are_named(how, line):
    damage(own(), how)
    with pytest.raises(BadInput, match=line) as caught:
        read("local/x-v0")
    assert str(minari_data.folder("local/x-v0")) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_columns_and_misfitting_ones_are_named():
    own()
    path = minari_data.folder("local/x-v0") / "data" / minari_files.FILE
    with h5py.File(path, "a") as file:
        file["episode_1/observations"].resize((1, 11))
    with pytest.raises(BadInput, match="episode 1 has 1 observations and 1 rewards"):
        read("local/x-v0")
    with h5py.File(path, "a") as file:
        del file["episode_0/actions"]
    with pytest.raises(BadInput, match="episode_0 has no actions"):
        read("local/x-v0")
    with h5py.File(path, "a") as file:
        del file["episode_0"]
    with pytest.raises(BadInput, match="episode_0 is missing; 2 episodes should be there"):
        read("local/x-v0")
    with pytest.raises(BadInput, match="no Minari dataset local/y-v0 in"):
        read("local/y-v0")


def test_episodes_of_other_widths_are_told():
    own("local/x-v0")
    spoil("local/x-v0", "episode_1/actions", np.zeros((1, 4), np.float32))
    with pytest.raises(BadInput, match="its episodes are of different widths"):
        read("local/x-v0")


def spoil(identity: str, name: str, values: np.ndarray) -> None:
    """Puts other values in the place of a column of an episode."""
    with h5py.File(minari_data.file(identity), "a") as file:
        del file[name]
        file[name] = values


@pytest.mark.parametrize(
    ("text", "line"),
    [("[1, 2]", "should be a valid dictionary"), ("{", "Expecting property name"), ("", "Expecting value"),
     ("[" * 100_000, "nested too deeply"), ('{"dataset_id": 3}', "dataset_id: Input should be a valid string"),
     ('{"dataset_id": "local/x-v0"}', "total_episodes: Field required"),
     ('{"dataset_id": "given/x", "total_episodes": 1, "total_steps": 1, "source": []}', "source: Input should be"),
     ('{"dataset_id": "x", "total_episodes": 1, "total_steps": 1, "ref_min_score": "1"}', "ref_min_score: Input"),
     ("9" * 5000, "too many digits")],
)  # fmt: skip
def test_damaged_metadata_are_told_and_nothing_is_written_over(text, line):
    own()
    path = minari_data.folder("local/x-v0") / "data" / "metadata.json"
    path.write_text(text)
    for ask in (metadata_of, read, minari_data.reference_of):
        with pytest.raises(BadInput, match=line) as caught:
            ask("local/x-v0")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"local/x-v0 holds something else, or a damaged dataset; delete it first"):
        own()
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("column", "values", "line"),
    [
        ("observations", np.full((3, 11), np.inf), "observations holds a non-finite value at transition 2"),
        ("actions", np.full((2, 3), 1.5), r"50% of the action numbers lie outside \[-1, 1\] \(up to 1.5; first in"),
        ("rewards", np.array([0.0, np.nan]), "rewards holds a non-finite value at transition 3"),
        ("rewards", np.array([0.0, 1e300]), "episode 1 holds a number too large for float32"),
        ("observations", np.full((3, 11), b"x"), "observations holds no numbers"),
        ("observations", np.full((3, 11), -1e39), "episode 1 holds a number too large for float32"),
    ],
)  # fmt: skip
def test_bad_numbers_are_named_and_the_file_is_not_pinned(column, values, line):
    own("local/x-v0", episode(1, 2, 3), episode(4, 5, 6))
    spoil("local/x-v0", f"episode_1/{column}", values)
    reference = scores.Reference(0.0, 1.0, "made up")
    with pytest.raises(BadInput, match=line):
        minari_data.as_dataset("x", TaskSpec(11, 3, 1000), read("local/x-v0"), "generated", False, reference)
    own("local/y-v0", episode(1, 2, 3))
    with pytest.raises(BadInput, match=r"observations has shape \(2, 11\), expected \(2, 17\)"):
        minari_data.as_dataset("x", TaskSpec(17, 3, 1000), read("local/y-v0"), "generated", False, reference)
    assert not list(minari_data.root().glob("**/*.sha256"))


def test_numbers_that_are_not_finite_are_not_written():
    bad = episode(4, 5, 6)._replace(rewards=np.array([0.0, np.nan]))
    with pytest.raises(BadInput, match="local/x-v0: rewards holds a non-finite value in row 1"):
        own("local/x-v0", episode(1, 2, 3), bad)
    assert not list(minari_data.root().glob("local/*"))


def as_hopper(loaded: minari_data.Loaded) -> Any:
    return minari_data.as_dataset("x", TaskSpec(11, 3, 9), loaded, "generated", False, scores.Reference(0, 1, ""))


def test_returns_are_measured_over_1000_rows_as_vgf_s_code_does():
    """An episode that timed out, of 999 rows of 1, then one of 10 + 10 + 10 that terminates: 999 and 30 by episodes,
    999 + 10 and 20 by VGF's count."""
    timed_out = episode(*np.ones(1000))
    own("local/x-v0", timed_out, episode(10, 10, 10, 0, terminated=True))
    data = as_hopper(read("local/x-v0"))
    assert data.reward.scale == 1000 / (1009 - 20) and data.provenance.details["return_max"] == 999
    assert data.transitions["rewards"][0] == np.float32(1000 / 989)


@pytest.mark.parametrize(
    ("rewards", "ends", "returns"),
    [([1, 2, 4, 8], [1], [3]), ([1, 2, 4, 8], [1, 3], [3, 12]), ([1, 2, 4, 8], [], []), ([5], [0], [5]),
     ([1] * 999, [], []), ([1] * 1000, [], [1000]), ([1] * 1000, [999], [1000]), ([1] * 2001, [500], [501, 1000]),
     ([1] * 2001, [2000], [1000, 1000, 1])],
)  # fmt: skip
def test_spans_end_with_a_terminal_or_after_1000_rows(rewards, ends, returns):
    found = minari_data.span_returns(np.array(rewards, np.float32), np.isin(np.arange(len(rewards)), ends))
    assert found.tolist() == returns and found.dtype == np.float64


def test_a_short_set_is_scaled_by_its_episodes():
    """VGF's code has no returns at all of it, or only one."""
    own("local/x-v0", episode(1, 2, 3), episode(7, 7))
    assert as_hopper(read("local/x-v0")).reward.scale == 1000 / (7 - 3)
    own("local/y-v0", episode(1, 2, 3), episode(7, 7, terminated=True))
    assert as_hopper(read("local/y-v0")).reward.scale == 1000 / (7 - 3)


def test_actions_are_clipped_to_what_squashed_policies_can_express():
    own("local/x-v0", episode(10, 20), episode(-10, 5))
    loaded = read("local/x-v0")
    assert set(np.abs(loaded.columns["actions"]).ravel()) == {1.0}
    data = minari_data.as_dataset("x", TaskSpec(11, 3, 9), loaded, "generated", False, scores.Reference(0, 1, ""))
    assert 0.9999 < np.abs(data.transitions["actions"]).max() < 1


@pytest.mark.parametrize("metadata", [{}, {"ref_min_score": 1.0}, {"ref_min_score": 1.0, "ref_max_score": 1.0}])
def test_without_reference_returns_there_is_no_score(metadata):
    own(**metadata)
    with pytest.raises(BadInput, match="local/x-v0 states no reference returns"):
        minari_data.reference_of("local/x-v0")


# ---- Minari's own ----


def test_minari_s_own_datasets_are_tasks_under_their_ids():
    """On the simulator that they name, v5, not D4RL's; scored by what their metadata say."""
    own("mujoco/hopper/medium-v0", ref_min_score=10.0, ref_max_score=20.0)
    own("given/hopper-medium-0123-v0")  # ours
    amended("mujoco/hopper/medium-v0", source="a robot", recipe=3)  # words that mean something to us, not to Minari
    assert d4rl.names()[len(d4rl.PAPER_TASKS) :] == ("mujoco--hopper--medium-v0",)
    (task,), (same,) = tasks.select("d4rl", ["mujoco/hopper/medium-v0"]), tasks.select("d4rl", ["mujoco--*"])
    assert task == same and task.name == "mujoco--hopper--medium-v0" and task.spec == TaskSpec(11, 3, 1000)
    env = task.make_env()
    assert env.spec and env.spec.id == "Hopper-v5" and env.reset(seed=0)[0].shape == (11,)
    assert task.score(np.array([10.0, 15.0]), np.zeros(2)).tolist() == [0.0, 50.0]
    data = task.load()
    assert len(data) == 3 and data.reward.scale == 1000.0 and data.provenance.name == "mujoco/hopper/medium-v0"
    assert data.provenance.details["minari"] == "mujoco/hopper/medium-v0"
    assert task.data_location().text == f"Minari's: {minari_data.folder('mujoco/hopper/medium-v0')}"
    with pytest.raises(BadInput, match="is Minari's own: --data generate has no meaning"):
        task.data_location("generate")


@pytest.mark.filterwarnings("ignore:.* is set to None")
def test_a_goal_s_observations_are_put_together_as_d4rl_has_them():
    """achieved_goal (x, y) first, then the rest: 29 numbers of an ant in a maze; rewards less 1."""
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    minari_data.root().mkdir()
    rng = np.random.default_rng(0)
    steps = np.arange(4.0)
    observations = {"observation": rng.normal(size=(4, 27)), "achieved_goal": np.stack([steps, -steps], axis=1),
                    "desired_goal": np.zeros((4, 2))}  # fmt: skip
    buffer = EpisodeBuffer(observations=observations, actions=np.zeros((3, 8)), rewards=np.array([0.0, 0.0, 1.0]),
                           terminations=np.array([False, False, True]), truncations=np.zeros(3, bool))  # fmt: skip
    from tasks.simulation.robotics import register_robotics

    register_robotics()
    env = gymnasium.make("AntMaze_UMaze-v4", continuing_task=False, disable_env_checker=True)
    create_dataset_from_buffers("D4RL/antmaze/umaze-v1", [buffer], env=env, ref_min_score=0.0, ref_max_score=1.0)
    task = d4rl.get("D4RL/antmaze/umaze-v1")
    assert task.spec == TaskSpec(29, 8, 700)
    found = task.load().transitions
    assert found["observations"][:, 0].tolist() == [0, 1, 2] and found["next_observations"][:, 1].tolist() == [
        -1,
        -2,
        -3,
    ]
    np.testing.assert_allclose(found["observations"][:, 2:], observations["observation"][:3], rtol=1e-6)
    assert found["rewards"].tolist() == [-1, -1, 0] and found["masks"].tolist() == [1, 1, 0]
    obs, _ = task.make_env().reset(seed=0)
    assert obs.shape == (29,)
    assert json.loads(json.dumps(metadata_of("D4RL/antmaze/umaze-v1")))["total_steps"] == 3
