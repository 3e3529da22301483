"""What `tasks.check` says of data that are there, absent, damaged or unlike the published; what `tasks.fetch` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tasks
from methods.core import BadInput
from tasks import check, fetch
from tasks.core import Dataset, Provenance, RewardTransform
from tasks.d4rl import suite as d4rl
from tests.tasks.conftest import command
from tests.tasks.d4rl_file import d4rl_file

pytestmark = pytest.mark.usefixtures("d4rl_folders")


def kept(name: str) -> Path:
    return d4rl.data_folder() / d4rl.FILES[name].file


def dataset(rewards, last, masks, reward=None) -> Dataset:
    reward = reward or RewardTransform()
    columns = {"rewards": reward(np.array(rewards)), "terminals": np.array(last), "masks": np.array(masks)}
    return Dataset(columns, Provenance("x", "", "downloaded"), reward)


@pytest.mark.parametrize("reward", [RewardTransform(), RewardTransform(scale=0.25, shift=-1.0)])
def test_returns_are_the_simulator_s_own(reward):
    found = check.contents(dataset([1.0, 2.0, 4.0, 8.0], [0, 1, 0, 1], [1, 0, 1, 1], reward))
    assert (found.transitions, found.episodes, found.ends) == (4, 2, 0.25)
    np.testing.assert_allclose((found.mean_return, found.least_return, found.most_return), [7.5, 3.0, 12.0])


@pytest.mark.parametrize(
    ("name", "transitions", "mean", "words"),
    [
        ("hopper-medium-v2", 999_000, 1422.0, "as expected"),
        ("hopper-medium-v2", 402_000, 1422.0, "DIFFERS: 1,000,000 transitions were expected"),
        ("hopper-medium-v2", 999_000, 1500.0, "DIFFERS: a mean return of 1422.1 was expected"),
        ("cube-triple-play-v0", 3_000_000, -2990.0, "as expected"),
        ("cube-single-play-v0", 990_000, -980.0, "as expected"),
        ("cube-single-play-v0", 100_000, -980.0, "DIFFERS: 1,000,000 transitions"),
        ("mujoco/hopper/medium-v0", 5, 0.0, "nothing to compare with"),
    ],
)
def test_published_sets_are_compared(name, transitions, mean, words):
    right, said = check.verdict(suite_of(name), name, "downloaded", holding(transitions, mean), {})
    assert said.startswith(words) and right == ("DIFFERS" not in words)


def test_a_given_set_is_compared_with_the_published_but_need_not_be_it():
    assert check.verdict("d4rl", "hopper-medium-v2", "given", holding(600), {}) == (
        True, "given; not as many transitions as published (1,000,000)"
    )  # fmt: skip
    assert check.verdict("d4rl", "hopper-medium-v2", "given", holding(999_000), {})[1].startswith("given; as many")


def test_a_glob_must_match_in_one_of_several_suites():
    said = command(check.app, "ogbench", "d4rl", "--tasks", "hopper-medium-v*")
    assert said.exit_code == 0 and "1 tasks: 0 there and sound, 1 absent" in said.stdout
    assert command(check.app, "ogbench", "--tasks", "hopper-medium-v*").exit_code == 2


@pytest.mark.parametrize(
    ("name", "details", "right"),
    [
        ("cube-single-play-v0", {"recipe": {"episodes": 2}}, True),
        ("cube-single-play-v0", {"recipe": {"episodes": 3}}, False),
        ("hopper-medium-local", {"recipe": {"transitions": 20}}, True),
        ("hopper-medium-local", {"recipe": {"transitions": 21}}, False),
        ("hopper-medium-expert-local", {"recipe": {"transitions": 10}}, True),
        ("hopper-medium-expert-local", {"recipe": {"transitions": 11}}, False),
        ("hopper-medium-replay-local", {"recipe": {"transitions": 500}, "medium_step": 20}, True),
        ("hopper-medium-replay-local", {"recipe": {"transitions": 5}, "medium_step": 21}, False),
    ],
)
def test_generated_sets_have_what_was_asked_for(name, details, right):
    found, said = check.verdict(suite_of(name), name, "generated", holding(20), details)
    assert found is right and said.startswith("as asked for" if right else "DIFFERS: ")


def suite_of(dataset: str) -> str:
    return "ogbench" if dataset.endswith("-v0") and "/" not in dataset else "d4rl"


def holding(transitions: int, mean: float = 0.0) -> check.Contents:
    """Two episodes."""
    return check.Contents(transitions, 2, mean, mean, mean, 0.0)


def test_every_published_dataset_has_an_expectation():
    names = [task.dataset for task in tasks.select("ogbench", [])] + list(d4rl.PAPER_TASKS)
    for name in names:
        row = check.expectation(suite_of(name), name)
        assert row and int(row["transitions"]) > 0 and row["source"] and row["verified"] in ("yes", "no"), name


def test_check_tells_absent_present_and_damaged_apart():
    d4rl_file(kept("hopper-medium-v2"))
    d4rl.get("hopper-medium-v2").load()
    said = command(check.app, "d4rl", "--tasks", "hopper-medium-v2,walker2d-medium-v2")
    assert said.exit_code == 1 and "absent, to download from http" in said.stdout, said.stdout
    assert "DIFFERS" in said.stdout and "2 tasks: 0 there and sound, 1 absent, 1 wrong" in said.stdout
    file = d4rl.minari_data.file("d4rl_v2/hopper-medium-v2")
    file.write_bytes(file.read_bytes()[:2000])
    said = command(check.app, "d4rl", "--tasks", "hopper-medium-v2")
    assert said.exit_code == 1 and "REFUSED" in said.stdout
    assert command(check.app, "toy").stdout.endswith("3 tasks: 3 there and sound, 0 absent, 0 wrong\n")
    assert command(check.app, "tyo").exit_code == 2


def test_generated_sets_of_other_sizes_are_spoken_of(tmp_path, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path))
    (tmp_path / "generated").mkdir()
    for name in ("cube-single-play-v0-160", "cube-single-play-v0-20", "cube-double-play-v0-7", "cube-single-play-v0-x"):
        (tmp_path / "generated" / f"{name}-episodes.npz").touch()
    said = command(check.app, "ogbench", "--tasks", "cube-single-play-singletask-v0,scene-play-singletask-v0").stdout
    with_size, without = (line for line in said.splitlines() if line.startswith("absent"))
    assert with_size.endswith("(generated earlier: 20, 160 episodes): cube-single-play-singletask-v0")
    assert without.endswith("ogbench: scene-play-singletask-v0") and "generated" not in without


def test_an_ant_s_episodes_go_on_past_their_goal():
    reached = np.isin(np.arange(10), [2, 3, 4])  # rewarded and terminal; the episode ends with its time, in row 7
    path = kept("antmaze-umaze-v2")
    d4rl_file(path, obs=29, action=8, rewards=reached.astype(np.float32), terminals=reached)
    found = check.contents(d4rl.get("antmaze-umaze-v2").load())
    assert (found.episodes, found.mean_return, found.least_return, found.most_return) == (1, 3.0, 3.0, 3.0)


def test_what_was_not_made_yet_is_absent_and_no_file_is_refused():
    said = command(check.app, "d4rl", "--tasks", "hopper-medium-local")
    assert said.exit_code == 0 and "python -m tasks.collect d4rl/hopper-medium" in said.stdout
    assert "0 there and sound, 1 absent, 0 wrong" in said.stdout
    said = command(check.app, "d4rl", "--data", "nonsense")
    assert said.exit_code == 2 and said.stderr.count("\n") == 1 and "no such file: nonsense" in said.stderr


def test_fetch_readies_what_it_can_and_names_the_rest(monkeypatch):
    d4rl_file(kept("hopper-medium-v2"))

    def unreachable(urls, path, check):
        raise d4rl.download.MissingDownload(f"missing download: {path.name}")

    monkeypatch.setattr(d4rl.download, "fetch", unreachable)
    said = command(fetch.app, "d4rl", "--tasks", "hopper-medium-v2,walker2d-medium-v2")
    assert said.exit_code == 2 and "1 files" in said.stdout and "1 of 2 tasks without data" in said.stdout
    assert d4rl.get("hopper-medium-v2").data_location().there
    assert not d4rl.get("walker2d-medium-v2").data_location().there
    assert command(fetch.app, "d4rl", "--data", "somewhere").exit_code == 2
    assert command(fetch.app, "toy", "--data", "generate").exit_code == 0
    with pytest.raises(BadInput, match="has no meaning"):
        tasks.suite("toy").get("toy").ready("download")
