"""`python -m analysis.tune --out`: which rows go to which table of settings, and what becomes of those in it."""

from __future__ import annotations

import csv
from pathlib import Path

from analysis import tune
from analysis.tuning.picking import HEADER
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_run
from tests.analysis.test_tune import A, B, table, write_setting


def write_phases(root: Path) -> None:
    """Two settings offline, of which the second is better, and online, where the first is."""
    for alpha, before, after in ((3.0, 40.0, 90.0), (10.0, 60.0, 70.0)):
        write_run(root, fingerprint=f"{alpha:012.1f}", seeds=2, episodes=4, evaluations=2, seed_std=0.0,
                  effect=lambda t, s, level=before: level, settings={"alpha": alpha})  # fmt: skip
        write_run(root, fingerprint=f"1{alpha:011.1f}", seeds=2, episodes=4, evaluations=2, offline=1, seed_std=0.0,
                  effect=lambda t, s, level=after: level, settings={"alpha": alpha})  # fmt: skip


def test_offline_and_online_picks_never_share_a_table(tmp_path: Path) -> None:
    root, out = tmp_path / "results", tmp_path / "table.csv"
    write_phases(root)
    line = refused(tune.app, root, "--rule", "heldout-seeds", "--out", out)
    assert line == f"--out {out}: the picks belong in toy/settings.csv and toy/settings_online.csv; " \
                   "--suite and --phase choose"  # fmt: skip
    assert not out.exists()
    both = invoke(tune.app, root, "--rule", "heldout-seeds").stdout
    offline, online = both.split("rows for toy/settings_online.csv:\n")
    assert "rows for toy/settings.csv:\n" in offline
    assert [row[3] for row in (*table(offline), *table(online))] == ["10.0", "3.0"]
    assert [row[4].partition(":")[0] for row in table(online)] == ["tuned here offline to online"]
    for phase, value in (("offline", "10.0"), ("online", "3.0")):
        assert invoke(tune.app, root, "--rule", "heldout-seeds", "--phase", phase, "--out", out).exit_code == 0
        assert [row["value"] for row in csv.DictReader(out.open())] == [value]
    assert refused(tune.app, root, "--phase", "both") == "--phase 'both' is none of: offline, online"


def test_picks_of_two_suites_never_share_a_table(tmp_path: Path) -> None:
    root, out = tmp_path / "results", tmp_path / "table.csv"
    for suite in ("toy", "ogbench"):
        write_setting(root, A, suite=suite, alpha=3.0)
        write_setting(root, B, suite=suite, alpha=10.0)
    line = refused(tune.app, root, "--rule", "heldout-seeds", "--out", out)
    assert "the picks belong in ogbench/settings.csv and toy/settings.csv; --suite and --phase choose" in line
    assert invoke(tune.app, root, "--rule", "heldout-seeds", "--suite", "toy", "--out", out).exit_code == 0
    assert len(out.read_text().splitlines()) == 2
    assert refused(tune.app, root, "--suite", "d4rl") == "--suite 'd4rl': two settings have ogbench, toy"


def test_equal_rows_of_a_table_are_replaced(tmp_path: Path) -> None:
    root, out = tmp_path / "results", tmp_path / "table.csv"
    write_setting(root, A, alpha=3.0)
    write_setting(root, B, alpha=10.0)
    others = 'toy,vgf,alpha,1,"ours,\r\nby hand"\r\ntoy,fql,tau,1,ours\n'
    out.write_bytes(f"tasks,method,key,value,source\ntoy,fql,alpha,7,ours\n{others}".encode())
    for before in ("7 (ours)", "10.0 (tuned here: heldout-seeds, all 3 splits; 2 settings, 3 seeds"):
        done = invoke(tune.app, root, "--rule", "heldout-seeds", "--out", out)
        assert f"replaced in the table: toy,fql,alpha,{before}"[:60] in " ".join(done.stdout.split()), done
        _, kept = out.read_bytes().decode().split("\n", 1)
        assert kept.startswith(f"{others}toy,fql,alpha,10.0,") and kept.count("fql,alpha") == 1
    out.write_text('tasks,method,key,value,source\ntoy,fql,tau,"1')
    assert "is no table of settings: unexpected end of data" in refused(
        tune.app, root, "--rule", "heldout-seeds", "--out", out)  # fmt: skip


def test_rows_go_to_a_table_that_keeps_its_own(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write_setting(root, A, alpha=3.0, layer_norm=True)
    write_setting(root, B, alpha=10.0, layer_norm=False)
    out = tmp_path / "tables" / "toy.csv"
    done = invoke(tune.app, root, "--rule", "heldout-seeds", "--out", out)
    assert done.exit_code == 0 and "tasks,method,key" not in done.stdout
    rows = list(csv.DictReader(out.open()))
    assert [(row["key"], row["value"]) for row in rows] == [("alpha", "10.0"), ("layer_norm", "off")]
    out.write_text('tasks,method,key,value,source\ntoy,*,hidden_dims,"64,64",ours')  # its last line without an end
    assert invoke(tune.app, root, "--rule", "heldout-seeds", "--out", out).exit_code == 0
    rows = list(csv.DictReader(out.open()))
    assert [row["key"] for row in rows] == ["hidden_dims", "alpha", "layer_norm"] and rows[0]["source"] == "ours"


def test_the_tables_of_settings_have_these_columns() -> None:
    root = Path(__file__).parents[2]
    files = [path for folder in ("harness", "tasks") for path in root.glob(f"{folder}/**/*.csv")]
    headers = [path.open().readline().strip() for path in files]
    assert ",".join(HEADER) in headers
