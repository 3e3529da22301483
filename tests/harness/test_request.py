"""What a user asks for: seeds and sweeps as they are written, plans as files, and options on top of them."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import config
from harness.request import Axis, Request, load, parse_seeds, sweeps
from harness.session import seeds_text
from methods.core import BadInput
from tests.harness.command import TINY, invoke, refused

# ---- --seeds ----


@pytest.mark.parametrize("text, seeds", [
    ("1", (0,)), ("5", (0, 1, 2, 3, 4)), ("3-7", (3, 4, 5, 6, 7)), ("3-3", (3,)), ("0,4,9-11", (0, 4, 9, 10, 11)),
    (" 9 , 2 - 3 ", (2, 3, 9)), ("2147483647-2147483647", (2147483647,)),
])  # fmt: skip
def test_seeds_as_they_are_written(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@given(st.sets(st.integers(0, 2**31 - 1), min_size=2, max_size=30) | st.integers(2, 99).map(lambda n: set(range(n))))
def test_seeds_are_read_as_they_are_said(seeds: set[int]) -> None:
    assert parse_seeds(seeds_text(list(seeds)).removeprefix("seeds ")) == tuple(sorted(seeds))


@given(st.text("0123456789-, x\u0663", max_size=8))
def test_whatever_stands_there_is_seeds_or_one_line(text: str) -> None:
    try:
        found = parse_seeds(text)
    except BadInput as error:
        assert str(error).startswith(f"--seeds {text}: ")
    else:
        assert found == tuple(sorted(set(found))) and found[0] >= 0


@pytest.mark.parametrize("text, line", [
    *((text, "expected how many (5), a range (3-7) or a list (0,4,9)") for text in (
        "0", "", "-1", "7-3", "1,,2", "1,", "5.0", "a", "1-2-3", "\u0663", "2147483648-2147483648", "9" * 5000)),
    ("0,4,0", "a seed stands twice"), ("0-4,4", "a seed stands twice"),
    ("2000000000", "2000000000 seeds are more than anybody has trained"),
    ("0,7-2000000000", "1999999994 seeds are more than anybody has trained"),
])  # fmt: skip
def test_seeds_that_are_none(text: str, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_seeds(text)
    assert str(caught.value) == f"--seeds {text}: {line}"


# ---- --sweep ----


def swept(*words: str, chosen: tuple[str, ...] = ("bc", "fql", "vgf")) -> dict[str, list[dict[str, Any]]]:
    found = sweeps(words, chosen, "control")
    assert all(one.method == name and one.origin == "--sweep"
               for name, settings in found.items() for setting in settings for one in setting)  # fmt: skip
    return {name: [{one.key: one.value for one in setting} for setting in settings] for name, settings in found.items()}


def test_values_make_a_list_and_keys_a_grid(tmp_path: Path) -> None:
    assert swept() == {} and swept("fql.alpha=3") == {"fql": [{"alpha": "3"}]}
    assert swept(" fql.alpha = 3, 10,") == {"fql": [{"alpha": "3"}, {"alpha": "10"}]}
    assert swept("vgf.test_flow_steps=0,1;2") == {"vgf": [{"test_flow_steps": "0,1"}, {"test_flow_steps": "2"}]}
    grid = [{"alpha": alpha, "tau": tau} for alpha in ("3", "10") for tau in ("0.1", "0.2")]
    assert swept("fql.alpha=3,10", "vgf.tau=0.1", "fql.tau=0.1,0.2") == {"fql": grid, "vgf": [{"tau": "0.1"}]}


def test_values_and_settings_of_a_file(tmp_path: Path) -> None:
    lines, table = tmp_path / "lines", tmp_path / "table.csv"
    lines.write_text("0,1\n\n 2 \n")
    table.write_bytes(b'\xef\xbb\xbfalpha, hidden_dims\r\n3,"8,8"\r\n10, 9 \r\n')  # as spreadsheets write it
    assert swept(f"vgf.test_flow_steps=@{lines}") == {"vgf": [{"test_flow_steps": "0,1"}, {"test_flow_steps": "2"}]}
    settings = [{"alpha": "3", "hidden_dims": "8,8"}, {"alpha": "10", "hidden_dims": "9"}]
    assert swept(f"fql=@{table}") == {"fql": settings}
    assert swept(f"fql=@{table}", "fql.tau=0.1,0.2") == {
        "fql": [{**one, "tau": tau} for one in settings for tau in ("0.1", "0.2")]}  # fmt: skip


@pytest.mark.parametrize("word, line", [
    *((word, f"{word!r}: expected METHOD.KEY=V1,V2,... or METHOD=@FILE.csv") for word in (
        "fql", "fql.alpha", "fql.alpha=", "=3", "alpha=3", ".alpha=3", "fql.alpha= ")),
    ("fql.alpha=,", "fql.alpha=,: names no value"), ("fql.alpha=;", "fql.alpha=;: names no value"),
    ("iql.alpha=3", "iql.alpha=3: iql is not among --methods bc, fql, vgf"),
    ("task.success_timing=pre", "task.success_timing=pre: task is not among --methods bc, fql, vgf"),
    ("fql.alpha=3,3", "fql.alpha=3,3: a value stands twice"),
    ("fql.alpa=3", "alpa: no such setting in fql; did you mean 'alpha'?"),
    ("fql=@{none}", "fql=@{none}: No such file or directory: {none}"),
    ("fql.alpha=@{folder}", "fql.alpha=@{folder}: "), ("fql.alpha=@{binary}", "fql.alpha=@{binary}: "),
    ("fql.alpha=@{empty}", "fql.alpha=@{empty}: names no value"),
    *((f"fql=@{{{name}}}", f"fql=@{{{name}}}: expected a line of different keys, then rows of a value for each")
      for name in ("empty", "header", "short", "long", "twice")),
    ("fql=@{unknown}", "alpa: no such setting in fql; did you mean 'alpha'?"),
    ("fql=@{again}", "fql=@{again}: a value stands twice"),
])  # fmt: skip
def test_sweeps_that_are_none(word: str, line: str, tmp_path: Path) -> None:
    texts = {"empty": "", "header": "alpha\n", "short": "alpha,tau\n1,2\n3\n", "long": "alpha\n1,2\n",
             "twice": "alpha,alpha\n1,2\n", "unknown": "alpa\n3\n", "again": "alpha\n3\n3\n"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    places = {name: tmp_path / name for name in (*texts, "none", "folder", "binary")}
    with pytest.raises(BadInput) as caught:
        swept(word.format(**places))
    assert str(caught.value).startswith(f"--sweep {line.format(**places)}") and "\n" not in str(caught.value)


def test_a_key_is_swept_once() -> None:
    with pytest.raises(BadInput, match=r"^--sweep: a key of fql is swept twice$"):
        swept("fql.alpha=3", "fql.alpha=10")


def test_a_value_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    line = refused(*TINY, "--methods", "fql", "--sweep", "fql.alpha=3,much", "--results", str(tmp_path / "r"))
    assert line == "--sweep: alpha=much is not a number" and not (tmp_path / "r").exists()


# ---- plans as files ----

WHOLE = Request("ogbench", ("cube-single-*",), ("vgf", "fql"), "smoke", "0,4", 7, ("vgf.alpha=3", "tau=0.1"),
                ("fql.alpha=3,10",), "generate", {"episodes": 3, "online_steps": 50})  # fmt: skip
SIZES = st.dictionaries(st.sampled_from(["episodes", "jobs", "online_steps"]), st.integers(0, 2**31 - 1))
TEXTS = st.text(min_size=1, max_size=9)
LISTS = st.lists(TEXTS, max_size=3).map(tuple)
ROWS = st.sets(TEXTS, min_size=1, max_size=2).flatmap(lambda keys: st.lists(
    st.fixed_dictionaries({key: st.text(max_size=3) for key in sorted(keys)}), min_size=1, max_size=3))  # fmt: skip
SWEPT = st.lists(st.builds(Axis, TEXTS, ROWS.map(tuple)), max_size=2).map(tuple)


@given(st.just(WHOLE) | st.builds(
    Request, suite=TEXTS | st.just(""), tasks=LISTS, methods=LISTS, preset=st.none() | TEXTS, seeds=TEXTS,
    steps=st.none() | st.integers(1, 2**31 - 1), set=LISTS, sweep=LISTS, data=TEXTS, sizes=SIZES, swept=SWEPT,
    fingerprint=TEXTS | st.just(""), protocol=TEXTS | st.just("")))  # fmt: skip
def test_a_request_is_read_as_it_was_written(request_: Request) -> None:
    with tempfile.TemporaryDirectory() as folder:
        request_.write(path := Path(folder) / "plan.toml")
        assert load(path) == request_
        if request_ == WHOLE:
            values = tomllib.loads(path.read_text())
            assert values["seeds"] == "0,4" and values["sizes"] == {"episodes": 3, "online_steps": 50}


def test_options_come_on_top() -> None:
    """Settings and sweeps after those that are there, so that they win or make a grid; the rest in their place."""
    on_top = WHOLE.with_words(suite="", methods=("bc",), tasks=(), preset=None, seeds="9-9", steps=None, data="",
                              set=("vgf.alpha=4",), sweep=("vgf.tau=1,2",), sizes={"episodes": 4})  # fmt: skip
    assert on_top == Request("ogbench", ("cube-single-*",), ("bc",), "smoke", "9-9", 7,
                             ("vgf.alpha=3", "tau=0.1", "vgf.alpha=4"), ("fql.alpha=3,10", "vgf.tau=1,2"), "generate",
                             {"episodes": 4, "online_steps": 50})  # fmt: skip
    assert WHOLE.with_words() == WHOLE


def test_a_plan_is_saved_and_carried_out_with_options_on_top(tmp_path: Path) -> None:
    plan, results = tmp_path / "new" / "plan.toml", tmp_path / "results"
    asked = (*TINY, "--evaluate-every", "40", "--methods", "bc", "--set", "bc.batch_size=8", "--sweep",
             "bc.learning_rate=0.01,0.02", "--results", str(results))  # fmt: skip
    done = invoke(*asked, "--save-plan", str(plan))
    assert done.exit_code == 0 and not results.exists(), done.stderr
    done = invoke("--plan", str(plan), "--seeds", "4-4", "--set", "bc.batch_size=9", "--results", str(results))
    assert done.exit_code == 0 and "2 of 2 runs finished" in done.stderr, done.stderr
    found = [json.loads(path.read_text()) for path in results.glob("runs/toy/toy/bc/*/*/run.json")]
    assert [(one["seed"], one["config"]["batch_size"]["value"]) for one in found] == [(4, 9)] * 2
    assert {one["config"]["learning_rate"]["value"] for one in found} == {0.01, 0.02}
    assert refused("--plan", str(plan), "--set", "bc.batch=9").startswith("--set batch: no such setting in bc; did")


def planned(request_: Request) -> list[str]:
    plan = request_.plan()
    return [run.fingerprint for task in plan.tasks for run in plan.runs(task)]


def test_a_plan_holds_what_the_files_of_its_sweeps_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    Path("s.csv").write_text('alpha,hidden_dims\n3,"8,8"\n10,9\n')
    Path("taus").write_text("0.1\n0.2\n")
    words = ("fql=@s.csv", "vgf.alpha=1,2", "fql.tau = @taus")
    asked = Request(methods=("fql", "vgf"), preset="smoke", sweep=words)
    before = planned(asked)
    done = invoke("--methods", "fql,vgf", "--preset", "smoke", *(w for word in words for w in ("--sweep", word)),
                  "--save-plan", "plan.toml")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    Path("s.csv").write_text("alpha\n7\n")  # another's meanwhile
    Path("taus").unlink()
    plan = Path("plan.toml").absolute()
    monkeypatch.chdir(tmp_path)
    found = load(plan)
    assert planned(found) == before and len(before) == 6 and "@" not in plan.read_text()
    values = tomllib.loads(plan.read_text())
    assert values["swept"][0] == {"method": "fql", "rows": [{"alpha": "3", "hidden_dims": "8,8"},
                                                            {"alpha": "10", "hidden_dims": "9"}]}  # fmt: skip
    assert invoke("--plan", str(plan), "--sweep", "vgf.tau=0.1,0.2", "--save-plan", str(plan)).exit_code == 0
    assert len(planned(load(plan))) == 8, "swept on top"
    line = refused("--plan", str(plan), "--methods", "vgf", "--dry-run")
    assert line == "swept fql: fql is not among --methods vgf"


def test_data_at_a_path_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data, kept in (("d.npz", str(tmp_path / "d.npz")), ("/d.npz", "/d.npz"), ("~/d", str(Path.home() / "d")),
                       *((name, name) for name in ("auto", "download", "generate"))):  # fmt: skip
        Request(methods=("bc",), data=data).save(path := tmp_path / "plan.toml")
        assert load(path).data == kept


def test_a_plan_that_means_other_runs_is_refused_until_it_is_saved_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = str(tmp_path / "plan.toml")
    asked = ("--methods", "bc", "--preset", "smoke", "--set", "bc.batch_size=8")
    assert invoke(*asked, "--save-plan", plan).exit_code == 0
    look = ("--plan", plan, "--results", str(tmp_path / "r"), "--dry-run")
    line = (f"--plan {plan}: means other runs in this version than when it was saved, or was edited; "
            f"to accept them, save it anew: --plan {plan} --save-plan {plan}")  # fmt: skip
    assert invoke(*look).exit_code == 0 and invoke(*look, "--seeds", "9-9").exit_code == 0
    tell = config.preset
    for change in ({"episodes": 77}, {"seeds": 4}):  # another version's preset

        def other(suite: str, name: str | None, change: dict[str, int] = change) -> Any:
            sizes, overrides = tell(suite, name)
            return {**sizes, **change}, overrides

        with monkeypatch.context() as patch:
            patch.setattr(config, "preset", other)
            assert refused(*look) == line
            assert refused(*look, "--seeds", "9-9") == line, "whatever comes on top"
            assert invoke("--plan", plan, "--save-plan", plan).exit_code == 0
            assert invoke(*look).exit_code == 0
        assert refused(*look) == line
        assert invoke("--plan", plan, "--save-plan", plan).exit_code == 0
    text = Path(plan).read_text()
    Path(plan).write_text(text.replace("bc.batch_size=8", "bc.batch_size=9"))
    assert refused(*look) == line
    Path(plan).write_text("\n".join(one for one in text.splitlines() if not one.startswith("fingerprint")))
    assert invoke(*look).exit_code == 0, "written by hand"


def test_no_online_steps_on_top_of_an_online_plan(tmp_path: Path) -> None:
    plan = str(tmp_path / "plan.toml")
    online = ("--online-steps", "50", "--online-warmup", "10", "--updates-per-step", "2")
    assert invoke(*TINY, "--methods", "vgf", *online, "--save-plan", plan).exit_code == 0
    assert len(planned(load(Path(plan)))) == 2
    done = invoke("--plan", plan, "--online-steps", "0", "--save-plan", plan)
    assert done.exit_code == 0, done.stderr
    assert set(load(Path(plan)).sizes) & {"online_warmup", "updates_per_step"} == set()
    assert len(planned(load(Path(plan)))) == 1
    line = refused("--plan", plan, "--online-steps", "0", "--online-warmup", "3", "--dry-run")
    assert line == "--online-warmup has no meaning without --online-steps"


@pytest.mark.parametrize("words, line", [
    ("--set fql.alpha=9", "--set: fql.alpha=9 has no effect, as --sweep sets fql.alpha"),
    ("--set alpha=9 --methods fql", "--set: alpha=9 has no effect, as --sweep sets fql.alpha"),
    ("--sweep fql.steps=3,4 --steps 9 --methods fql", "--steps: steps=9 has no effect, as --sweep sets fql.steps"),
])  # fmt: skip
def test_a_setting_that_a_sweep_replaces_is_refused(words: str, line: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("preset = 'smoke'\nmethods = ['fql', 'vgf']\nsweep = ['fql.alpha=3,10']\n")
    assert refused("--plan", str(plan), "--dry-run", *words.split()) == line
    words += "" if "--methods" in words else " --methods fql"
    assert refused("--preset", "smoke", "--sweep", "fql.alpha=3,10", *words.split()) == line
    assert invoke("--plan", str(plan), "--set", "alpha=9", "--show-config").exit_code == 0, "vgf has it, too"


def test_a_sweep_on_top_takes_the_place_of_a_setting() -> None:
    asked = Request(methods=("fql",), set=("fql.alpha=3", "fql.tau=0.1")).with_words(sweep=("fql.alpha=1,2",))
    assert asked.set == ("fql.tau=0.1",) and len(planned(asked)) == 2


@pytest.mark.parametrize("text, line", [
    ("swept = 3", "{path}: swept is 3, expected tables of a method and its rows"),
    ("swept = ['fql']", "{path}: swept is ['fql'], expected tables of a method and its rows"),
    ("[[swept]]\nrows = [{alpha = '3'}]", "{path}: swept: method is None, expected a text"),
    ("[[swept]]\nmetod = 'fql'", "{path}: swept: unknown key 'metod'; did you mean 'method'?"),
    *((f"[[swept]]\nmethod = 'fql'\n{rows}", "{path}: swept: rows is ") for rows in (
        "", "rows = []", "rows = 3", "rows = [3]", "rows = [{}]", "rows = [{alpha = '3'}, {tau = '3'}]")),
    ("[[swept]]\nmethod = 'fql'\nrows = [{alpha = 3}]", "{path}: swept: rows: alpha is 3, expected a text"),
    ("fingerprint = 3", "{path}: fingerprint is 3, expected a text"),
    ("seeds = 5", "{path}: seeds is 5, expected a text"),
    ("sweeps = 'x'", "{path}: unknown key 'sweeps'; did you mean 'sweep'?"),
    ("methods = 'vgf'", "{path}: methods is 'vgf', expected a list of texts"),
    ("set = [1]", "{path}: set is [1], expected a list of texts"),
    ("steps = 0", "{path}: steps is 0, expected a whole number above 0"),
    ("steps = true", "{path}: steps is True, expected a whole number above 0"),
    ("steps = 2147483648", "{path}: steps is 2147483648, expected a whole number above 0"),
    ("steps = " + "9" * 5000, "{path}: "),
    ("sizes = 3", "{path}: sizes is 3, expected a table of whole numbers"),
    ("[sizes]\nepisodes = '3'", "{path}: sizes is {{'episodes': '3'}}, expected a table of whole numbers"),
    ("[sizes]\nepisods = 3", "{path}: sizes: unknown key 'episods'; did you mean 'episodes'?"),
    ("[sizes]\nseeds = 3", "{path}: sizes: unknown key 'seeds'; "),
    ("methods = [", "{path}: "), ("\0", "{path}: "), ("x = " + "[" * 5000, "{path}: "),
])  # fmt: skip
def test_a_file_that_is_no_plan(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    assert refused("--plan", str(path)).startswith("--plan " + line.format(path=path))


@pytest.mark.parametrize("text, line", [
    ("[sizes]\nepisodes = 0", "--episodes 0: expected at least 1"),
    ("[sizes]\njobs = 5000", "--jobs 5000: expected at most 1000"),
    ("[sizes]\nonline_warmup = 3", "--online-warmup has no meaning without --online-steps"),
    ("suite = 'toys'", "unknown suite 'toys'; did you mean 'toy'?"), ("seeds = '1,1'", "--seeds 1,1: a seed stands"),
    ("methods = ['vgff']", "unknown method 'vgff'; did you mean 'vgf'?"),
    ("tasks = ['to']", "no suite has a task that matches 'to'; did you mean 'toy'?"),
    ("preset = 'papre'", "unknown preset 'papre' for suite toy; did you mean 'paper'?"),
    ("set = ['steps']", "--set 'steps': expected [METHOD.]KEY=VALUE"),
    ("sweep = ['a']", "--sweep 'a': expected METHOD."),
    ("[[swept]]\nmethod = 'fqll'\nrows = [{alpha = '3'}]", "swept fqll: fqll is not among --methods "),
    ("[[swept]]\nmethod = 'fql'\nrows = [{alpa = '3'}]", "--sweep alpa: no such setting in fql; did you mean 'alpha'?"),
    ("[[swept]]\nmethod = 'fql'\nrows = [{alpha = '3'}, {alpha = '3'}]", "swept fql: a value stands twice"),
])  # fmt: skip
def test_a_plan_is_checked_as_a_command_line_is(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    assert refused("--plan", str(path), "--results", str(tmp_path / "r")).startswith(line)
    assert not (tmp_path / "r").exists()


def test_plans_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    none = tmp_path / "none.toml"
    assert refused("--plan", str(none)) == f"--plan {none}: No such file or directory: {none}"
    assert refused("--plan", str(tmp_path)).startswith(f"--plan {tmp_path}: ")
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "plan.toml"
    assert refused(*TINY, "--methods", "bc", "--save-plan", str(place)).startswith(f"--save-plan {place}: ")
    assert refused(*TINY, "--methods", "bc", "--save-plan", str(tmp_path)).startswith(f"--save-plan {tmp_path}: ")
