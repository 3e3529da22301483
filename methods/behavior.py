"""The behaviour policy as a component: which sampler, how it is fitted, and in which stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from methods.core import (
    Added,
    Array,
    BadInput,
    Batch,
    Columns,
    ControlConfig,
    Count,
    Fraction,
    Key,
    Metrics,
    Part,
    PositiveFloat,
    PositiveInt,
    Repeats,
    Stage,
    State,
    TaskSpec,
    is_on,
)
from methods.critic import InSample
from methods.goals import Relabelled
from methods.learner import Learner, Params, create, descend, optimizer
from methods.networks import per_action
from methods.samplers import DiffusionSampler, FlowSampler, GaussianSampler, Sampler
from methods.sampling import ROWS, Sampling, Windows
from methods.weighting import BEHAVIOR_WEIGHT, ByAdvantage, ByReturn, judging


@dataclass(frozen=True)
class BehaviorConfig(ControlConfig):
    """Settings of methods that lean on a behaviour sampler."""

    sampler: Literal["flow", "gaussian", "diffusion"] = "flow"
    flow_steps: Repeats = 10  # Euler steps of the flow sampler
    sampler_activation: Literal["relu", "gelu", "mish"] = "relu"
    behavior: Literal["joint", "pretrained"] = "joint"  # on the same batches, or a stage of its own that is shared
    behavior_steps: PositiveInt = 1_000_000  # gradient steps of that stage
    behavior_weighting: Annotated[Literal["none", "advantage", "return"], Added] = (
        "none"  # what is imitated most: actions
    )
    # of high advantage, or of episodes of high return (`weighting.py`)
    weighting_temperature: Annotated[PositiveFloat, Added] = 1.0  # in stds over the dataset
    weighting_largest: Annotated[PositiveFloat, Added] = 20.0  # weight before all are divided by their mean
    weighting_expectile: Annotated[Fraction, Added] = 0.7  # of the critic that judges advantages
    bank: Count = 0  # with "pretrained": actions drawn once for each next state, then looked up; 0: drawn anew. It
    # has no meaning, and no cost, for methods that do not sample the behaviour at next states


_WHERE = frozenset({"behavior", "behavior_steps"})  # where the work happens, not what it computes


@dataclass(frozen=True)
class Behavior:
    """A behaviour sampler as the part "behavior"."""

    sampler: Sampler
    config: BehaviorConfig
    obs_dim: int
    batch_size: int  # transitions a gradient step
    spec: TaskSpec | None = None
    clip_norm: float | None = None
    averaged: bool = False  # whether it keeps an average, however slow
    weight_decay: float = 0.0
    decay_steps: int = 0  # steps in which the learning rate falls to 0, along a cosine; 0: it stays
    average: float = 0.0  # rate at which an average of the parameters follows them, and samples; 0: there is none
    lagging: bool = False  # whether the average follows the parameters as they were before a step
    settings: Mapping[str, Any] = field(default_factory=dict)  # what its fit depends on beside the sampler, the
    # learning rate and the batch

    @classmethod
    def of(cls, spec: TaskSpec, config: BehaviorConfig, sampler: Sampler | None = None, **rest: Any) -> Behavior:
        """The sampler that the settings ask for, or another, and `rest`, which wins."""
        found = sampler or _sampler(spec, config)
        return cls(**{"sampler": found, "config": config, "obs_dim": spec.obs_dim, "batch_size": config.batch_size,
                      "spec": spec, **rest})  # fmt: skip

    @property
    def weighting(self) -> ByReturn | ByAdvantage | None:
        """What gives its imitation weights, if anything does.

        Raises: BadInput: advantages of chunks, which no row of the dataset holds.
        """
        c = self.config
        rule = (c.weighting_temperature, c.weighting_largest)
        if c.behavior_weighting == "none":
            return None
        if c.behavior_weighting == "return":
            return ByReturn(*rule)
        if c.chunk > 1:
            raise BadInput(f"behavior_weighting=advantage judges single actions: chunk={c.chunk}; "
                           "behavior_weighting=return takes chunks")  # fmt: skip
        assert self.spec is not None
        single = replace(c, n_step=1)  # it learns from single steps, whatever the method's own critic sees
        judge = InSample.of(self.spec, single, expectile=c.weighting_expectile, activation="gelu", norm="after")
        return ByAdvantage(judging(judge), *rule)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        rate, decay = self.config.learning_rate, self.weight_decay
        return optimizer(rate, self.clip_norm, weight_decay=decay, decay_steps=self.decay_steps)

    def init(self, key: Key) -> Learner:
        return create(self.sampler.init(key, self.obs_dim), self.optimizer, target=self.averaged or is_on(self.average))

    # samples

    def sample(self, learner: Learner, obs: Array, noise: Array) -> Array:
        """Behaviour actions `[..., a]` in [-1, 1], one for each noise `[..., k]`, at observations `[..., o]` (or `[b,
        o]` for noise `[b, n, k]`); by the average of the sampler's parameters where one is kept."""
        params = learner.params if learner.target is None else learner.target
        return self.sampler.sample(params, per_action(obs, noise), noise)

    def propose(self, learner: Learner, obs: Array, key: Key, n: int) -> Array:
        """`n` behaviour actions `[b, n, a]` at observations `[b, o]`. `key` is consumed."""
        return self.sample(learner, obs, self.sampler.noise(key, (len(jax.tree.leaves(obs)[0]), n)))

    def draw_next(self, key: Key, batch: Batch, n: int) -> Array:
        """What `propose_next` needs: noise `[b, n, k]`, or `n` places `[b, n]` in the bank. `key` is consumed."""
        rows = batch["actions"].shape[0]
        if "bank" not in batch:
            return self.sampler.noise(key, (rows, n))
        size = batch["bank"].shape[1]
        if n > size:
            return jax.random.randint(key, (rows, n), 0, size)
        return jax.lax.top_k(jax.random.uniform(key, (rows, size)), n)[1]  # without replacement

    def propose_next(self, learner: Learner, batch: Batch, draws: Array) -> Array:
        """Behaviour actions `[b, n, a]` at the batch's next observations."""
        if "bank" in batch:
            return jnp.take_along_axis(batch["bank"], draws[..., None], axis=1)
        return self.sample(learner, batch["next_observations"], draws)

    # training

    def gradient(self, learner: Learner, batch: Batch, draws: Any) -> tuple[Array, Params]:
        """The imitation loss, a scalar, and its gradient."""
        weights = imitated(batch, self.config)
        if BEHAVIOR_WEIGHT in batch:
            own = batch[BEHAVIOR_WEIGHT][:, None]
            weights = own if weights is None else own * weights
        return jax.value_and_grad(self.sampler.loss)(
            learner.params, batch["observations"], batch["actions"], draws, weights
        )

    def update(self, learner: Learner, batch: Batch, draws: Any) -> tuple[Learner, Metrics]:
        """One gradient step of imitation."""
        loss, grads = self.gradient(learner, batch, draws)
        new = descend(learner, grads, self.optimizer, tau=self.average, after=not self.lagging)
        return new, {"behavior/loss": loss}

    def stage(self, steps: int, sample: Sampling = ROWS, *, weighted: bool = True) -> Stage:
        """Imitation alone; `weighted`: by `weighting`, if there is one."""
        c, masked = self.config, self.config.chunk > 1 and self.config.chunk_mask != "window"
        plain = Stage(
            name="behavior",
            trains=frozenset({"behavior"}),
            steps=steps,
            update=self._update_alone,
            rule=f"{type(self.sampler).__name__} imitation, gradient clip {self.clip_norm}",
            config={**self.sampler.settings, "learning_rate": c.learning_rate, "batch_size": self.batch_size,
                    **self.settings, **({"chunk_mask": c.chunk_mask} if masked else {})},
            batch_size=self.batch_size,
            rewarded=False,
            sample=self._alone(sample),
        )  # fmt: skip
        weighting = self.weighting if weighted else None
        return plain if weighting is None else weighting.apply(plain, c)

    def before(self, sample: Sampling = ROWS) -> tuple[Stage, ...]:
        """What is trained before it: the critic that judges advantages, where they weigh."""
        c, weighting = self.config, self.weighting
        if not isinstance(weighting, ByAdvantage):
            return ()
        stage = weighting.judge.stage(self._steps, c.batch_size, sample)
        return (stage._replace(columns=frozenset({"rewards", "masks", "next_observations"})),)

    @property
    def companions(self) -> Mapping[str, Part]:
        """Parts that are trained before it, for it alone."""
        weighting = self.weighting
        return weighting.judge.parts if isinstance(weighting, ByAdvantage) else {}

    @property
    def _steps(self) -> int:
        """Gradient steps of its own stage."""
        return self.config.behavior_steps if self.config.behavior == "pretrained" else self.config.steps

    def _alone(self, sample: Sampling) -> Sampling:
        """How batches are drawn where nobody looks at rewards and successors: rows, or windows of a chunk's length; in
        tasks of goals with a policy's."""
        if isinstance(sample, Relabelled):
            assert self.spec is not None and self.spec.goals is not None
            base: Any = self._alone(sample.base)
            return self.spec.goals.seen_by_policy(base, self.config.discount)
        if not isinstance(sample, Windows):
            return sample
        return ROWS if self.config.chunk == 1 else replace(sample, length=self.config.chunk, discount=1.0)

    def _update_alone(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        learner, metrics = self.update(state["behavior"], batch, self.sampler.draw(key, batch["actions"].shape[0]))
        return {**state, "behavior": learner}, metrics

    # where it is trained

    def alone(self, sample: Sampling = ROWS) -> Stage:
        """A stage of its own, where no other part looks at it while it learns."""
        return self.stage(self._steps, sample)

    def beside(self, method: str, own: Stage, *, next_samples: bool = True) -> tuple[Stage, ...]:
        """The behaviour and the stage of a `method` whose updates sample it, on the same batches or one after the
        other, as the settings say; `next_samples`: whether the updates sample it at next states, as a bank can serve.

        Raises:
          BadInput: a bank of a sampler that keeps changing, or what tasks of goals do not allow.
        """
        c, of_goals = self.config, isinstance(own.sample, Relabelled)
        if of_goals and c.behavior == "joint":
            raise BadInput(f"{method}.behavior=joint: in tasks of goals imitation and critics learn for goals "
                           "of their own; behavior=pretrained")  # fmt: skip
        if of_goals and c.bank and next_samples:
            raise BadInput(f"{method}.bank={c.bank}: proposals depend on goals, which every batch draws anew; bank=0")
        own = self.without_own_settings(own, bank=next_samples and c.behavior == "pretrained")
        if c.behavior == "joint":
            if c.bank and next_samples:
                raise BadInput(f"{method}.bank={c.bank} needs behavior=pretrained: a joint sampler keeps changing")
            return (*self.before(), joined(own, self.stage(own.steps, own.sample)))
        filled = self._fill_bank if c.bank and next_samples else None
        seen = frozenset({"behavior"})
        own = own._replace(name="critic", trains=own.trains - seen, reads=seen, prepare=filled)
        return *self.before(), self.stage(c.behavior_steps, own.sample), own

    @staticmethod
    def without_own_settings(own: Stage, bank: bool = False) -> Stage:
        """A method's stage without settings of how the behaviour is trained, which do not change what it computes;
        `bank`: whether it draws from one."""
        unused = _WHERE if bank else _WHERE | {"bank"}
        return own._replace(config={name: value for name, value in own.config.items() if name not in unused})

    def online(self, own: Stage) -> Stage:
        """Joint, however the behaviour was trained offline: it imitates what the buffer holds, and a bank, made for the
        dataset's next states, is no longer looked at, nor are weights of the dataset's transitions."""
        return joined(own, self.stage(self.config.steps, own.sample, weighted=False))

    def _fill_bank(self, state: State, columns: Columns, key: Key) -> Mapping[str, Array]:
        return {"bank": self.propose(state["behavior"], columns["next_observations"], key, self.config.bank)}


def _sampler(spec: TaskSpec, config: BehaviorConfig) -> Sampler:
    shape, precision = (spec.action_dim, config.hidden_dims, config.sampler_activation), config.precision
    if config.sampler == "flow":
        return FlowSampler(*shape, steps=config.flow_steps, precision=precision)
    return (GaussianSampler if config.sampler == "gaussian" else DiffusionSampler)(*shape, precision=precision)


def imitated(batch: Batch, config: ControlConfig) -> Array | None:
    """Weights `[b, 1]` or `[b, h * a]` of the terms of an imitation loss, by `chunk_mask`; None: all are 1."""
    if "valid" not in batch or config.chunk_mask == "none":
        return None
    valid = batch["valid"][:, : config.chunk]
    if config.chunk_mask == "window":
        return valid[:, -1:]
    return jnp.repeat(valid, batch["actions"].shape[1] // config.chunk, axis=1)


def joined(own: Stage, behavior: Stage) -> Stage:
    """One stage that trains both on the same batches, each from the other as it was."""

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        behavior_key, own_key = jax.random.split(key)
        imitating, behavior_metrics = behavior.update(state, _first(batch, behavior.batch_size), behavior_key)
        new, metrics = own.update(state, _first(batch, own.batch_size), own_key)
        return {**new, "behavior": imitating["behavior"]}, {**behavior_metrics, **metrics}

    return own.completing(behavior.complete)._replace(
        trains=own.trains | {"behavior"},
        update=update,
        rule=f"{own.rule}; {behavior.rule}",
        config={**own.config, **{f"behavior.{name}": value for name, value in behavior.config.items()}},
        batch_size=max(own.batch_size, behavior.batch_size),
        reads=own.reads | behavior.reads,
        prepare=own.prepare or behavior.prepare,  # one of them at most: a joint stage has no bank
        columns=own.columns | behavior.columns,
    )


def _first(batch: Batch, rows: int) -> Batch:
    return jax.tree.map(lambda column: column[:rows], dict(batch))
