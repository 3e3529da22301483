"""Which rows speak for a method: held-out choice is unbiased where the oracle is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.choices import (
    FIXED,
    HELD_OUT,
    NEW_SEEDS,
    ORACLE,
    Arms,
    Choice,
    arms,
    best,
    held_out,
    new_seeds,
    oracle,
    oracle_bias,
    shared_starts,
)
from analysis.records.files import RecordError
from analysis.records.load import load
from analysis.select import Endpoint, Rule, choose, headline, offline, scores
from analysis.statistics.estimates import improvement_of, profile_of
from analysis.statistics.significance import mann_whitney, wilcoxon
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
    may share no episode), so the mean of 300 has a standard error of 0.41: the tolerance is 4 of them. The estimated
    bias is right on average too, so what the oracle has above 50 can be taken off it."""
    rng = np.random.default_rng(0)
    biased, estimated, cross = [], [], []
    for _ in range(300):
        of = arms(null_rows(rng, seeds=1), ARMS)
        found, choice = oracle(of, rng), held_out(of)
        assert choice is not None
        biased.append(np.mean(found.scores))
        estimated.append(found.bias)
        cross.append(np.mean(choice.scores))
    tolerance = 4 * 7.07 / np.sqrt(300)
    assert abs(np.mean(cross) - 50) < tolerance
    assert abs(np.mean(biased) - 57.3) < tolerance
    assert abs(np.mean(estimated) - 7.3) < tolerance


def test_held_out_by_hand() -> None:
    """Even episodes favour `b`, so odd ones are scored with it, where it gets 1; odd ones favour `a`, which gets 3."""
    table = {"a": {0: 3.0, 1: 8.0}, "b": {0: 9.0, 1: 1.0}}
    rows = pd.DataFrame(
        [(seed, arm, e, s) for seed in (0, 1) for arm, of in table.items() for e, s in of.items()],
        columns=["seed", "setting", "episode", "score"],
    )
    choice = held_out(arms(rows, ["a", "b"]))
    assert choice is not None and choice.picks == ("b", "a")
    np.testing.assert_array_equal(choice.scores, [[3.0, 1.0], [3.0, 1.0]])
    assert held_out(arms(rows[rows["episode"] == 0], ["a", "b"])) is None
    # the oracle takes b, the better by far on average only of its own episodes; halves are single episodes here
    assert oracle_bias(arms(rows, ["a", "b"]), np.random.default_rng(0)) == pytest.approx(5.5 - 2.0)


def test_new_seeds_by_hand() -> None:
    """Arm a has 1, 2, 9 on three seeds, arm b 4, 4, 4. Seeds 0 and 1 see the 9 in a (means 5.5 and 5 against 4), so are
    scored at a; seed 2 sees 1.5 against 4 and is scored at b."""
    scores = np.array([[[1.0], [2.0], [9.0]], [[4.0], [4.0], [4.0]]])
    choice = new_seeds(Arms(scores, ["a", "b"], np.array([0, 1, 5]), np.array([0])))
    assert choice is not None and choice.means().to_dict() == {0: 1.0, 1: 2.0, 5: 4.0}
    assert choice.picks == ("a", "b") and choice.rule == NEW_SEEDS and choice.of_new_seeds
    # of two seeds each is scored at the other's best: without seed 0 at a (9 > 4) and b (2 < 4), 2 and 4; without 1 at
    # a and b, 1 and 4; without 2 both at b, 4 and 4. The jackknife of 3, 2.5, 4: n - 1 times the squares about 19 / 6
    squares = np.square(np.array([3.0, 2.5, 4.0]) - 19 / 6).sum()
    assert choice.spread == pytest.approx(2 * squares) and choice.sample().variance == pytest.approx(7 / 3)
    assert choice._replace(spread=5.0).sample().variance == 5
    assert new_seeds(Arms(scores[:, :1], ["a", "b"], np.array([0]), np.array([0]))) is None
    scores[1, 1:] = np.nan  # an arm of one seed cannot be chosen for that very seed
    assert new_seeds(Arms(scores, ["a", "b"], np.array([0, 1, 5]), np.array([0]))) is None


def test_new_seeds_gain_nothing_from_equal_arms() -> None:
    """Arms equal in truth, whose seeds differ by a std of 10 an arm: what a seed gains at the arm that suits it, a new
    seed does not have. The best of four of one seed has +1.03 std, of the mean of five seeds +1.03 x 10 / sqrt(5) =
    4.6 points, and that is what choosing on held-out episodes of the same seeds reports; choosing on other seeds
    reports none of it. A mean of 400 has a standard error of at most 10 / sqrt(5 x 400) = 0.22, four of them allowed.
    """
    rng, cross, other = np.random.default_rng(1), [], []
    for _ in range(400):
        scores = 10 * rng.normal(size=(4, 5, 1)) + 5 * rng.normal(size=(4, 5, 50))
        of = Arms(scores, ARMS, np.arange(5), np.arange(50))
        for found, choice in ((cross, held_out(of)), (other, new_seeds(of))):
            assert choice is not None
            found.append(float(choice.means().mean()))
    assert abs(np.mean(other)) < 0.9
    assert abs(np.mean(cross) - 4.6) < 0.9


@given(st.integers(1, 30), st.permutations(range(3)))
def test_equal_totals_are_ties_in_any_order(wins: int, order: list[int]) -> None:
    """Three evaluations of 50 episodes, added up in another order: the means differ in the last bit, the methods not.
    Every test and share that asks which is larger must see a tie."""
    steps = np.array([wins, 2 * wins % 50, 7]) * 2.0 / 3  # of 100 points, over three evaluations
    one, two = sum(steps.tolist()), sum(steps[list(order)].tolist())
    a, b = (Choice(np.full((3, 1), value), np.arange(3), np.arange(1), (), FIXED) for value in (one, two))
    assert (a.means() == b.means()).all()
    x, y = np.full(3, one), np.full(3, two)
    assert mann_whitney(x, y) == wilcoxon(x - y) == 1
    assert improvement_of([x], [y]) == 0.5 and best(np.stack([y, x])[:, :, None]) == 0
    np.testing.assert_array_equal(profile_of([x], np.array([two])), profile_of([y], np.array([two])))


def test_arms_know_what_is_missing() -> None:
    """A gap is NaN, not 0; two evaluations of one episode are averaged; a seed counts alike whatever it lacks."""
    rows = pd.DataFrame(
        [(0, "a", 0, 2.0), (0, "a", 0, 4.0), (0, "a", 1, 5.0), (3, "a", 1, 10.0), (3, "b", 1, 20.0)],
        columns=["seed", "setting", "episode", "score"],
    )
    of = arms(rows, ["a", "b"])
    np.testing.assert_array_equal(of.scores, [[[3, 5], [np.nan, 10]], [[np.nan, np.nan], [np.nan, 20]]])
    assert best(of.scores) == 1 and of.seeds.tolist() == [0, 3]
    assert best(of.scores[:, :, :1]) == 0  # an arm without any episode cannot win
    a, b = (Choice(scores, of.seeds, of.episodes, (), FIXED) for scores in of.scores)
    assert a.means().to_dict() == {0: 4.0, 3: 10.0}
    assert shared_starts(a, a)[0].tolist() == [[5.0], [10.0]]  # episode 0 is not there for every seed
    assert shared_starts(a, b)[1].shape == (2, 0)


def test_ties_go_to_the_first_setting() -> None:
    assert best(arms(null_rows(np.random.default_rng(0)).assign(score=1.0), ARMS).scores) == 0


def test_endpoints(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=2, episodes=2, evaluations=10, episode_std=0, seed_std=0, effect=lambda t, s: 100 * t)
    rows = next(load(tmp_path).each())[1]

    def mean(text: str) -> tuple[float, str]:
        kept, missing = Endpoint.parse(text)(rows)
        return float(kept["score"].mean()), missing

    assert mean("last") == (100, "") and mean("last-3") == (90, "")  # the final one and the two before it
    assert mean("steps=8k,9k,10k") == (90, "") and mean("steps=2K,0.004m") == (30, "")
    assert mean("last-20") == (55, "10 of the last 20 evaluations")
    assert mean("steps=8k,8500") == (80, "no evaluation at step 8500")
    assert str(Endpoint.parse("steps=800k,1m")) == "steps=800000,1000000" and str(Endpoint.parse("last-3")) == "last-3"
    for text in ("first", "last-0", "steps=", "steps=1x", "last-"):
        with pytest.raises(RecordError, match=repr(text)):
            Endpoint.parse(text)


def test_online_rows_are_no_offline_result() -> None:
    rows = pd.DataFrame({"phase": ["offline", "online", "final"], "step": [10, 20, 30]})
    assert offline(rows)["step"].tolist() == [10]
    assert offline(rows[rows["phase"] != "online"])["step"].tolist() == [10, 30]


def test_rules(tmp_path: Path) -> None:
    """w is better at 0.02, N at 4; a rule may fix either, both or none, and what is open is picked on other seeds."""
    knobs: dict[str, list[float]] = {"w": [0.0, 0.02, 0.1], "N": [1, 4]}
    exact = {"seed_std": 0.0, "episode_std": 0.0, "evaluations": 1, "seeds": 2, "episodes": 4}
    write_run(tmp_path, "qgf", knobs=knobs, effect=lambda t, s: 9 * (s["w"] == 0.02) + s["N"], **exact)  # type: ignore[arg-type]
    run, rows = next(load(tmp_path).each())

    def outcome(text: str) -> tuple[float, str]:
        choice = choose(run, rows, Rule.parse(text))
        assert isinstance(choice, Choice), choice
        return float(choice.scores.mean()), choice.rule

    assert outcome("fixed:w=0.1,N=1") == (1, FIXED)
    assert outcome("fixed:N=1") == (10, NEW_SEEDS) and outcome("new-seeds") == outcome("fixed:1") == (13, NEW_SEEDS)
    assert outcome("held-out") == (13, HELD_OUT) and outcome("oracle") == (13, ORACLE)
    assert Rule() == Rule.parse("new-seeds")
    alone = choose(run, rows[rows["seed"] == 0], Rule())  # one seed has no others
    assert isinstance(alone, Choice) and alone.rule == HELD_OUT and not alone.of_new_seeds
    assert choose(run, rows, Rule.parse("fixed:w=0.3")) == "no w=0.3 among 0, 0.02, 0.1"
    assert str(Rule.parse("fixed:1")) == "fixed:L_test=1" and str(Rule.parse("oracle")) == "oracle"
    for text in ("best", "fixed:", "fixed:w=x"):
        with pytest.raises(RecordError, match=repr(text)):
            Rule.parse(text)


def test_scores_of_exact_records(tmp_path: Path) -> None:
    exact = {"seed_std": 0.0, "episode_std": 0.0, "evaluations": 2, "seeds": 3, "episodes": 4}
    knobs = {"L_test": [10, 0, 2]}  # ten must not sort as text
    write_run(tmp_path, "vgf", knobs=knobs, effect=lambda t, s: t * (50 + s["L_test"]), **exact)  # type: ignore[arg-type]
    write_run(tmp_path, "fql", effect=lambda t, s: t * 40, status="interrupted", **exact)  # type: ignore[arg-type]
    cells, notes = scores(load(tmp_path), oracle_too=True)
    assert cells["row"].tolist() == [
        "fql", "vgf L_test=0", "vgf L_test=2", "vgf L_test=10", "vgf (new-seeds)", "vgf (held-out)", "vgf (oracle)",
    ]  # fmt: skip
    np.testing.assert_allclose(cells["mean"], [40, 50, 52, 60, 60, 60, 60])
    np.testing.assert_allclose(cells["std"], 0, atol=1e-5)
    assert cells[["low", "high"]].isna().all(axis=None)  # neither seeds nor episodes vary, so nothing is known
    assert cells["picks"].tolist()[-3:] == ["L_test=10"] * 3
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
