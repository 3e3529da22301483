"""The base of every method that imitates the behaviour policy: which sampler, and where it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from methods.core import (
    Array,
    BadInput,
    Batch,
    Columns,
    ControlConfig,
    Count,
    Key,
    Metrics,
    PositiveInt,
    Repeats,
    Stage,
    State,
    is_on,
)
from methods.learner import Learner, create, descend, optimizer, part_key
from methods.networks import per_action
from methods.parts import PartsMethod
from methods.samplers import DiffusionSampler, FlowSampler, GaussianSampler, Sampler


@dataclass(frozen=True)
class BehaviorConfig(ControlConfig):
    """Settings of methods that lean on a behaviour sampler."""

    sampler: Literal["flow", "gaussian", "diffusion"] = "flow"
    flow_steps: Repeats = 10  # Euler steps of the flow sampler
    sampler_activation: Literal["relu", "gelu", "mish"] = "relu"
    behavior: Literal["joint", "pretrained"] = "joint"  # on the same batches, or a stage of its own that is shared
    behavior_steps: PositiveInt = 1_000_000  # gradient steps of that stage
    bank: Count = 0  # with "pretrained": actions drawn once for each next state, then looked up; 0: drawn anew. It
    # has no meaning, and no cost, for methods that do not sample the behaviour at next states


_STAGE_FIELDS = frozenset({"behavior", "behavior_steps"})  # where the work happens, not what it computes


@dataclass(frozen=True)
class BehaviorMethod(PartsMethod):
    """A method made of a behaviour sampler and parts of its own.

    Whether the behaviour is trained on the same batches as the rest or beforehand is decided here, once, for all of
    them. Where the other parts learn nothing from it (`uses_behavior` is false) it always has a stage of its own:
    together or one after the other is then the same computation.
    """

    config: BehaviorConfig
    behavior_clip_norm: ClassVar[float | None] = None

    @property
    def uses_behavior(self) -> bool:
        """Whether the updates of the method's own parts read the behaviour."""
        return True

    @property
    def draws_next(self) -> bool:
        """Whether those updates sample the behaviour at next states, which a bank can serve."""
        return False

    @property
    def behavior_batch(self) -> int:
        """Transitions a gradient step of the behaviour's own stage."""
        return self.config.batch_size

    @property
    def behavior_optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.config.learning_rate, self.behavior_clip_norm)

    @property
    def behavior_average(self) -> float:
        """Rate at which an average of the sampler's parameters follows them; 0: there is none."""
        return 0.0

    @property
    def behavior_settings(self) -> Mapping[str, Any]:
        """What its fit depends on beside the sampler, the learning rate and the batch."""
        return {}

    @property
    def sampler(self) -> Sampler:
        config, shape = self.config, (self.spec.action_dim, self.config.hidden_dims, self.config.sampler_activation)
        if config.sampler == "flow":
            return FlowSampler(*shape, steps=config.flow_steps)
        return GaussianSampler(*shape) if config.sampler == "gaussian" else DiffusionSampler(*shape)

    # the contract

    def init(self, key: Key) -> State:
        params = self.sampler.init(part_key(key, "behavior"), self.spec.obs_dim)
        behavior = create(params, self.behavior_optimizer, target=is_on(self.behavior_average))
        return {"behavior": behavior, **super().init(key)}

    def stages(self) -> tuple[Stage, ...]:
        config = self.config
        pretrained = config.behavior == "pretrained"
        if config.bank and self.draws_next and not pretrained:
            raise BadInput(f"{self.name}.bank={config.bank} needs behavior=pretrained: a joint sampler keeps changing")
        behavior = self._behavior_stage(config.behavior_steps if pretrained else config.steps)
        if not self.parts:
            return (behavior,)
        if pretrained or not self.uses_behavior:
            return (behavior, *self.own_stages())
        return (_joined(self.own_stage("joint", skip=_STAGE_FIELDS | {"bank"}), behavior),)

    def online(self) -> Stage | None:
        """Joint, however the behaviour was trained offline: it imitates what the buffer holds, and a bank, made for the
        dataset's next states, is no longer looked at."""
        return _joined(self.online_stage(), self._behavior_stage(self.config.steps))

    def _behavior_stage(self, steps: int) -> Stage:
        batch, rate = self.behavior_batch, self.config.learning_rate
        return Stage(
            name="behavior",
            trains=frozenset({"behavior"}),
            steps=steps,
            update=self._behavior_stage_update,
            rule=f"{type(self.sampler).__name__} imitation, gradient clip {self.behavior_clip_norm}",
            config={**self.sampler.settings, "learning_rate": rate, "batch_size": batch, **self.behavior_settings},
            batch_size=batch,
            rewarded=False,
        )

    def own_stages(self) -> tuple[Stage, ...]:
        """The stages after the behaviour's, where that has one of its own."""
        banked = self.draws_next and self.config.bank > 0
        skip = _STAGE_FIELDS if self.draws_next else _STAGE_FIELDS | {"bank"}
        reads, fill = frozenset({"behavior"}), self._fill_bank if banked else None
        return (self.own_stage(self.parts[0], skip=skip, reads=reads, prepare=fill),)

    # stages

    def update_behavior(self, learner: Learner, batch: Batch, draws: Any) -> tuple[Learner, Metrics]:
        """One gradient step of imitation."""
        loss, grads = jax.value_and_grad(self.sampler.loss)(
            learner.params, batch["observations"], batch["actions"], draws
        )
        new = descend(learner, grads, self.behavior_optimizer, tau=self.behavior_average, after=True)
        return new, {"behavior/loss": loss}

    def _behavior_stage_update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        draws = self.sampler.draw(key, batch["actions"].shape[0])
        learner, metrics = self.update_behavior(state["behavior"], batch, draws)
        return {**state, "behavior": learner}, metrics

    # samples of the behaviour policy

    def propose(self, state: State, obs: Array, noise: Array) -> Array:
        """Behaviour actions `[b, n, a]` at observations `[b, o]` from noise `[b, n, a]`; by the average of the
        sampler's parameters where one is kept."""
        wide, learner = per_action(obs, noise), state["behavior"]
        return self.sampler.sample(learner.params if learner.target is None else learner.target, wide, noise)

    def draw_proposals(self, key: Key, batch: Batch, n: int) -> Array:
        """What `next_proposals` needs: noise `[b, n, a]`, or `n` places `[b, n]` in the bank."""
        rows = batch["actions"].shape[0]
        if "bank" not in batch:
            return self.sampler.noise(key, (rows, n))
        size = batch["bank"].shape[1]
        if n > size:
            return jax.random.randint(key, (rows, n), 0, size)
        return jax.lax.top_k(jax.random.uniform(key, (rows, size)), n)[1]  # without replacement

    def next_proposals(self, state: State, batch: Batch, draws: Array) -> Array:
        """Behaviour actions `[b, n, a]` at the batch's next observations."""
        if "bank" in batch:
            return jnp.take_along_axis(batch["bank"], draws[..., None], axis=1)
        return self.propose(state, batch["next_observations"], draws)

    def _fill_bank(self, state: State, columns: Columns, key: Key) -> Mapping[str, Array]:
        obs = columns["next_observations"]
        return {"bank": self.propose(state, obs, self.sampler.noise(key, (obs.shape[0], self.config.bank)))}


def _joined(own: Stage, behavior: Stage) -> Stage:
    """One stage that trains both on the same batches, each from the other as it was."""

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        behavior_key, own_key = jax.random.split(key)
        imitating, behavior_metrics = behavior.update(state, _first(batch, behavior.batch_size), behavior_key)
        new, metrics = own.update(state, _first(batch, own.batch_size), own_key)
        return {**new, "behavior": imitating["behavior"]}, {**behavior_metrics, **metrics}

    return own._replace(
        trains=own.trains | {"behavior"},
        update=update,
        rule=f"{own.rule}; {behavior.rule}",
        config={**own.config, **{f"behavior.{name}": value for name, value in behavior.config.items()}},
        batch_size=max(own.batch_size, behavior.batch_size),
    )


def _first(batch: Batch, rows: int) -> Batch:
    return {name: column[:rows] for name, column in batch.items()}
