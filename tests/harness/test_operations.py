"""What an update must do, against counts by hand, and on paper; programs lower for an accelerator that is not here."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

import methods
from harness.measure import batch_shapes
from harness.operations import DEVICES, Work, pass_operations, work
from harness.throughput_command import app
from harness.train import Algorithm, Lanes, lanes_of, needed, prepare, span, take
from methods.core import TaskSpec, leaves
from tests.methods.common import SMALL, each, make, make_batch, per_row, random_state

OBS, A, H, B, N = 3, 2, 16, 8, 5  # widths of observations, actions, layers; rows; particles
SPEC = TaskSpec(OBS, A, 10)


def passes(inputs: int, outputs: int, rows: int) -> int:
    """Operations of a forward pass of two hidden layers."""
    return 2 * rows * (inputs * H + H * H + H * outputs)


def trained(inputs: int, outputs: int, rows: int) -> int:
    """Of a pass, and of the gradient of its kernels: as much again, and as much for the inputs of all layers but the
    first."""
    return 3 * passes(inputs, outputs, rows) - 2 * rows * inputs * H


FLOW, Q = (OBS + A + 1, A), (OBS + A, 1)
# a value gradient: there, but for the last layer, whose value nobody asks for, and back; then the kernel's product
CLIMB = 2 * (2 * passes(*Q, B * N) - 2 * B * N * H) + 2 * B * N * N * A
# imitate, ten Euler steps, a value gradient, the target, TD; of two critics each
VGF = trained(*FLOW, B) + 10 * passes(*FLOW, B * N) + CLIMB + 2 * (passes(*Q, B * N) + trained(*Q, B))
# imitate, the flow, mu at the next states, mu; of two critics the target, TD, and the gradient of Q in the action
FQL = (
    trained(*FLOW, B) + 10 * passes(*FLOW, B) + passes(OBS + A, A, B) + trained(OBS + A, A, B)
    + 2 * (passes(*Q, B) + trained(*Q, B) + 2 * passes(*Q, B))
)  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [("bc", trained(*FLOW, B)), ("vgf", VGF), ("fql", FQL)])
def test_products_are_counted(name: str, expected: int) -> None:
    method = make(name, SPEC, hidden_dims=(H, H), batch_size=B)
    found = work(method, 0, batch_shapes(method, 0))
    assert found.operations == expected
    wide = work(method.having(precision="bfloat16"), 0, batch_shapes(method, 0))
    assert wide == found


def test_passes_are_of_a_network_of_the_method_s_size() -> None:
    """Of 5 inputs, two layers of 16 and a value, on 8 rows."""
    method = make("bc", hidden_dims=(16, 16))
    assert pass_operations(method, 0) == 2 * 8 * (5 * 16 + 16 * 16 + 16)


def test_a_delayed_update_counts_by_its_share() -> None:
    """The critics at every step, the policy at every other."""
    method = make("td3bc", SPEC, hidden_dims=(H, H), actor_period=2)
    shapes = batch_shapes(method, 0)
    every = work(method.having(actor_period=1), 0, shapes).operations
    alone = work(method.having(actor_period=10**9), 0, shapes).operations
    assert work(method, 0, shapes).operations == pytest.approx((every + alone) / 2) and alone < every


def test_bytes_are_those_of_parts_and_batch() -> None:
    """Parameters and two moments of each, read and written; rows of s and a; Adam's counter, a key and the loss."""
    parameters = (OBS + A + 1) * H + H + H * H + H + H * A + A
    method = make("bc", SPEC)
    found = work(method, 0, batch_shapes(method, 0)).bytes
    assert found == pytest.approx(2 * 4 * 3 * parameters + 4 * B * (OBS + A), abs=32)


def test_the_floor_is_what_takes_longer() -> None:
    h100 = DEVICES["h100"]
    assert Work(494e12, 1.0).floor(h100, "float32") == pytest.approx(1.0)
    assert Work(494e12, 1.0).floor(h100, "bfloat16") == pytest.approx(494 / 989)
    assert Work(1.0, 3.35e12).floor(h100, "float32") == pytest.approx(1.0)


def test_on_paper() -> None:
    run = partial(CliRunner().invoke, app)
    shown = run(["--methods", "bc", "--on-paper", "h200", "--set", "hidden_dims=32,32", "--set", "precision=bfloat16"])
    assert shown.exit_code == 0 and "bfloat16" in shown.stdout and "4.80 TB/s" in shown.stdout
    assert "GFLOP/update" in shown.stdout and "least" in shown.stdout
    for words, complaint in (
        (["--on-paper", "h10"], "--on-paper h10: unknown device; did you mean 'h100'?"),
        (["--on-paper", "h100", "--out", "x.csv"], "--on-paper measures nothing, so there is nothing for --out"),
    ):
        refused = run(words)
        assert refused.exit_code == 2 and complaint in " ".join(refused.stderr.split())


STAGES = [
    (name, number) for name in methods.REGISTRY for number in range(len(make(name, **SMALL.get(name, {})).stages()))
]
QUICK = {("fql", 0)}


@pytest.mark.parametrize("name", each(quick=("vgf",)))
def test_acting_lowers_for_cuda(name: str) -> None:
    """In float32, at the first inference setting."""
    method = make(name, **SMALL.get(name, {}))
    state, obs = random_state(method), jnp.asarray(make_batch(4)["observations"])
    act = jax.jit(method.act)
    exported = jax.export.export(act, platforms=["cuda"])(state, obs, jax.random.key(0), per_row(method.knobs[0], 4))
    assert exported.platforms == ("cuda",) and exported.out_avals[0].shape == (4, method.spec.action_dim)


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in STAGES], ids=str
)
def test_programs_lower_for_cuda(stage: tuple[str, int]) -> None:
    """Two lanes, three steps; in bfloat16, which rounds on the way."""
    name, number = stage
    method = make(name, precision="bfloat16", **SMALL.get(name, {}))
    algorithm, lanes = Algorithm(method, number), lanes_of((0, 1), [method] * 2)
    columns = take(make_batch(64), needed(method))
    state = jax.vmap(lambda key: method.init(key))(lanes.keys)
    own: dict[str, Any] = prepare(algorithm, lanes, state, columns)
    if complete := algorithm.stage({}).complete:
        extra = jax.vmap(lambda state, own: complete(state, {**columns, **own})[1])(state, own)
        own = {**own, **extra}
    chosen = algorithm.stage({})
    parts = [{part: state[part] for part in names} for names in (chosen.trains, chosen.reads)]
    exported = jax.export.export(jax.jit(span(algorithm, 3)), platforms=["cuda"])(
        lanes, *parts, columns, own, jnp.asarray(0)
    )
    assert exported.platforms == ("cuda",) and isinstance(lanes, Lanes) and leaves(method.config)
    assert "bf16" in exported.mlir_module()
