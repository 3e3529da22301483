"""Which rows speak for a method: held-out choice is unbiased where the oracle is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from analysis.select import best, headline, held_out, scores
from tests.analysis.synthetic import write_run

ARMS = ["L_test=0", "L_test=1", "L_test=2", "L_test=3"]


def null_rows(rng: np.random.Generator, seeds: int = 5, episodes: int = 50) -> pd.DataFrame:
    """Four equal arms at success 0.5: any choice among them is a choice of noise."""
    index = pd.MultiIndex.from_product([range(seeds), ARMS, range(episodes)], names=["seed", "setting", "episode"])
    rows = index.to_frame(index=False)
    return rows.assign(score=100.0 * rng.integers(2, size=len(rows)))


def test_oracle_is_biased_and_held_out_is_not() -> None:
    """With one seed of 50 episodes, the arms' means have a deviation of 50/sqrt(50) = 7.07, and the largest of four
    normal ones is 1.03 deviations too high: +7.3 points. A held-out score has at most the deviation 7.07 (its halves
    may share no episode), so the mean of 300 has a standard error of 0.41: the tolerance is 4 of them."""
    rng = np.random.default_rng(0)
    oracle, cross = [], []
    for _ in range(300):
        rows = null_rows(rng, seeds=1)
        oracle.append(rows.loc[rows["setting"] == best(rows, ARMS), "score"].mean())
        choice = held_out(rows, ARMS)
        assert choice is not None
        cross.append(choice[0]["score"].mean())
    tolerance = 4 * 7.07 / np.sqrt(300)
    assert abs(np.mean(cross) - 50) < tolerance
    assert abs(np.mean(oracle) - 57.3) < tolerance


def test_held_out_by_hand() -> None:
    """Even episodes favour `b`, so odd ones are scored with it, where it gets 1; odd ones favour `a`, which gets 3."""
    table = {"a": {0: 3.0, 1: 8.0}, "b": {0: 9.0, 1: 1.0}}
    rows = pd.DataFrame(
        [(seed, arm, e, s) for seed in (0, 1) for arm, of in table.items() for e, s in of.items()],
        columns=["seed", "setting", "episode", "score"],
    )
    choice = held_out(rows, ["a", "b"])
    assert choice is not None and choice[1] == ("b", "a")
    assert sorted(choice[0]["score"]) == [1.0, 1.0, 3.0, 3.0]
    assert held_out(rows[rows["episode"] == 0], ["a", "b"]) is None


def test_ties_go_to_the_first_setting() -> None:
    rows = null_rows(np.random.default_rng(0)).assign(score=1.0)
    assert best(rows, ARMS) == ARMS[0]


def test_scores_of_exact_records(tmp_path: Path) -> None:
    exact = {"seed_std": 0.0, "episode_std": 0.0, "evaluations": 2, "seeds": 3, "episodes": 4}
    knobs = {"L_test": [10, 0, 2]}  # ten must not sort as text
    write_run(tmp_path, "vgf", knobs=knobs, effect=lambda t, s: t * (50 + s["L_test"]), **exact)  # type: ignore[arg-type]
    write_run(tmp_path, "fql", effect=lambda t, s: t * 40, status="interrupted", **exact)  # type: ignore[arg-type]
    cells, notes = scores(load(tmp_path), oracle=True)
    assert cells["row"].tolist() == [
        "fql", "vgf L_test=0", "vgf L_test=2", "vgf L_test=10", "vgf (held-out)", "vgf (oracle)",
    ]  # fmt: skip
    np.testing.assert_allclose(cells["mean"], [40, 50, 52, 60, 60, 60])
    np.testing.assert_allclose(cells["std"], 0, atol=1e-5)
    np.testing.assert_allclose(cells["low"], cells["high"])
    assert cells["picks"].tolist()[-2:] == ["L_test=10", "L_test=10"]
    assert cells["over"].eq("seeds").all() and cells["seeds"].eq(3).all() and cells["episodes"].eq(4).all()
    assert notes == ["toy/toy fql: no final evaluation, the offline one at step 2000 stands in"]


def test_headline_prefers_the_final_phase() -> None:
    rows = pd.DataFrame({"phase": ["offline", "final", "offline"], "step": [10, 20, 20], "score": [1, 2, 3]})
    assert headline(rows)["score"].tolist() == [2]
    assert headline(rows[rows["phase"] == "offline"])["score"].tolist() == [3]


@pytest.mark.parametrize("episodes", [1, 2])
def test_too_few_episodes_for_halves(tmp_path: Path, episodes: int) -> None:
    write_run(tmp_path, "vgf", knobs={"L_test": [0, 1]}, episodes=episodes, evaluations=1)
    cells, notes = scores(load(tmp_path))
    assert ("held-out" in cells["rule"].tolist()) == (episodes == 2) == (not notes)
