"""`python -m analysis.verdicts` on records with known effects, and on files that are not what they should be."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from analysis.records.files import RecordError
from analysis.records.load import load
from analysis.verdicts import app, tabulate
from tests.analysis.command import invoke
from tests.analysis.synthetic import split
from tests.analysis.synthetic_language import best_of_n, plain, vgf, write_language

LEVELS = {"L_test": [0, 1, 16]}


def sealed(folder: Path, judge: str, text: str) -> Path:
    """A verdicts file, and the file that says which texts it judged."""
    (path := folder / f"verdicts-{judge}.csv").write_text(text)
    sha256 = hashlib.sha256((folder / "responses.jsonl").read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"rows": text.count("\n") - 1, "responses": sha256}))
    return path


def write_verdicts(folder: Path, judge: str = "http-m-1", knobs: tuple[str, ...] = (), **outcome: str) -> None:
    """A judge's verdicts on two seeds of four prompts: `outcome`, by prompt (p0=...), says all, with a tie else."""
    rows = [",".join(["seed", *knobs, "episode", "verdict", "swap_consistent", "cost"])]
    for seed, prompt in itertools.product((0, 1), range(4)):
        fields = [seed, *[0 for _ in knobs], prompt, outcome.get(f"p{prompt}", "tie"), int(prompt != 3), 0.25]
        rows.append(",".join(map(str, fields)))
    sealed(folder, judge, "\n".join(rows) + "\n")


def made_of(**fingerprints: str) -> list[dict[str, object]]:
    """What run.json says of its stages; `responses` are those of one split."""
    return [{"name": name, "fingerprint": one, "steps": 10} for name, one in fingerprints.items()]


def test_rows_by_hand(tmp_path: Path) -> None:
    """A judge's win, loss, invalid and (inconsistent) tie, and the recorded scores of the same responses."""
    folder = write_language(tmp_path, "sft", lambda _: plain(2.0), seeds=2, prompts=4, noise=0.0)
    write_verdicts(folder, p0="win", p1="loss", p2="invalid")
    table, _, notes = tabulate(load(tmp_path))
    assert notes == []
    rows = table.set_index("judge")
    mine = rows.loc["http-m-1"]
    assert (mine["verdicts"], mine["prompts"], mine["seeds"]) == (8, 4, 2)
    assert (mine["win"], mine["tie"], mine["loss"], mine["invalid"]) == (0.25, 0.25, 0.25, 0.25)
    assert mine["win_rate"] == 0.5 and mine["consistent"] == pytest.approx(2 / 3) and mine["cost"] == 2.0
    assert mine["longer"] == 0 and mine["controlled"] == pytest.approx(0.5)  # 5 x 30 characters, as the reference
    recorded = rows.loc["recorded"]
    assert recorded["win_rate"] == 1 and pd.isna(recorded["consistent"]) and recorded["invalid"] == 0


def test_held_out_choice_and_paired_difference(tmp_path: Path) -> None:
    """L_test=1 is best on either half; against best-of-N at its best, its lead has an interval above zero."""
    write_language(tmp_path, "vgf", vgf(0.9, 0.5), LEVELS, prompts=200)
    write_language(tmp_path, "best_of_n", lambda s: plain(best_of_n(s)["gold"] - 0.5), {"N": [1, 5]}, prompts=200)
    table, differences, notes = tabulate(load(tmp_path), compare=("vgf", "best_of_n"))
    rows = table.set_index("row")
    chosen = rows.loc["vgf (held-out)"]
    assert chosen["picks"] == "L_test=1" and chosen["win_rate"] == rows.loc["vgf L_test=1", "win_rate"]
    assert rows.loc["vgf L_test=16", "win_rate"] < rows.loc["vgf L_test=1", "win_rate"] - 0.1
    one = differences.iloc[0]
    assert len(differences) == 1 and one["prompts"] == 200 and one["low"] > 0
    by_hand = chosen["win_rate"] - rows.loc["best_of_n (held-out)", "win_rate"]
    assert one["value"] == pytest.approx(by_hand, abs=1e-6)
    assert notes == []
    with pytest.raises(RecordError, match=r"nothing is called 'best_of_n N=7'; there is best_of_n, .*best_of_n N=5"):
        tabulate(load(tmp_path), compare=("vgf", "best_of_n N=7"))
    _, differences, _ = tabulate(load(tmp_path), compare=("vgf L_test=1", "best_of_n N=1"))
    assert differences["value"].tolist() == pytest.approx([chosen["win_rate"] - rows.loc["best_of_n N=1", "win_rate"]])


def test_a_held_out_row_takes_each_half_from_its_own_pick(tmp_path: Path) -> None:
    """On even prompts (the first half of the pick) L_test=0 wins, on odd ones L_test=1: each is scored on the other."""
    folder = write_language(tmp_path, "vgf", vgf(0, 0), {"L_test": [0, 1]}, seeds=1, prompts=4, noise=0.0)
    rows = ["seed,L_test,episode,verdict,swap_consistent,cost"]
    for level in (0, 1):
        rows += [f"0,{level},{e},{'win' if e % 2 == level else 'loss'},1,0" for e in range(4)]
    sealed(folder, "j", "\n".join(rows) + "\n")
    table, _, _ = tabulate(load(tmp_path), judge="j")
    chosen = table.set_index("row").loc["vgf (held-out)"]
    assert chosen["picks"] == "L_test=0 / L_test=1" and chosen["win_rate"] == 0


def write_rewards(root: Path, method: str, knobs: Mapping[str, list[float]], **rewards: str) -> Path:
    """A run of two seeds and four prompts with these columns, each a formula of the columns of episodes.csv."""
    folder = write_language(root, method, lambda _: plain(0.2), knobs, seeds=2, prompts=4, noise=0.0)
    table = pd.read_csv(folder / "episodes.csv")
    table["proxy"] = math.nan
    for name, formula in rewards.items():
        table[name] = table.eval(formula)
    table.to_csv(folder / "episodes.csv", index=False)
    return folder


def test_tables_have_the_rewards(tmp_path: Path) -> None:
    """Means over the prompts and seeds that were judged; a held-out row takes each half from its own pick."""
    levels: dict[str, list[float]] = {"L_test": [0, 1]}
    write_rewards(tmp_path, "vgf", levels, proxy="10 * L_test + seed + episode", soft="-proxy", gold="L_test / 4",
                  score="0 * gold + (L_test == episode % 2)")  # fmt: skip
    write_rewards(tmp_path, "sft", {}, proxy="1.5 + seed", gold="0.5 * (episode + 1)")
    table, differences, _ = tabulate(load(tmp_path), compare=("vgf L_test=1", "vgf L_test=0", "sft"))
    rows = table.set_index("row")[["gold", "proxy", "soft"]]
    assert rows.loc["vgf L_test=0"].tolist() == [0.0, 2.0, -2.0]  # seeds 0 and 1, prompts 0 to 3
    assert rows.loc["vgf L_test=1"].tolist() == [0.25, 12.0, -12.0]
    # L_test=0 wins on even prompts and counts on odd ones: proxies 1 and 3; L_test=1 on even ones: 10 and 12
    assert rows.loc["vgf (held-out)"].tolist() == [0.125, 7.0, -7.0]
    assert rows.loc["sft", ["gold", "proxy"]].tolist() == [1.25, 2.0] and pd.isna(rows.loc["sft", "soft"])
    apart = differences.set_index("second")[["gold", "proxy", "soft"]]
    assert apart.loc["vgf L_test=0"].tolist() == [0.25, 10.0, -10.0]
    assert apart.loc["sft", ["gold", "proxy"]].tolist() == [-1.0, 10.0] and pd.isna(apart.loc["sft", "soft"])


def test_rewards_are_of_what_was_judged(tmp_path: Path) -> None:
    """A judge that saw the first two prompts of four; in a difference, those that both have."""
    for method, prompts in (("dpo", (0, 1)), ("sft", (1, 2))):
        folder = write_rewards(tmp_path, method, {}, proxy=f"episode ** {1 + (method == 'sft')}")
        rows = [f"{s},{e},win,1,0" for s in (0, 1) for e in prompts]
        sealed(folder, "j", "\n".join(["seed,episode,verdict,swap_consistent,cost", *rows]) + "\n")
    table, differences, _ = tabulate(load(tmp_path), "j", compare=("dpo", "sft"))
    assert table.set_index("row")["proxy"].to_dict() == {"dpo": 0.5, "sft": 2.5}
    assert differences["proxy"].tolist() == [0.0]


def test_scores_of_two_reward_models_are_not_subtracted(tmp_path: Path) -> None:
    for method, model in (("dpo", "77"), ("sft", "88")):
        path = write_rewards(tmp_path, method, {}, proxy="1.0 + episode") / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"stages": made_of(reward_model=model)}))
    _, differences, notes = tabulate(load(tmp_path), compare=("dpo", "sft"))
    assert pd.isna(differences["proxy"]).all() and differences["gold"].tolist() == [0.0]
    said = "dpo and sft have other reward models, so no difference of proxy and soft"
    assert any(note.endswith(said) for note in notes)
    path = write_rewards(tmp_path, "ppo", {}, gold="1.0 + episode") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stages": []}))
    _, _, notes = tabulate(load(tmp_path), compare=("dpo", "ppo"))
    assert not any("reward models" in note for note in notes)  # one of them was scored by none


def test_a_difference_is_over_the_same_prompts(tmp_path: Path) -> None:
    """The first four of six prompts are others, with the same numbers, for one of the methods."""
    write_language(tmp_path, "sft", lambda _: plain(0.2), prompts=6)
    path = write_language(tmp_path, "dpo", lambda _: plain(0.7), prompts=6) / "responses.jsonl"
    path.write_text(re.sub(r'"post ([0-3])"', r'"another post \1"', path.read_text()))
    _, differences, notes = tabulate(load(tmp_path), compare=("dpo", "sft"))
    assert differences["prompts"].tolist() == [2]
    assert "recorded: dpo and sft share 2 of 10 prompts; their difference is over those" in notes[0]
    assert len(notes) == 2 and "no interval over seeds" in notes[1]  # two easy prompts say nothing of seeds


def test_a_difference_is_over_the_same_seeds(tmp_path: Path) -> None:
    """Both have 0.5 on seeds 0 to 2. Seeds 3 and 4, which one of them lacks, win all, and count for nothing."""
    for method, seeds in (("dpo", 5), ("sft", 3)):
        folder = write_language(tmp_path, method, lambda _: plain(0.2), seeds=seeds, prompts=12)
        rows = [f"{s},{e},{'win' if s > 2 else 'tie'},1,0" for s in range(seeds) for e in range(12)]
        sealed(folder, "j", "\n".join(["seed,episode,verdict,swap_consistent,cost", *rows]) + "\n")
    _, differences, notes = tabulate(load(tmp_path), "j", compare=("dpo", "sft"))
    (one,) = differences.to_dict("records")
    assert (one["value"], one["seeds"], one["prompts"]) == (0.0, 3, 12)
    assert "j: dpo and sft share 3 of 5 seeds; their difference is over those" in notes[0]
    assert pd.isna(one["seeds_low"]) and notes[1].endswith(
        "j: dpo and sft differ by as much on each of 3 seeds, so no interval over seeds"
    )


def test_without_a_common_seed_there_is_no_difference(tmp_path: Path) -> None:
    for method, seed in (("dpo", 0), ("sft", 1)):
        folder = write_language(tmp_path, method, lambda _: plain(0.2), seeds=2, prompts=12)
        rows = ["seed,episode,verdict,swap_consistent,cost", *(f"{seed},{e},win,1,0" for e in range(12))]
        sealed(folder, "j", "\n".join(rows) + "\n")
    _, differences, notes = tabulate(load(tmp_path), "j", compare=("dpo", "sft"))
    assert differences.empty and notes[-1].endswith("j: dpo and sft share no seed, so no difference")


def test_recorded_judges_are_told_apart(tmp_path: Path) -> None:
    for method, judge in (("sft", "gold"), ("dpo", "proxy")):
        write_language(tmp_path, method, lambda _: plain(0.2), prompts=4, task_options={"judge": judge})
    table, differences, notes = tabulate(load(tmp_path), compare=("dpo", "sft"))
    assert table.set_index("method")["judge"].to_dict() == {"sft": "recorded:gold", "dpo": "recorded:proxy"}
    assert differences.empty and len(notes) == 2


def test_only_what_was_judged_counts(tmp_path: Path) -> None:
    """A judge that judged one seed of four prompts, all valid: none is invalid."""
    folder = write_language(tmp_path, "sft", lambda _: plain(0.2), seeds=2, prompts=4)
    rows = ["seed,episode,verdict,swap_consistent,cost", "1,0,win,1,0", *(f"0,{e},win,1,0" for e in range(4))]
    sealed(folder, "j", "\n".join(rows) + "\n")
    row = tabulate(load(tmp_path), "j")[0].iloc[0]
    assert (row["verdicts"], row["prompts"], row["win"], row["invalid"]) == (5, 4, 1.0, 0.0)


@pytest.mark.parametrize("known", [True, False])
def test_verdicts_on_settings_that_are_not_there(tmp_path: Path, known: bool) -> None:
    """They neither count for another setting nor break the table."""
    folder = write_language(tmp_path, "vgf", vgf(0, 0), {"L_test": [0, 1]}, seeds=1, prompts=2, noise=0.0)
    rows = ["seed,L_test,episode,verdict,swap_consistent,cost", *(f"0,7,{e},win,1,0" for e in (0, 1))]
    rows += [f"0,{level},{e},loss,1,0" for level in (0, 1) for e in (0, 1)] if known else []
    sealed(folder, "j", "\n".join(rows) + "\n")
    table, _, notes = tabulate(load(tmp_path), "j")
    assert len(notes) == 1 and "j: 2 verdicts on settings that the records lack, left out" in notes[0]
    assert table.empty if not known else set(table["win_rate"]) == {0.0}


def test_verdicts_on_other_texts_do_not_count(tmp_path: Path) -> None:
    folder = write_language(tmp_path, "sft", lambda _: plain(0.2), seeds=2, prompts=4)
    write_verdicts(folder)
    assert len(tabulate(load(tmp_path), "http")[0]) == 1
    path = folder / "responses.jsonl"
    path.write_text(path.read_text().replace("rr", "rrr", 1))
    table, _, notes = tabulate(load(tmp_path), "http")
    assert table.empty and "has verdicts on other texts than are there now" in notes[0]


def test_the_command_and_its_files(tmp_path: Path) -> None:
    write_language(tmp_path, "vgf", vgf(0.7, 0.5), LEVELS)
    write_language(tmp_path, "sft", lambda _: plain(0.2))
    result = invoke(app, str(tmp_path), "--compare", "vgf,sft")
    assert result.exit_code == 0 and "tldr-synthetic / recorded" in result.output
    said = " ".join(result.output.split())
    assert re.search(r"vgf \(held-out\)( \(\d+ passes\))? - sft \(1 passes\) = \+", said) and "over 40 prompts" in said
    assert len(pd.read_csv(tmp_path / "tables" / "winrates.csv")) == 5
    assert pd.read_csv(tmp_path / "tables" / "winrate-differences.csv")["low"].iloc[0] > 0
    nobody = invoke(app, str(tmp_path), "--judge", "nobody")
    assert nobody.exit_code == 2 and "no verdicts of nobody" in nobody.stderr


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("verdicts-j.csv", "seed,episode,verdict\n", "verdicts-j.csv:1: the header is seed,episode,verdict"),
        ("verdicts-j.csv", "seed,episode,verdict,swap_consistent,cost\n0,0,won,1,0\n", "'won' is no verdict"),
        ("verdicts-j.csv", "", "No columns to parse"),
        (
            "verdicts-j.csv",
            "seed,episode,verdict,swap_consistent,cost\n0,0,win,yes,0\n",
            "convert string to float: 'yes'",
        ),
        (
            "verdicts-j.csv",
            "seed,episode,verdict,swap_consistent,cost\n0,0,win,1,0\n0,0,loss,1,0\n",
            "two verdicts on one response",
        ),
        ("verdicts-j.csv", "seed,episode,verdict,swap_consistent,cost\n0,0,win,1,0\n", "no verdicts-j.json says which"),
        ("responses.jsonl", '{"seed": 0\n', "responses.jsonl:1: Expecting"),
        ("responses.jsonl", '{"seed": 0, "episode": 1}\n', "responses.jsonl:1: prompt: Field required"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named_and_left_out(tmp_path: Path, name: str, content: str, note: str) -> None:
    folder = write_language(tmp_path, "sft", lambda _: plain(0.2), prompts=4)
    write_language(tmp_path, "dpo", lambda _: plain(0.7), prompts=4)
    (folder / name).write_text(content)
    table, _, notes = tabulate(load(tmp_path))
    assert len(notes) == 1 and note in notes[0] and "left out" in notes[0]
    # of a judge's file that is broken, the run's own scores remain
    assert set(table["method"]) == ({"dpo"} if name == "responses.jsonl" else {"dpo", "sft"})
    assert set(table["judge"]) == {"recorded"}


def split_runs(root: Path, meta: Mapping[str, object] | None = None, **validation: object) -> None:
    """Best-of-N, of which N = 1 wins on validation prompts (so does 9, half the time), and N = 5 on test prompts.

    `meta`, `validation`: what the run on validation prompts has otherwise in its record, and of settings."""
    means = {"validation": {1: 2.0, 5: 0.0, 9: 0.95}, "test": {1: 0.0, 5: 2.0, 9: 0.95}}
    for i, (part, gold) in enumerate(means.items()):
        more = validation if part == "validation" else {}
        record = {"stages": made_of(sft="5f" * 6, reward_model="4e" * 6, responses=f"{i}b" * 6)}
        record |= (meta or {}) if part == "validation" else {}
        write_language(
            root, "best_of_n", lambda s, gold=gold: plain(gold[s["N"]], compute=2 * s["N"]), {"N": [1, 5, 9]},
            fingerprint=f"{i}a" * 6, noise=0.0, settings={"prompt_split": part, "sft_steps": 10, **more}, **record,
        )  # fmt: skip
    write_language(root, "sft", lambda _: plain(0.95), noise=0.0, settings={"prompt_split": "test", "sft_steps": 10})


def picked_row(root: Path, *more: str) -> tuple[pd.Series, str]:
    done = invoke(app, str(root), "--select", "validation", "--compare", "best_of_n,sft", *more)
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(root / "tables" / "winrates.csv").set_index("row")
    assert not table.index.duplicated().any() and list(table.index)[:3] == [f"best_of_n N={n}" for n in (1, 5, 9)]
    return table.loc["best_of_n (validation)"], done.stdout


def test_settings_are_picked_on_validation_prompts(tmp_path: Path) -> None:
    """What wins on validation prompts stands, and what it costs; runs on those are no rows."""
    split_runs(tmp_path)
    picked, text = picked_row(tmp_path)
    assert (picked["rule"], picked["picks"], picked["win_rate"], picked["passes"]) == ("validation", "N=1", 0.0, 2.0)
    (apart,) = pd.read_csv(tmp_path / "tables" / "winrate-differences.csv").to_dict("records")
    assert apart["value"] == -0.5 and apart["seeds"] == 3 and pd.isna(apart["seeds_low"])  # all seeds are alike
    assert "best_of_n (validation) (2 passes) - sft (1 passes) = -50.0 points" in " ".join(text.split())


def test_picks_are_of_at_most_so_many_passes(tmp_path: Path) -> None:
    split_runs(tmp_path)
    assert picked_row(tmp_path, "--passes", "17")[0]["picks"] == "N=1"
    done = invoke(app, str(tmp_path), "--select", "validation", "--passes", "1")
    assert done.exit_code == 0 and "no setting of at most 1 passes with a verdict" in " ".join(done.stdout.split())
    done = invoke(app, str(tmp_path), "--passes", "5")
    assert done.exit_code == 2 and "--passes 5: it takes a number above 0, and --select validation" in done.stderr


def test_what_was_not_run_on_test_prompts_is_not_picked(tmp_path: Path) -> None:
    """Validation prompts like N = 9 best, then N = 5; test prompts were answered at 1 and 5 alone."""
    for i, (part, numbers) in enumerate({"validation": [1, 5, 9], "test": [1, 5]}.items()):
        write_language(tmp_path, "best_of_n", lambda s: plain({1: 0.0, 5: 0.95, 9: 2.0}[s["N"]]), {"N": numbers},
                       fingerprint=f"{i}a" * 6, noise=0.0, settings={"prompt_split": part},
                       stages=made_of(sft="5f" * 6))  # fmt: skip
    done = invoke(app, str(tmp_path), "--select", "validation")
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(tmp_path / "tables" / "winrates.csv").set_index("row")
    assert table.loc["best_of_n (validation)", "picks"] == "N=5"
    assert "N=9 wins most on validation prompts, and was not run on test prompts" in " ".join(done.stdout.split())


def test_other_trainings_pick_nothing(tmp_path: Path) -> None:
    """A run on validation prompts whose SFT model was trained for longer says nothing of this one."""
    split_runs(tmp_path, sft_steps=20)
    done = invoke(app, str(tmp_path), "--select", "validation")
    assert done.exit_code == 0 and "no run on validation prompts has its settings" in " ".join(done.stdout.split())
    assert "(validation)" not in " ".join(pd.read_csv(tmp_path / "tables" / "winrates.csv")["row"])


OTHER_STAGES = made_of(sft="5f" * 6, reward_model="77" * 6, responses="0b" * 6)
OTHER_CODE = [
    stage | {"code": {"methods/language/sft.py": code, "methods/language/vgf.py": "1"}}
    for stage, code in zip(made_of(sft="5f" * 6, reward_model="4e" * 6) * 2, "1122", strict=True)
]


@pytest.mark.parametrize(
    ("meta", "differs"),
    [
        ({"dataset": {"sha256": "6b" * 32}}, "the corpus"),
        ({"stages": OTHER_STAGES}, "the stage reward_model"),
        ({"stages": OTHER_STAGES, "dataset": {}}, "the corpus, the stage reward_model"),
        ({"stages": []}, "the stage reward_model, the stage sft"),
    ],
)
def test_other_models_pick_nothing(tmp_path: Path, meta: Mapping[str, object], differs: str) -> None:
    """The settings are equal, the corpus or a stage is not."""
    split_runs(tmp_path, meta)
    done = invoke(app, str(tmp_path), "--select", "validation")
    said = f"the run on validation prompts picks nothing, as it has other models (what differs: {differs})"
    assert done.exit_code == 0 and said in " ".join(done.stdout.split())
    assert "(validation)" not in " ".join(pd.read_csv(tmp_path / "tables" / "winrates.csv")["row"])


def test_models_made_by_other_code_pick_nothing(tmp_path: Path) -> None:
    """Equal fingerprints, and one source file of a stage that both records name was another one."""
    split_runs(tmp_path, {"stages": OTHER_CODE[2:]})
    path = next(tmp_path.glob("runs/*/*/best_of_n/1a*/run.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"stages": OTHER_CODE[:2]}))
    done = invoke(app, str(tmp_path), "--select", "validation")
    said = "(what differs: the code of the stage reward_model, the code of the stage sft)"
    assert done.exit_code == 0 and said in " ".join(done.stdout.split())


def test_models_of_other_seeds_pick_nothing(tmp_path: Path) -> None:
    """Seed 2 answers validation prompts, seeds 0 and 1 test prompts."""
    split_runs(tmp_path)
    for begins, gone in (("0a", (0, 1)), ("1a", (2,))):
        folders = split(next(tmp_path.glob(f"runs/*/*/best_of_n/{begins}*")))
        for seed in gone:
            shutil.rmtree(folders[seed])
    done = invoke(app, str(tmp_path), "--select", "validation")
    said = "the run on validation prompts picks nothing, as it has other models (what differs: every seed)"
    assert done.exit_code == 0 and said in " ".join(done.stdout.split())


def test_seeds_are_compared_one_by_one(tmp_path: Path) -> None:
    """Of three seeds only the second has another reward model."""
    split_runs(tmp_path)
    folder = next(tmp_path.glob("runs/*/*/best_of_n/0a*"))
    split(folder, seed1={"stages": OTHER_STAGES})
    done = invoke(app, str(tmp_path), "--select", "validation")
    said = "picks nothing, as it has other models (what differs: the stage reward_model of seed 1)"
    assert done.exit_code == 0 and said in " ".join(done.stdout.split())
    shutil.rmtree(folder / "seed-1")
    assert picked_row(tmp_path)[0]["picks"] == "N=1"


def test_of_two_runs_on_validation_prompts_that_with_the_same_models_picks(tmp_path: Path) -> None:
    """The other one likes N = 9."""
    split_runs(tmp_path)
    write_language(tmp_path, "best_of_n", lambda s: plain(s["N"] / 5), {"N": [1, 5, 9]}, "7a" * 6, noise=0.0,
                   settings={"prompt_split": "validation", "sft_steps": 10}, stages=OTHER_STAGES)  # fmt: skip
    assert picked_row(tmp_path)[0]["picks"] == "N=1"


def test_no_note_says_that_the_splits_differ(tmp_path: Path) -> None:
    """They are meant to. What else tells runs on test prompts apart is said."""
    split_runs(tmp_path)
    assert "told apart" in " ".join(load(tmp_path).notes)
    done = invoke(app, str(tmp_path), "--select", "validation")
    assert done.exit_code == 0 and "told apart" not in done.stdout
    write_language(tmp_path, "best_of_n", lambda s: plain(0.2), {"N": [1, 5, 9]}, fingerprint="7a" * 6,
                   settings={"prompt_split": "test", "sft_steps": 30})  # fmt: skip
    said = " ".join(invoke(app, str(tmp_path), "--select", "validation").stdout.split())
    assert "runs of best_of_n on tldr-synthetic are told apart by sft_steps 10 / 30" in said
    assert "prompt_split" not in said


def test_validation_needs_records_of_both_splits(tmp_path: Path) -> None:
    write_language(tmp_path, "sft", lambda _: plain(1.0), settings={"prompt_split": "test"})
    done = invoke(app, str(tmp_path), "--select", "validation")
    assert done.exit_code == 2 and "--select validation: no run with prompt_split=validation" in done.stderr
    done = invoke(app, str(tmp_path), "--select", "best")
    assert done.exit_code == 2 and "--select 'best' is neither held-out nor validation" in done.stderr
