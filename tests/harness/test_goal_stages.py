"""A stage whose batches are relabelled with goals, from the dataset to the trained parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from harness.config import RunSettings
from harness.plan import plan_online, plan_run
from harness.train import Algorithm, Trainer, initial_state, lanes_of, needed, take
from methods.core import Array, BadInput, Batch, Key, Metrics, Stage, State
from methods.fql import FQL
from methods.goals import ACHIEVED, HINDSIGHT, Goals
from methods.sampling import Sampling
from tasks.d4rl import suite as d4rl
from tests.tasks.d4rl_file import d4rl_file

HOPPER = d4rl.get("hopper-medium-v2")


@dataclass(frozen=True)
class Reaching(FQL):
    """FQL that learns to be where it is; it reports how often a goal is reached, and how far goals are."""

    @property
    def goals(self) -> Sampling:
        return Goals(0.9, HINDSIGHT, ACHIEVED)

    def stages(self) -> tuple[Stage, ...]:
        return (self.stage("joint", sample=self.goals, trains=frozenset({"critic"})),)

    def online(self) -> Stage | None:
        return self.online_stage(sample=self.goals)

    def draw(self, key: Key, batch: Batch) -> Array:  # type: ignore[override]
        return jax.random.normal(key, batch["actions"].shape)

    def update_parts(self, state: State, batch: Batch, draws: Array) -> tuple[State, Metrics]:  # type: ignore[override]
        value = jnp.zeros_like(batch["rewards"])
        critic, metrics = self.critic.update(state["critic"], batch, value)
        far = jnp.abs(batch["value_goals"] - batch["observations"]).max()
        return {**state, "critic": critic}, {**metrics, "reached": jnp.mean(batch["rewards"]), "far": far}


@pytest.mark.slow
def test_it_trains_on_what_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness derives the column that it reads; a fifth of the goals, and more by chance, are reached."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    dataset = HOPPER.load(str(d4rl_file(tmp_path / "hopper.hdf5")))
    method = Reaching(FQL.Config(hidden_dims=(8,), batch_size=64), HOPPER.spec)
    assert needed(method) >= {"remaining", "observations"}
    lanes = lanes_of((0, 1), [method] * 2)
    trainer = Trainer(Algorithm(method, 0), lanes, take(dataset.columns(needed(method)), needed(method)),
                      state := initial_state(method, lanes))  # fmt: skip
    _, result = trainer.run(state, 0, 20)
    assert (result.first_bad < 0).all() and (result.metrics["far"] > 0).all()
    assert (result.metrics["reached"] > 0.15).all() and (result.metrics["reached"] < 0.6).all()
    assert not np.array_equal(*result.metrics["reached"])


def test_online_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "get", lambda name, family="control": Reaching)
    sizes = RunSettings(seeds=(0,), episodes=1, evaluate_every=5, log_every=5, online_steps=50, online_warmup=5)
    run = plan_run(HOPPER, "data", "fql", (), sizes)
    assert run.nodes[0].identity["sample"]["by"] == "Goals"
    with pytest.raises(BadInput, match=r"^--online-steps 50: fql learns from finished episodes alone$"):
        plan_online(replace(run))
