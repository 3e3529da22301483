"""QGF: a behaviour flow whose velocity is pushed up the critic's gradient while it samples.

Source: Test-Time Gradient Guidance of Flow Policies, arXiv 2606.11087, and its public code. Nothing is trained for it
but a behaviour flow and IQL's critic; guidance weight w and number of samples N are test-time knobs. The paper reports
the best w at each evaluation; here every w is reported, and chosen by a declared rule if at all.

The paper's other test-time methods are values of `gradient`, and act by the same trained parts: `--sweep
qgf.gradient=denoised,jacobian,noisy,full,after` trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax

from methods.behavior import Behavior
from methods.best_of_n import BestOfN, BestOfNConfig
from methods.core import (
    Added,
    Array,
    Explore,
    Key,
    Knobs,
    Method,
    MethodConfig,
    Moves,
    Repeats,
    State,
    Switch,
    TaskSpec,
    Test,
    Weight,
    is_on,
)
from methods.critic import Critic, guide
from methods.diagnosis import led_to, on_a_line, over_noise, over_weights, paths, shares, similarities
from methods.guidance import Guidance
from methods.inference import SAMPLES, Cost, Diagnosis, Knob
from methods.learner import Learner, Params
from methods.samplers import FlowSampler
from methods.select import first

WEIGHT = Knob("w", "weight of the guidance", setting="test_weights")


@dataclass(frozen=True)
class GuidedConfig(BestOfNConfig):
    """Settings of QGF's flow and critic, and of guidance by weights of which each is evaluated; the grid of w is its
    code's, its choices per domain were not published."""

    critic: Literal["td", "iql", "floq"] = "iql"
    sampler: Literal["flow"] = "flow"
    sampler_activation: Literal["relu", "gelu", "mish"] = "gelu"
    guidance_aggregation: Annotated[Literal["mean", "min"], Test] = "min"  # of the target critics whose gradient guides
    test_weights: Annotated[tuple[Weight, ...], Test] = (0.0, 0.004, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12)
    # w; 0 is BC
    test_n: Annotated[tuple[Repeats, ...], Test] = (1,)  # N: the best of so many guided samples
    explore_weight: Annotated[Weight, Switch, Explore] = 0.02  # w while exploring online (ours: the middle of its grid)

    @property
    def explored(self) -> Mapping[str, Any]:
        """The settings of a method that acts as this one explores."""
        return {"test_weights": (self.explore_weight,), "test_n": (self.explore_n or max(self.test_n),)}


@dataclass(frozen=True)
class QGFConfig(GuidedConfig):
    """QGF's settings."""

    gradient: Annotated[Literal["denoised", "jacobian", "noisy", "full", "after"], Test] = "denoised"  # where Q is
    # asked
    after_steps: Annotated[Moves, Added, Test] = 3  # of "after": steps of size w that finished samples take (GradStep)


def flow_of(spec: TaskSpec, config: GuidedConfig) -> FlowSampler:
    """The flow of QGF's code: times of its grid, embedded; LayerNorm in all hidden layers but the last."""
    c = config
    return FlowSampler(
        spec.action_dim, c.hidden_dims, c.sampler_activation, c.flow_steps, norm="inner", time_embedding=16, grid=True,
        precision=c.precision,
    )  # fmt: skip


def guidance_of(spec: TaskSpec, config: QGFConfig, critic: Critic) -> Guidance:
    """Of that flow, by a critic."""
    return Guidance(flow_of(spec, config), critic, config.gradient, config.guidance_aggregation, config.after_steps)


@dataclass(frozen=True)
class QGF(BestOfN):
    """Q-guided flow."""

    config: QGFConfig
    Config: ClassVar[type[MethodConfig]] = QGFConfig
    name: ClassVar[str] = "qgf"
    inference: ClassVar[tuple[Knob, ...]] = (WEIGHT, SAMPLES)

    @property
    def behavior(self) -> Behavior:
        return Behavior.of(self.spec, self.config, flow_of(self.spec, self.config))

    @property
    def guidance(self) -> Guidance:
        return guidance_of(self.spec, self.config, self.critic)

    @property
    def explorer(self) -> Method:
        return self.having(**self.config.explored)

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        if not any(map(is_on, self.config.test_weights)):  # plain samples
            return super().candidates(state, obs, key, knobs)
        most = max(self.config.test_n)
        return self.guidance.candidates(state, obs, key, most, knobs["w"]), first(knobs["N"], most)

    def judge(self, critic: Learner) -> Params:
        """The target critic, which guides, as in its code."""
        return guide(self.critic, critic)

    @property
    def judging(self) -> str:
        return self.config.guidance_aggregation

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        sampler, weights = self.guidance.sampler, self.config.test_weights
        line = on_a_line(sampler, weights) if self.spec.action_dim == 1 else ()
        return over_noise(sampler), *over_weights(weights), *line

    def diagnose(self, state: State, obs: Array, near: Array, key: Key) -> Mapping[str, Array]:
        similarity_key, led_key, shares_key = jax.random.split(key, 3)
        guidance, weights = self.guidance, self.config.test_weights
        answers = [similarities(guidance, state, obs, similarity_key)]
        answers += led_to(guidance, state, obs, near, weights, led_key)
        if self.spec.action_dim == 1:
            answers += [paths(guidance, state, obs, weights), shares(guidance, state, obs, weights, shares_key)]
        return dict(zip([one.name for one in self.diagnoses], answers, strict=True))

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        return self.guidance.cost(knobs["N"], guided=bool(knobs["w"]))
