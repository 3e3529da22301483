"""`python -m harness.simulate`: makespans computed by hand, what no order may do, and one line for what cannot be."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness import carry_out, simulation
from harness.claims import Shard
from harness.engines import engine_of
from harness.programs import order, waits
from harness.remaining import remaining
from harness.request import Request
from harness.simulate_command import app, measured
from harness.simulation import Bound, Cluster, Deaths, Driver, Outcome, Shards, Simulation, Span, Timed, bound, drawn
from methods.core import BadInput

WAYS = (Driver, Shards)
ROUNDING = 1e-9  # of sums of floats, relative to the whole
TURNS = list(itertools.accumulate(min(2.0 * 1.3**number, 30.0) for number in range(40)))  # of an idle process, from 0
SILENT = next(turn for turn in TURNS if turn > 120.0)  # after its first look, when a claim is dead to it


def at_once(workers: int) -> Cluster:
    return Cluster(workers, start=0.0)


def run(way: type[Simulation], programs: list[Timed], cluster: Cluster, deaths: Deaths | None = None) -> Outcome:
    return way(programs, cluster, deaths or [[] for _ in programs]).run()


# by hand


SMALL = [Timed(5.0), Timed(12.0), Timed(10.0), Timed(10.0, before=(2,))]  # two alone, and a chain


def test_the_bound_is_the_larger_of_an_even_share_and_the_longest_path() -> None:
    assert bound(SMALL, 1) == Bound(37.0, 20.0, 37.0)
    assert bound(SMALL, 2) == Bound(37.0, 20.0, 20.0)
    assert bound([], 2) == Bound(0.0, 0.0, 0.0)


def test_a_driver_gives_out_the_longest_path_first() -> None:
    spans = run(Driver, SMALL, at_once(2)).spans
    assert spans == [Span(0, 2, 0.0, 10.0, True), Span(1, 1, 0.0, 12.0, True), Span(1, 0, 12.0, 17.0, True),
                     Span(0, 3, 10.0, 20.0, True)]  # fmt: skip


def test_a_shard_takes_its_own_share_first_and_then_what_is_there() -> None:
    spans = run(Shards, SMALL, at_once(2)).spans  # the first's are programs 0 and 2, the second's 1 and 3
    assert spans == [Span(0, 0, 0.0, 5.0, True), Span(1, 1, 0.0, 12.0, True), Span(0, 2, 5.0, 15.0, True),
                     Span(0, 3, 15.0, 25.0, True)]  # fmt: skip


@pytest.mark.parametrize("seconds, turn", [(1.0, 2.0), (3.0, 2.0 + 2.6), (6.0, 7.98)])
def test_a_shard_that_found_nothing_looks_again_after_a_while(seconds: float, turn: float) -> None:
    programs = [Timed(seconds), Timed(9.0, before=(0,)), Timed(20.0, before=(0,))]
    spans = run(Shards, programs, at_once(2)).spans  # the second is idle from 0 on
    assert spans == [Span(0, 0, 0.0, seconds, True), Span(1, 1, turn, turn + 9.0, True),
                     Span(0, 2, seconds, seconds + 20.0, True)]  # fmt: skip


@given(time=st.floats(0.0, 1e5), since=st.floats(0.0, 1e5))
def test_turns_are_those_of_one_pause_after_the_other(time: float, since: float) -> None:
    pause, turn = 2.0, since + 2.0
    while turn <= since + time:
        pause = min(1.3 * pause, 30.0)
        turn += pause
    found, then = simulation.turn_after(since, 2.0, since + time)
    near = abs(turn - pause - since - time) < 1e-5  # the last one before was as good as at that time
    assert found == pytest.approx(turn, abs=1e-5) or near
    assert then == min(1.3 * pause, 30.0) or near


def test_shards_go_through_the_tasks_in_order() -> None:
    programs = [Timed(10.0), Timed(10.0, before=(0,)), Timed(10.0, before=(0,)), Timed(50.0, task=1)]
    spans = run(Shards, programs, at_once(2)).spans
    # the second passes the first task, whose only ready program is taken, and is back there too late
    assert spans == [Span(0, 0, 0.0, 10.0, True), Span(0, 2, 10.0, 20.0, True), Span(0, 1, 20.0, 30.0, True),
                     Span(1, 3, 0.0, 50.0, True)]  # fmt: skip


def test_a_death_loses_what_was_done_since_the_last_save() -> None:
    one, cluster, deaths = [Timed(1000.0)], Cluster(1, start=20.0, restart=300.0, save_every=120.0), [[0.5]]
    found = run(Driver, one, cluster, deaths)  # dies at 520, after 500 s, of which 480 were saved
    assert found.spans == [Span(0, 0, 20.0, 520.0, False), Span(0, 0, 840.0, 1360.0, True)]
    assert (found.lost, found.deaths, found.makespan) == (20.0, 1, 1360.0)
    # its process is back at 840, sees a claim, and from then on must see no beat for 120 s
    (span,) = run(Shards, one, cluster, deaths).spans[1:]
    assert (span.begin, span.end) == pytest.approx((840.0 + SILENT, 840.0 + SILENT + 520.0))


def test_another_worker_goes_on_with_what_a_dead_one_had() -> None:
    one, cluster, deaths = [Timed(1000.0)], Cluster(2, start=20.0), [[0.5]]
    assert run(Driver, one, cluster, deaths).spans[1:] == [Span(1, 0, 540.0, 1060.0, True)]
    # the other is idle since 20 and looks every 30 s at last: after the death, and when 120 s have gone by
    (span,) = run(Shards, one, cluster, deaths).spans[1:]
    looks = [20.0 + turn for turn in TURNS if turn > 500.0]
    assert (span.worker, span.begin, span.end) == pytest.approx((1, looks[4], looks[4] + 520.0))


def test_a_shard_that_is_busy_misses_nobody() -> None:
    programs, deaths = [Timed(1000.0), Timed(600.0, task=1), Timed(600.0, task=1)], [[0.5], [], []]
    found = run(Shards, programs, Cluster(2, start=0.0), deaths)
    assert found.spans[:3] == [Span(0, 0, 0.0, 500.0, False), Span(1, 2, 0.0, 600.0, True),
                               Span(1, 1, 600.0, 1200.0, True)]  # fmt: skip
    assert found.spans[3] == Span(0, 0, pytest.approx(800.0 + SILENT), pytest.approx(1320.0 + SILENT), True)  # type: ignore[arg-type]
    # a driver gives out the longer path first, which is not what was left
    found = run(Driver, programs, Cluster(2, start=0.0), deaths)
    assert found.spans[-1] == Span(0, 0, 800.0, 1320.0, True) and found.makespan == 1320.0


def test_what_a_process_knew_of_claims_dies_with_it() -> None:
    programs, deaths = [Timed(100.0)], [[0.5, 0.5]]
    spans = run(Shards, programs, Cluster(1, start=0.0, restart=10.0), deaths).spans
    second, third = 60.0 + SILENT, 60.0 + SILENT + 60.0 + SILENT
    found = [time for span in spans for time in (span.begin, span.end)]
    assert found == pytest.approx([0.0, 50.0, second, second + 50.0, third, third + 100.0])


def test_a_worker_may_die_several_times_over_one_program() -> None:
    found = run(Driver, [Timed(100.0)], Cluster(1, start=1.0, restart=9.0, save_every=30.0), [[0.5, 0.5]])
    # 50 s done and 30 kept, then 35 of the 70 left and 30 kept
    assert [(span.begin, span.end) for span in found.spans] == [(1.0, 51.0), (61.0, 96.0), (106.0, 146.0)]
    assert found.lost == 25.0 and found.deaths == 2


def test_turns_are_those_of_the_harness() -> None:
    assert (simulation.LOOK_S, simulation.LOOK_GROWS) == (carry_out._LOOK_S, carry_out._LOOK_GROWS)


# what holds for all


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Timed], Cluster, list[list[float]]]:
    """Programs that wait for earlier ones, in a random numbering; workers; deaths."""
    count = draw(st.integers(0, 12))
    seconds = st.one_of(st.just(0.0), st.floats(0.1, 2000.0))
    numbers = draw(st.permutations(range(count)))
    programs = [Timed(0.0)] * count
    for rank, number in enumerate(numbers):
        before = draw(st.sets(st.sampled_from(numbers[:rank]), max_size=3)) if rank else set()
        programs[number] = Timed(draw(seconds), tuple(sorted(before)), draw(st.integers(0, 2)))
    cluster = Cluster(draw(st.integers(1, 5)), draw(st.sampled_from([0.0, 20.0])), draw(st.sampled_from([0.0, 300.0])))
    shares = st.lists(st.floats(0.0, 1.0, exclude_max=True), max_size=3)
    return programs, cluster, [draw(shares) for _ in programs]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=200, deadline=None)
@given(plan=plans())
def test_everything_is_finished_once_in_order_and_not_before_it_can_be(way: type[Simulation], plan: Any) -> None:
    programs, cluster, deaths = plan
    found = run(way, programs, cluster, deaths)
    least, slack = bound(programs, cluster.workers), ROUNDING * sum(one.seconds for one in programs)
    assert found.makespan >= least.least - slack
    finished = {span.number: span for span in found.spans if span.finished}
    assert len(found.spans) == len(programs) + found.deaths and found.deaths == sum(map(len, deaths))
    assert finished.keys() == set(range(len(programs)))
    for span in found.spans:
        assert span.begin >= max((finished[one].end for one in programs[span.number].before), default=cluster.start)
        assert span.end <= finished[span.number].end
    for number in range(len(programs)):  # nobody else is at it, and none goes on after the end
        times = sorted((span.begin, span.end) for span in found.spans if span.number == number)
        assert all(one[1] <= later[0] for one, later in itertools.pairwise(times))
    for worker in range(cluster.workers):
        mine = sorted((span for span in found.spans if span.worker == worker), key=lambda span: (span.begin, span.end))
        for one, later in itertools.pairwise(mine):
            away = 0.0 if one.finished else cluster.restart + cluster.start
            assert later.begin >= one.end + away - slack
    spent = sum(span.end - span.begin for span in found.spans)
    assert spent - found.lost == pytest.approx(least.total, rel=1e-6, abs=1e-6)
    assert found.lost <= found.deaths * cluster.save_every + slack


@settings(max_examples=100, deadline=None)
@given(plan=plans())
def test_without_deaths_a_driver_is_as_near_to_the_bound_as_any_greedy_order(plan: Any) -> None:
    programs, cluster, _ = plan
    found, least = run(Driver, programs, at_once(cluster.workers)), bound(programs, cluster.workers)
    most = least.total / cluster.workers + (1 - 1 / cluster.workers) * least.path  # Graham, 1969
    assert found.makespan <= most + ROUNDING * least.total


@settings(max_examples=50, deadline=None)
@given(plan=plans(), seed=st.integers(0, 1000))
def test_shards_take_what_their_order_prefers(plan: Any, seed: int) -> None:
    programs, cluster, _ = plan
    draw = random.Random(seed)  # times that do not coincide
    programs = [Timed(draw.uniform(1.0, 100.0), one.before, one.task) for one in programs]
    found = run(Shards, programs, cluster)
    ends = {span.number: span.end for span in found.spans}
    left = set(range(len(programs)))
    for span in sorted(found.spans, key=lambda span: (span.begin, span.worker)):
        task = [number for number, one in enumerate(programs) if one.task == programs[span.number].task]
        ready = [place for place, number in enumerate(task) if number in left
                 and all(ends[one] <= span.begin for one in programs[number].before)]  # fmt: skip
        assert task[Shard(span.worker, cluster.workers).preferred(ready)[0]] == span.number
        left.remove(span.number)


def test_ten_thousand_lanes_on_64_workers_of_which_some_die() -> None:
    programs, cluster = simulation.synthetic(10_000, seed=0), Cluster(64)
    deaths, least = drawn(len(programs), 0.05, seed=0), bound(programs, 64).least
    assert sum(map(bool, deaths)) == pytest.approx(500, abs=100)  # 4.6 standard deviations
    for way in WAYS:
        found = run(way, programs, cluster, deaths)
        assert len({span.number for span in found.spans if span.finished}) == len(programs)
        assert 0.90 <= least / found.makespan <= 1.0


def test_deaths_are_the_same_whoever_carries_out_what() -> None:
    assert drawn(50, 0.3, seed=1) == drawn(50, 0.3, seed=1) != drawn(50, 0.3, seed=2)
    assert not any(drawn(50, 0.0, seed=1))


# of a plan


def rates(folder: Path, *rows: str) -> Path:
    path = folder / "rates.csv"
    path.write_text("\n".join(["method,stage,seeds,precision,ms_per_update_and_seed,device", *rows]) + "\n")
    return path


def simulate(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def refused(*arguments: str) -> str:
    done = simulate(*arguments)
    assert done.exit_code == 2 and done.stdout == "", (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return str(line.removeprefix("error: "))


TOY = ("--suite", "toy", "--preset", "smoke", "--seeds", "2", "--steps", "3600", "--methods")


def test_programs_take_steps_times_milliseconds_times_lanes(tmp_path: Path) -> None:
    file = str(rates(tmp_path, "td3bc,joint,1,float32,1000,cpu"))
    done = simulate(*TOY, "td3bc", "--seconds", file, "--workers", "1", "--die", "0", "--start", "0")
    assert done.exit_code == 0, done.stderr
    first, second, third, *table = done.stdout.splitlines()
    assert first == "2 lanes in 1 program of 1 task"
    assert second.startswith("times per update: measured on cpu (") and "--scale 1, which is the user's word" in second
    assert third.startswith("1 worker; total work 2.00 h, longest path 2.00 h; ")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table if line.startswith("│")]
    assert rows == [["driver", "2.00", "2.00", "1.000", "1.000", "0.0", "0"],
                    ["--shard i/1", "2.00", "2.00", "1.000", "1.000", "0.0", "0"]]  # fmt: skip
    done = simulate(*TOY, "td3bc", "--seconds", file, "--scale", "4", "--lanes", "1", "--repeats", "1")
    assert done.stdout.startswith("2 lanes in 2 programs of 1 task")
    assert "total work 0.5 h, longest path 0.25 h; no order takes less than 0.25 h" in done.stdout


def test_a_time_is_that_of_as_many_lanes_or_the_next_fewer(tmp_path: Path) -> None:
    first = rates(tmp_path, "a b,joint,2,float32,50,gpu", "a,joint,8,float32,20,gpu", "a,joint,8,bfloat16,10,gpu")
    found = measured([first])
    times = [found.ms(["a"], "joint", "float32", lanes) for lanes in (1, 2, 7, 8, 100)]
    assert times == [50.0, 50.0, 50.0, 20.0, 20.0]
    assert found.ms(["a"], "joint", "bfloat16", 1) == 10.0
    assert found.ms(["c", "b"], "joint", "float32", 9) == 50.0  # who shares the stage
    assert found.ms(["a"], "critic", "float32", 1) is None and found.devices == ("gpu",)


def test_what_was_not_measured_is_named(tmp_path: Path) -> None:
    file = rates(tmp_path, "td3bc,joint,1,float32,1000,cpu")
    line = refused(*TOY, "td3bc,iql,bc", "--seconds", str(file))
    assert line.startswith(f"no measured time of iql (critic, actor), bc (behavior) in {file}; ")
    done = simulate(*TOY, "td3bc,iql,bc", "--seconds", str(file), "--default-ms", "5")
    assert done.exit_code == 0 and ", 5 ms where there is none;" in done.stdout


def test_no_data_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "data"))
    file = rates(tmp_path, "fql,joint,1,float32,100,cpu")
    done = simulate("--tasks", "antmaze-giant-navigate-singletask-v0", "--methods", "fql", "--seconds", str(file))
    assert done.exit_code == 0 and done.stdout.startswith("5 lanes in 1 program of 1 task\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_plan_waits_as_its_programs_do() -> None:
    """What `waits` says of programs is how `order` hands them out, whichever are finished first."""
    plan = Request(suite="toy", methods=("ifql", "qgf", "iql", "sfbc"), preset="smoke", seeds="2").plan()
    trials = [trial for run in plan.runs(plan.tasks[0]) for trial in run.trials()]
    made = remaining(trials, Path("nowhere"), engine_of("toy"), 1, nothing=True).programs
    before, sorter, draw = waits(made), order(made), random.Random(0)
    assert any(before)
    sorter.prepare()
    ready, done = list(sorter.get_ready()), set[int]()
    while ready:
        assert set(ready) == {number for number, one in enumerate(before) if one <= done} - done
        number = ready.pop(draw.randrange(len(ready)))
        done.add(number)
        sorter.done(number)
        ready += sorter.get_ready()
    assert done == set(range(len(made)))


# what cannot be


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("--workers 0", "--workers 0: expected at least 1"),
        ("--workers 1001", "--workers 1001: expected at most 1000"),
        ("--die -0.1", "--die -0.1: expected at least 0"),
        ("--die nan", "--die nan: expected at least 0"),
        ("--die 1", "--die 1: expected at most 0.5"),
        ("--restart inf", "--restart inf: expected at most 10000000"),
        ("--start -1", "--start -1: expected at least 0"),
        ("--scale 0", "--scale 0: expected at least 1e-06"),
        ("--default-ms 0", "--default-ms 0: expected at least 1e-06"),
        ("--repeats 0", "--repeats 0: expected at least 1"),
        ("--seed -1", "--seed -1: expected at least 0"),
        ("--synthetic 0", "--synthetic 0: expected at least 1"),
        ("--synthetic 10 --methods fql", "--methods has no meaning with --synthetic, which is in place of a plan"),
        ("--synthetic 10 --scale 2", "--scale has no meaning with --synthetic, which is in place of a plan"),
        ("--silence soon", "--silence soon: expected days, hours, minutes or seconds, such as 3h50m"),
        ("--lanes 0", "--lanes 0: expected a whole number above 0, or auto"),
        ("--workers 2 --workers 3", "--workers: is given twice, and has one value"),
        ("--methods ,", "--methods ',' names no method"),
        ("--methods fqll", "unknown method 'fqll'; did you mean 'fql'?"),
        ("--seconds nowhere.csv", "--seconds nowhere.csv: No such file or directory"),
        ("--seconds tests", "--seconds tests: Is a directory"),
        ("--seeds 100001", "--seeds 100001: 100001 seeds are more than anybody has trained"),
        ("--methods fql,bc,iql --seeds 100000", "the plan has at least 300000 lanes, expected at most 200000"),
    ],
)
def test_one_line(arguments: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert refused(*arguments.split()).startswith(line)


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "has no rows"),
        ("method,stage\na,b\n", "has no column seeds"),
        ("a,joint,0,float32,5,cpu", "line 2: seeds is '0', expected a whole number above 0"),
        ("a,joint,1,float32,fast,cpu", "line 2: ms_per_update_and_seed is 'fast', expected a number above 0"),
        ("a,joint,1,float32,nan,cpu", "line 2: ms_per_update_and_seed is 'nan', expected a number above 0"),
        ("a,joint,1", "line 2: ms_per_update_and_seed is '', expected a number above 0"),
        ('a,"joint', "unexpected end of data"),
    ],
)
def test_files_that_are_no_rates(text: str, line: str, tmp_path: Path) -> None:
    file = rates(tmp_path, text)
    if text == "" or text.startswith("method"):
        file.write_text(text)
    with pytest.raises(BadInput) as found:
        measured([file])
    assert str(found.value) == f"--seconds {file}: {line}"
