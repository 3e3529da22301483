"""Lanes -> programs: what trains side by side, what stays in the batch that it was begun in, and what comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.config import Override, RunSettings, parse_set
from harness.estimate import _updates
from harness.plan import Lane, RunNode, Trial, plan_all
from harness.programs import Program, Stored, _cut, longest, order, programs
from tasks.toy.suite import ToyTask

SETTINGS = RunSettings(seeds=(0, 1, 2), episodes=5, evaluate_every=20, log_every=10)
SETS = parse_set(["steps=50", "behavior=pretrained", "train_flow_steps=0", "n_particles=4"])


def planned(*names: str, sweep: Mapping[str, Sequence[str]] | None = None, **changes: Any) -> list[RunNode]:
    swept = {name: [(Override(name, "alpha", value, "--sweep"),) for value in values]
             for name, values in (sweep or {}).items()}  # fmt: skip
    return plan_all(ToyTask(), "digest", names, SETS, replace(SETTINGS, **changes), swept)


def trials(runs: Sequence[RunNode]) -> list[Trial]:
    return [trial for run in runs for trial in run.trials()]


def made(wanted: Sequence[Trial], stored: Mapping[str, Stored] | None = None, most: int = 100) -> list[Program]:
    return programs(wanted, lambda lane: (stored or {}).get(lane.fingerprint, Stored()), lambda lane: most)


def stage(program: Program) -> str:
    return program.first.node.stage.name


def seeds(program: Program) -> list[int]:
    return [lane.seed for lane in program.lanes]


def prints(lanes: Sequence[Lane]) -> tuple[str, ...]:
    return tuple(lane.fingerprint for lane in lanes)


def of_stage(wanted: Sequence[Trial], name: str) -> tuple[Lane, ...]:
    """A lane of each trial."""
    return tuple(lane for trial in wanted for lane in trial.lanes() if lane.node.stage.name == name)


def carried_out(found: Sequence[Program]) -> list[int]:
    """Numbers of programs in an order that is handed out."""
    sorter: TopologicalSorter[int] = order(found)
    return list(sorter.static_order())


CHAINS = planned("iql", online_steps=30, online_warmup=10, seeds=(0, 1)) + planned("best_of_n", "bc", seeds=(0, 1))

# ---- side by side ----


def test_lanes_of_one_structure_are_one_program_and_shared_ones_stand_once() -> None:
    wanted = trials(planned("bc", "best_of_n"))
    behavior, critic = made(wanted)
    assert (stage(behavior), stage(critic)) == ("behavior", "critic") and seeds(behavior) == seeds(critic) == [0, 1, 2]
    assert behavior.trials == tuple(wanted[:3]) and critic.trials == tuple(wanted[3:])  # bc's only lane is its last
    assert behavior.needed == {lane.fingerprint for lane in behavior.lanes} and not critic.needed
    assert behavior.training == behavior.lanes and not behavior.done
    assert [slot.fingerprint for slot in behavior.slots] == [lane.fingerprint for lane in behavior.lanes]


def test_settings_train_side_by_side_and_structures_do_not() -> None:
    runs = planned("fql", sweep={"fql": ("3", "10")})
    behavior, joint = made(trials(runs))
    assert seeds(behavior) == [0, 1, 2] and seeds(joint) == [0, 1, 2, 0, 1, 2]
    assert [trial.run for trial in joint.trials] == [runs[0]] * 3 + [runs[1]] * 3
    apart = made(trials(planned("fql", "bc_gaussian")))
    assert len(apart) == 3 and all(seeds(program) == [0, 1, 2] for program in apart)


def test_runs_that_end_with_one_lane_are_evaluated_in_one_program() -> None:
    vgf, best_of_n = planned("vgf", "best_of_n", seeds=(4,))
    _, critic = made(trials([vgf, best_of_n]))
    assert len(critic.slots) == 1 and critic.trials == (Trial(vgf, 4), Trial(best_of_n, 4))


@given(count=st.integers(1, 60), size=st.integers(1, 20))
def test_pieces_are_as_few_and_as_even_as_can_be(count: int, size: int) -> None:
    items = [str(number) for number in range(count)]
    pieces = _cut(items, size)
    lengths = [len(piece) for piece in pieces]
    assert [item for piece in pieces for item in piece] == items
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1 and len(pieces) == -(-count // size)


def test_what_memory_does_not_hold_is_cut_with_its_trials() -> None:
    wanted = trials(planned("best_of_n", seeds=tuple(range(5))))
    found = made(wanted, most=2)
    assert sorted(len(program.slots) for program in found) == [1, 1, 2, 2, 2, 2]
    for program in found:
        ending = [trial.seed for trial in program.trials]
        assert ending == (seeds(program) if stage(program) == "critic" else [])
        assert program.needed == (set() if ending else set(prints(program.lanes)))


# ---- what is on disk ----


def test_a_batch_is_kept_whatever_is_asked_for_now() -> None:
    """Lanes that nobody asks for hold their places, in their order."""
    (run,) = planned("bc", seeds=(0, 1, 2, 3))
    lanes = [run.lanes(seed)[0] for seed in range(4)]
    batch = (lanes[2].fingerprint, "elsewhere", lanes[0].fingerprint)
    begun, fresh = made(run.trials(), dict.fromkeys((batch[0], batch[2]), Stored(batch=batch, steps=(5,))), most=1)[:2]
    assert tuple(slot.fingerprint for slot in begun.slots) == batch and begun.slots[1].lane is None
    assert [trial.seed for trial in begun.trials] == [2, 0] and begun.first.seed == 2
    assert seeds(fresh) == [1]
    alone, *others = made([Trial(run, 2)], {batch[0]: Stored(batch=batch, steps=(5,))}, most=1)
    assert [slot.lane and slot.lane.seed for slot in alone.slots] == [2, None, None] and not others


def test_a_batch_that_has_no_state_yet_may_become_smaller() -> None:
    """It may have been more than the memory holds."""
    (run,) = planned("bc")
    batch = prints([run.lanes(seed)[0] for seed in (0, 1, 2)])
    stored = dict.fromkeys(batch, Stored(batch=batch))
    assert [seeds(program) for program in made(run.trials(), stored, most=3)] == [[0, 1, 2]]
    assert [seeds(program) for program in made(run.trials(), stored, most=2)] == [[0, 1], [2]]


@given(count=st.integers(2, 12), most=st.integers(1, 5), done=st.integers(0, 4))
def test_a_command_that_is_gone_on_with_has_the_same_programs(count: int, most: int, done: int) -> None:
    """Whatever was finished before it was stopped, of lanes that are too many for one program."""
    (run,) = planned("bc", seeds=tuple(range(count)))
    whole = made(run.trials(), most=most)
    ended = whole[:done]
    stored = {lane.fingerprint: Stored(True, prints(program.lanes)) for program in ended for lane in program.lanes}
    left = [trial for trial in run.trials() if trial.lanes()[0].fingerprint not in stored]
    rest = programs(left, lambda lane: stored.get(lane.fingerprint, Stored()), lambda lane: most, run.trials())
    assert [seeds(program) for program in rest] == [seeds(program) for program in whole[done:]]


def test_lanes_of_two_batches_are_two_programs() -> None:
    (run,) = planned("bc")
    one, two, three = prints([run.lanes(seed)[0] for seed in (0, 1, 2)])
    found = made(run.trials(), {one: Stored(batch=(one,)), two: Stored(batch=(two, "x"))})
    assert [tuple(slot.fingerprint for slot in program.slots) for program in found] == [(one,), (two, "x"), (three,)]


def test_lanes_go_on_from_the_last_step_that_all_have() -> None:
    """Those that have none in common are programs of their own; only what is left is counted as time."""
    (run,) = planned("bc")
    batch = tuple(prints([run.lanes(seed)[0] for seed in (0, 1, 2)]))
    steps = [(10, 30), (10,), ()]
    found = made(run.trials(), {one: Stored(False, batch, there) for one, there in zip(batch, steps, strict=True)})
    assert [(program.step, seeds(program)) for program in found] == [(0, [2]), (10, [0, 1])]
    whole = found[0].first.node.updates
    assert [round(_updates(program)) for program in found] == [whole, whole - 10]
    assert [program.step for program in made(run.trials())] == [0]


def test_what_is_finished_is_evaluated_at_once_and_what_others_read_needs_nothing() -> None:
    wanted = trials(planned("bc", "best_of_n"))
    finished = dict.fromkeys(prints(of_stage(wanted, "behavior")), Stored(True, ("a", "b")))
    behavior, critic = made(wanted, finished)[:2]
    assert behavior.done and behavior.training == [] and seeds(behavior) == [0, 1, 2]
    assert (
        [trial.run.name for trial in behavior.trials] == ["bc"] * 3 and not critic.done and seeds(critic) == [0, 1, 2]
    )
    (critic,) = made(trials(planned("best_of_n")), finished)
    assert stage(critic) == "critic" and critic.lanes[0].reads["behavior"].fingerprint in finished
    assert made([]) == []


def test_finished_and_unfinished_lanes_are_apart() -> None:
    (run,) = planned("bc")
    first = run.lanes(0)[0].fingerprint
    done, rest = made(run.trials(), {first: Stored(True, (first, "x"))})
    assert (done.done, seeds(done), rest.done, seeds(rest)) == (True, [0], False, [1, 2])


# ---- order ----


def test_what_is_read_comes_first_and_the_rest_at_once() -> None:
    found = made(trials(planned("iql", "best_of_n", "bc")))
    numbers = {fingerprint: number for number, program in enumerate(found) for fingerprint in prints(program.lanes)}
    sequence = carried_out(found)
    assert sorted(sequence) == list(range(len(found)))
    for number, program in enumerate(found):
        for lane in program.lanes:
            for before in lane.reads.values():
                assert sequence.index(numbers[before.fingerprint]) < sequence.index(number)
    sorter = order(found)
    sorter.prepare()
    assert {found[number].first.depth for number in sorter.get_ready()} == {0}


def test_an_online_phase_comes_after_the_offline_evaluation() -> None:
    """Also where the offline lanes are finished, and only evaluated."""
    runs = planned("iql", online_steps=30, online_warmup=10)
    offline = prints([lane for seed in SETTINGS.seeds for lane in runs[0].lanes(seed)])
    for stored, names in (
        ({}, ["critic", "actor", "online"]),
        (dict.fromkeys(offline, Stored(True)), ["actor", "online"]),
    ):
        found = made(trials(runs), stored)
        assert [stage(found[number]) for number in carried_out(found)] == names


@given(data=st.data())
def test_there_is_no_circle_whatever_is_on_disk(data: st.DataObject) -> None:
    """And every unfinished lane is trained once, every trial evaluated once."""
    wanted = trials(CHAINS)
    lanes = {lane.fingerprint: lane for trial in wanted for lane in trial.lanes()}
    groups: dict[Any, list[str]] = {}
    for fingerprint, lane in lanes.items():
        groups.setdefault(lane.structure, []).append(fingerprint)
    stored = {}
    for members in groups.values():
        begun = data.draw(st.lists(st.sampled_from(members), unique=True))
        for fingerprint in begun:
            stored[fingerprint] = Stored(data.draw(st.booleans()), tuple(begun))
    asked = data.draw(st.lists(st.sampled_from(wanted), unique=True, min_size=1))
    found = made(asked, stored, most=data.draw(st.integers(1, 4)))
    assert sorted(carried_out(found)) == list(range(len(found)))
    reached = {lane.fingerprint for trial in asked for lane in trial.lanes()}
    trained = [lane.fingerprint for program in found for lane in program.training]
    unfinished = {one for one in reached if not stored.get(one, Stored()).finished}
    assert len(trained) == len(set(trained)) and set(trained) == unfinished
    ending = [trial for program in found for trial in program.trials]
    assert len(ending) == len(asked) and set(ending) == set(asked)


def test_the_longest_path_that_a_program_begins() -> None:
    """Two programs before a third, one of which waits for nothing else; a fourth alone."""
    assert longest([5.0, 1.0, 9.0, 2.0], [(), (), (0, 1), ()]) == [14.0, 10.0, 9.0, 2.0]
    assert longest([], []) == []
