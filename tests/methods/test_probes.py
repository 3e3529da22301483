"""Problems with known answers: a bandit with a quadratic reward, and states whose values have a closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.train import Trainer, initial_state, take
from methods.core import State, TaskSpec
from tests.methods.common import make, make_batch, per_row, random_state

pytestmark = pytest.mark.usefixtures("quick_compile")
TRAINING = {"hidden_dims": (64,), "learning_rate": 2e-3, "batch_size": 64, "tau": 0.05}


def first_seed(state: State) -> State:
    return jax.tree.map(lambda leaf: leaf[0], state)


# a two-dimensional bandit: R = -|a - GOAL|^2, data N(0, 0.4^2)

BANDIT = TaskSpec(obs_dim=1, action_dim=2, horizon=1)
GOAL = np.array([0.6, -0.3], np.float32)


def bandit() -> dict[str, np.ndarray]:
    actions = np.clip(0.4 * np.random.default_rng(0).normal(size=(2000, 2)), -1.0, 1.0).astype(np.float32)
    obs, done = np.ones((2000, 1), np.float32), np.zeros(2000, np.float32)
    rewards = -np.square(actions - GOAL).sum(-1)
    return {"observations": obs, "next_observations": obs, "actions": actions, "rewards": rewards, "masks": done}


def trained(method: Any, columns: dict[str, np.ndarray], steps: int) -> State:
    (stage,) = method.stages()
    state = initial_state(method.init, [0])
    state, _ = Trainer(stage, [0], take(columns, method.fields), state).run(state, 0, steps)
    return first_seed(state)


def regret(method: Any, state: State, knobs: dict[str, int]) -> float:
    """Mean |a - GOAL|^2 of 400 actions."""
    actions = jax.jit(method.act)(state, jnp.ones((400, 1)), jax.random.key(5), per_row(knobs, 400))
    return float(np.square(np.asarray(actions) - GOAL).sum(-1).mean())


def test_on_a_bandit_vgf_beats_best_of_n_beats_bc() -> None:
    """All act from one state: the masks are 0, so the critic regresses R whatever moves particles. BC's regret is known:
    |GOAL|^2 + 2 * 0.4^2 = 0.77, less what clipping and an imperfect sampler take. The best of N = 5 is 0.19 or so from
    GOAL; particles 6 steps of 0.1 away from BC reach it, to within the critic's error and Adam's last step."""
    settings = {**TRAINING, "n_particles": 5, "alpha": 0.05}
    vgf = make("vgf", BANDIT, test_flow_steps=(6,), **settings)
    best, bc = make("best_of_n", BANDIT, test_n=(1, 5, 50), **settings), make("bc", BANDIT, **TRAINING)
    state = trained(vgf, bandit(), 1500)
    lone, five, fifty = (regret(best, state, {"N": n}) for n in (1, 5, 50))
    moved, imitated = regret(vgf, state, {"L_test": 6}), regret(bc, state, {})
    print(lone, five, fifty, moved, imitated)


def test_on_a_bandit_fql_with_little_regularisation_finds_the_optimum() -> None:
    method = make("fql", BANDIT, alpha=0.05, **TRAINING)
    print(regret(method, trained(method, bandit(), 1500), {}))


# six states with known values

GAMMA, EPS, LIFT = 0.9, 0.1, 0.3
STATES = TaskSpec(obs_dim=6, action_dim=2, horizon=2)
#       0 -> 1 -> end    2 -> 2 -> ...    3 -> end    4 -> 5 -> end, paid a_0 in 5
REWARD, NEXT, MASK = [1.0, 2.0, 0.3, 0.3, 0.0, 0.0], [1, 1, 2, 3, 5, 5], [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def walks() -> dict[str, np.ndarray]:
    """Transitions of the six states, actions uniform on [-1/2, 1/2]^2."""
    rng, eye = np.random.default_rng(0), np.eye(6)
    state, actions = rng.integers(0, 6, size=3000), rng.uniform(-0.5, 0.5, size=(3000, 2))
    columns = {
        "observations": eye[state],
        "next_observations": eye[np.array(NEXT)[state]],
        "actions": actions,
        "rewards": np.array(REWARD)[state] + np.where(state == 5, actions[:, 0], 0.0),
        "masks": np.array(MASK)[state],
    }
    return {name: column.astype(np.float32) for name, column in columns.items()}


@pytest.mark.parametrize(
    ("name", "settings", "value"),
    [
        # 3 steps of 0.1 lift particles, whose mean was 0
        ("vgf", {"train_flow_steps": 3, "step_size": EPS, "alpha": 1e-3}, GAMMA * 3 * EPS),
        ("avgf", {"train_flow_steps": 3, "step_size": EPS}, GAMMA * 3 * EPS),
        # alpha mean_d (mu - flow)^2 - mu_0 over two dimensions is least at flow_0 + 1 / alpha
        ("fql", {"alpha": 1 / 0.3}, GAMMA * 0.3),
        ("best_of_n", {"target_select": "max"}, GAMMA * (5 / 6 - 0.5)),  # the largest of 5 uniforms
    ],
)
def test_values_of_six_states(name: str, settings: dict[str, Any], value: float) -> None:
    """r + gamma r' along 0 -> 1; r / (1 - gamma) for the loop; r where an episode ends; gamma E[a_0] before 5."""
    method = make(name, STATES, discount=GAMMA, **TRAINING, **settings)
    (stage,) = method.stages()
    state, columns = initial_state(method.init, [0]), take(walks(), method.fields)
    trainer, values = Trainer(stage, [0], columns, state), []
    for first in range(0, 3000, 250):
        state, _ = trainer.run(state, first, 250)
        params = first_seed(state)["critic"].target
        values.append(method.critic.apply(params, jnp.eye(6), jnp.zeros((6, 2))).mean(0))
    expected = [1.0 + GAMMA * 2.0, 2.0, 0.3 / (1.0 - GAMMA), 0.3, value, 0.0]
    print(np.round(values,3), expected)
    print(trainer.seconds)
