"""Choosing settings by `offline.csv`: picks, their scores and what they lose, by hand; no score has a say in a pick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from analysis import offline
from analysis.choices import Arms, Choice, by_estimates
from analysis.endpoint import Endpoint
from analysis.offline_rules import RATIO, RULES, Estimates, estimates, preferences
from analysis.records.files import RecordError
from analysis.records.load import load
from analysis.records.runs import OFFLINE
from analysis.select import Rule, choose, scores
from analysis.statistics.estimates import student
from tests.analysis.synthetic import split, write_run

KNOBS = {"L_test": [0, 1, 2]}
EXACT: dict[str, Any] = {"seed_std": 0.0, "episode_std": 0.0, "evaluations": 1, "episodes": 4}


def row(
    level: float, value: float, std: float = 0.1, data_std: float = 0.2, td: float = 1.0, moved: float | None = None,
    fqe: float = 0.0,
) -> dict[str, Any]:  # fmt: skip
    """A row of offline.csv."""
    return {"L_test": level, "value": value, "disagreement": std, "data_value": 0.0, "data_disagreement": data_std,
            "td_error": td, "transport": level if moved is None else moved, "bound": "", "fqe": fqe, "members": 2,
            "transitions": 8, "updates": 5, "split": "validation", "data": "00000012"}  # fmt: skip


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(folder / "offline.csv", index=False)


def made(root: Path, of: Mapping[int, Sequence[Mapping[str, Any]]], **run: Any) -> dict[int, Path]:
    """A run of two seeds that scores 10, 20, 60 at L_test = 0, 1, 2, with estimates of some seeds."""
    effect = run.pop("effect", lambda t, s: {0: 10.0, 1: 20.0, 2: 60.0}[s["L_test"]])
    places = split(write_run(root, "vgf", knobs=KNOBS, effect=effect, seeds=2, **{**EXACT, **run}))
    for seed, rows in of.items():
        write(places[seed], rows)
    return places


LIKES_1 = [row(0, 1.0), row(1, 3.0, 0.5), row(2, 3.5, 1.5)]  # lcb .9, 2.5, 2.0
LIKES_2 = [row(0, 1.0), row(1, 2.0), row(2, 3.0)]


def test_each_rule_s_preference_by_hand() -> None:
    rows = pd.DataFrame([row(0, 5, 0.2, td=3.0, fqe=1), row(1, 6, 0.2, td=1.0, fqe=4, moved=0.7),
                         row(2, 9, 0.9, td=2.0, fqe=2)])  # fmt: skip
    assert RULES["lcb"](rows).tolist() == pytest.approx([4.8, 5.8, 8.1])
    assert RULES["td-error"](rows).tolist() == [-3, -1, -2]
    assert RULES["fqe"](rows).tolist() == [1, 4, 2]
    assert RATIO == 1.0 and RULES["disagreement"](rows).tolist() == pytest.approx([0.0, 0.7, -0.7])
    apart = rows.assign(data_disagreement=0.1)  # no setting is within it: the one that exceeds it least
    assert RULES["disagreement"](apart).tolist() == pytest.approx([-0.1, -0.1, -0.8])


def test_each_seed_is_scored_at_its_own_pick(tmp_path: Path) -> None:
    made(tmp_path, {0: LIKES_1, 1: LIKES_2})
    run, rows = next(load(tmp_path).each())
    choice = choose(run, rows, Rule.parse("offline:lcb"))
    assert isinstance(choice, Choice) and choice.rule == "offline:lcb" and choice.of_new_seeds
    assert choice.means().tolist() == [20, 60] and set(choice.picks) == {"L_test=1", "L_test=2"}
    assert Rule.parse("offline") == Rule.parse("offline:lcb") and str(Rule.parse("offline")) == "offline:lcb"
    cells, _ = scores(load(tmp_path), rule=Rule.parse("offline:disagreement"))
    assert cells[["row", "mean"]].to_numpy().tolist() == [["vgf (offline:disagreement)", 35.0]]  # 10 and 60


def test_scores_have_no_say(tmp_path: Path) -> None:
    """The same estimates pick the same settings where the scores are the other way round."""
    picks = []
    for name, sign in (("a", 1), ("b", -1)):
        made(tmp_path / name, {0: LIKES_1, 1: LIKES_2}, effect=lambda t, s, sign=sign: 50 + sign * 20 * s["L_test"])
        run, rows = next(load(tmp_path / name).each())
        choice = choose(run, rows, Rule.parse("offline:lcb"))
        assert isinstance(choice, Choice)
        picks.append(choice.at.tolist())
    assert picks[0] == picks[1] == [[1], [2]]


def test_a_seed_without_estimates_is_left_out_and_said(tmp_path: Path) -> None:
    places = made(tmp_path, {0: LIKES_1})
    cells, notes = scores(load(tmp_path), rule=Rule.parse("offline:lcb"))
    assert cells["mean"].tolist() == [20] and any("n = 1 of 2" in note for note in notes)
    (places[0] / "offline.csv").unlink()
    cells, notes = scores(load(tmp_path), rule=Rule.parse("offline:lcb"))
    assert cells.empty and any("no offline.csv: python -m harness.offline" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "why"),
    [("L_test,value\n0,1\n", "has no column disagreement"), ("", "offline.csv"),
     (",".join(["L_test", *OFFLINE]) + "\n" + ",".join(["0", "x", *["1"] * 12]) + "\n", "could not convert"),
     (",".join(["L_test", *OFFLINE]) + "\n" + 2 * (",".join(["0", *["1"] * 13]) + "\n"), "two rows of one setting"),
     (",".join(["L_test", *OFFLINE]) + "\n" + ",".join(["0", "inf", *["1"] * 12]) + "\n", "not finite")],
)  # fmt: skip
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    places = made(tmp_path, {})
    (places[0] / "offline.csv").write_text(text)
    (run,) = load(tmp_path).runs
    with pytest.raises(RecordError, match=why):
        run.estimates([])
    assert isinstance(estimates(run), str)
    write(places[1], LIKES_2)  # the other seed's is read, with a note
    notes: list[str] = []
    assert set(run.estimates(notes)["seed"]) == {1} and why in notes[0]


def test_one_critic_has_no_lcb(tmp_path: Path) -> None:
    rows = [{**one, "disagreement": "", "data_disagreement": ""} for one in LIKES_1]
    made(tmp_path, {0: rows, 1: rows})
    run, episodes = next(load(tmp_path).each())
    assert "says nothing of these settings" in str(choose(run, episodes, Rule.parse("offline:lcb")))
    assert isinstance(choose(run, episodes, Rule.parse("offline:td-error")), Choice)


def test_unknown_rules_are_one_line() -> None:
    with pytest.raises(RecordError, match="offline goes by lcb, td-error, disagreement, fqe"):
        Rule.parse("offline:best")
    with pytest.raises(RecordError, match="is none of"):
        Rule.parse("offlinelcb")


NUMBERS = arrays(float, (4, 3), elements=st.floats(-9, 9, width=16))


@settings(max_examples=25)
@given(NUMBERS, st.permutations(range(12)))
def test_picks_do_not_depend_on_the_order_of_rows(values: np.ndarray, order: list[int]) -> None:
    names = [f"L_test={k}" for k in range(4)]
    rows = [{**row(k, values[k, s], td=abs(values[k, s])), "seed": s, "setting": names[k]}
            for k in range(4) for s in range(3)]  # fmt: skip
    plain, mixed = (Estimates(pd.DataFrame(some), np.arange(3)) for some in (rows, [rows[place] for place in order]))
    for rule in RULES:
        assert preferences(plain, rule, names)[0].tolist() == preferences(mixed, rule, names)[0].tolist()


@settings(max_examples=25)
@given(NUMBERS, NUMBERS)
def test_no_pick_beats_the_best_of_each_seed(preferred: np.ndarray, level: np.ndarray) -> None:
    of = Arms(np.repeat(level[:, :, None], 2, axis=2), [f"L_test={k}" for k in range(4)], np.arange(3), np.arange(2))
    names = of.settings
    rows = [{**row(k, preferred[k, s]), "seed": s, "setting": names[k]} for k in range(4) for s in range(3)]
    case = offline.Case(offline.KNOBS, "toy", "toy", "vgf", "vgf", of, Estimates(pd.DataFrame(rows), np.arange(3)), 0)
    for one in offline.judged(case, []):
        assert (one.oracle_regret >= 0).all()
        assert np.allclose(one.fixed_regret - one.regret, _picked(of, case, one.rule) - level[0])


def _picked(of: Arms, case: offline.Case, rule: str) -> np.ndarray:
    choice = by_estimates(of, *preferences(case.known, rule, of.settings), rule)
    assert choice is not None
    return choice.means().to_numpy()


def test_regret_and_rank_correlation_by_hand(tmp_path: Path) -> None:
    """Held out: 60. lcb picks 20 and 60, so it loses 40 and 0; the fixed setting, L_test=1, loses 40. Seed 0 ranks
    0 < 2 < 1 where scores rank 0 < 1 < 2: rho = 1/2; seed 1 ranks as the scores do: 1."""
    made(tmp_path, {0: LIKES_1, 1: LIKES_2})
    (case,), _ = offline.cases(load(tmp_path), Endpoint(), {"L_test": 1.0}, ["train_flow_steps"])
    found = {one.rule: one for one in offline.judged(case, [])}
    assert found["lcb"].regret.tolist() == [40, 0] == found["lcb"].oracle_regret.tolist()
    assert found["lcb"].fixed_regret.tolist() == [40, 40] and found["lcb"].spearman == pytest.approx(0.75)
    table = offline.summary(list(found.values())).set_index("rule")
    assert table.loc["lcb", ["regret", "over", "fixed_regret"]].tolist() == [20, "seeds", 40]
    assert (table.loc["lcb", "low"], table.loc["lcb", "high"]) == pytest.approx(student(np.array([40.0, 0.0])))
    assert np.isnan(table.loc["fqe", "spearman"])  # all alike: it ranks nothing
    (unstated,), _ = offline.cases(load(tmp_path), Endpoint(), {"N": 1.0}, ["train_flow_steps"])
    assert all(np.isnan(one.fixed_regret).all() for one in offline.judged(unstated, []))


def test_environments_are_the_units_where_there_are_several(tmp_path: Path) -> None:
    tasks = [f"{name}-singletask-task{i}-v0" for name in ("cube-single-play", "scene-play") for i in (1, 2)]
    for number, task in enumerate(tasks):
        made(tmp_path, {0: LIKES_1, 1: LIKES_1}, suite="ogbench", task=task, fingerprint=f"{number:012x}",
             effect=lambda t, s, number=number: 50 - number * (s["L_test"] == 1))  # fmt: skip
    found, _ = offline.cases(load(tmp_path), Endpoint(), {}, ["train_flow_steps"])
    lost = [one for case in found for one in offline.judged(case, []) if one.rule == "lcb"]
    value, low, high, over = offline.overall(lost, "regret")
    assert over == "environments" and value == pytest.approx((0.5 + 2.5) / 2)
    assert (low, high) == pytest.approx(student(np.array([0.5, 2.5])))


def test_l_train_is_chosen_among_trained_runs(tmp_path: Path) -> None:
    for steps, rows in ((0, LIKES_2), (1, [row(0, 9.0), row(1, 2.0), row(2, 3.0)])):
        made(tmp_path, {0: rows, 1: rows}, fingerprint=f"{steps}" * 12, settings={"train_flow_steps": steps},
             effect=lambda t, s, steps=steps: 10 * steps + s["L_test"])  # fmt: skip
    found, notes = offline.cases(load(tmp_path), Endpoint(), {"L_test": 1, "train_flow_steps": 0}, ["train_flow_steps"])
    (swept,) = [case for case in found if case.scope == offline.SWEEP]
    assert swept.arms.settings[swept.fixed or 0] == "train_flow_steps=0 L_test=1" and len(swept.arms.settings) == 6
    (one,) = [one for one in offline.judged(swept, notes) if one.rule == "lcb"]
    assert one.regret.tolist() == [2, 2] and one.fixed_regret.tolist() == [11, 11]  # 12 is best; it picks 10


def test_half_of_the_environments_are_shown_with_confirm_alone(tmp_path: Path) -> None:
    names = {False: [], True: []}  # type: ignore[var-annotated]
    for letter in "abcdef":
        names[offline.confirming(letter)].append(letter)
    assert names[False] and names[True]
    for number, task in enumerate((names[False][0], names[True][0])):
        made(tmp_path, {0: LIKES_1, 1: LIKES_2}, task=task, fingerprint=f"{number:012x}")
    for words, shown in (([], names[False][0]), (["--confirm"], names[True][0])):
        out = tmp_path / "out"
        done = CliRunner().invoke(offline.app, [str(tmp_path), "--out", str(out), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        name = "offline-confirm" if words else "offline"
        assert pd.read_csv(out / f"{name}-cases.csv")["task"].unique().tolist() == [shown]
        text = (out / f"{name}.md").read_text()
        assert "| vgf | lcb | 1 | 20.0 " in text and "1 environment " in text


def test_without_estimates_the_command_says_what_makes_them(tmp_path: Path) -> None:
    made(tmp_path, {})
    with pytest.raises(RecordError, match=r"no offline\.csv: python -m harness\.offline"):
        CliRunner().invoke(offline.app, [str(tmp_path)], catch_exceptions=False)
    with pytest.raises(RecordError, match="it states a setting"):
        CliRunner().invoke(offline.app, [str(tmp_path), "--fixed", "oracle"], catch_exceptions=False)
