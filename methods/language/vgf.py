"""VGF for language models: samples of the SFT model as particles, moved up the reward model's gradient.

N particles y ~ pi_SFT of a prompt are lifted to continuous coordinates (`surrogates.py`), moved L_test steps by the
flow that the control half has (`methods/particles.py`), decoded, scored again as texts, and the best is the answer.
With L_test = 0 this is best-of-N with the same samples. The paper (arXiv 2604.14265, Section 3.1) leaves decoder,
kernel, optimiser and step size open for language models; they are settings here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from methods import particles
from methods.core import Count, MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.inference import Cost, Knob
from methods.language.best_of_n import choices
from methods.language.core import Context, LanguageConfig, LanguageStage
from methods.language.method import TEMPERATURE, LanguageMethod
from methods.language.respond import (
    SAMPLING,
    Responding,
    Responses,
    changed,
    drawn,
    enough,
    responding,
    rollouts,
    spent,
)
from methods.language.reward_model import reward_stage
from methods.language.sft import sft_stage
from methods.language.surrogates import Embedding, Frame, Simplex, Surrogate, accepted, frame


@dataclass(frozen=True)
class VGFConfig(LanguageConfig):
    """L_test and step size are test-time settings; each pair is evaluated from the same samples."""

    n_particles: PositiveInt = 5  # N
    test_flow_steps: tuple[Count, ...] = (0, 1, 2, 4, 8, 16, 32)  # L_test
    test_step_sizes: tuple[PositiveFloat, ...] = (1.0,)  # eps; in a column of its own where there are several
    surrogate: Literal["simplex", "embedding", "embedding_nn"] = "simplex"
    candidates: PositiveInt = 8  # likeliest tokens a position may change to; embedding_nn: all
    bonus: Weight = 2.0  # of the simplex: how far y0's token starts above the likeliest
    tau: PositiveFloat = 1.0  # of the simplex: temperature of the mixture
    fluency: Weight = 1.0  # of the embedding surrogate's decoder; embedding_nn: none
    kernel: Literal["rbf", "none"] = "rbf"
    alpha: Weight = 0.0  # repulsion between particles; 0: none
    particle_optimizer: Literal["normalized", "adam", "sgd"] = "normalized"
    step_decay: Weight = 0.5  # step l is eps / l^decay
    decoder: Literal["argmax", "accepted"] = "accepted"  # "accepted": swaps that raise the reward, one by one
    proposals: Literal["nearest", "moved"] = "nearest"  # swaps tried first: what z is nearest to, or moved towards
    decode_trials: PositiveInt = 4  # texts that "accepted" scores beside the one it starts from


FLOW_SETTINGS = (
    "n_particles", "test_flow_steps", "test_step_sizes", "surrogate", "candidates", "bonus", "tau", "fluency", "kernel",
    "alpha", "particle_optimizer", "step_decay", "decoder", "proposals", "decode_trials",
)  # fmt: skip


def surrogate(frame: Frame, config: VGFConfig) -> Surrogate:
    """The one that the settings name."""
    if config.surrogate == "simplex":
        return Simplex(frame, candidates=config.candidates, bonus=config.bonus, tau=config.tau)
    if config.surrogate == "embedding":
        return Embedding(frame, candidates=config.candidates, fluency=config.fluency)
    return Embedding(frame, candidates=0, fluency=0.0)


def flow(config: VGFConfig, step_size: float, step: int = 1) -> particles.Flow:
    """The rule of a step, from 1: no box, and repulsion only if it is asked for."""
    return particles.Flow(
        step_size=step_size / step**config.step_decay, optimizer=config.particle_optimizer, maxent=config.alpha > 0,
        alpha=config.alpha or 1.0,
        kernel=config.kernel, bandwidth_gradient=False, box=None,
    )  # fmt: skip


def answer_cost(n: int, steps: float, trials: int = 0) -> Cost:
    """Of N particles a sample and a score each and, where they move, a teacher-forced pass before, a gradient a step,
    and the scores of the texts that the decoder tries."""
    return Cost(n * (2 + (1 + trials if steps else 0) + steps), gradients=n * steps)


class Particles:
    """Particles `[p n]` of some prompts on their way: coordinates, and the optimiser's memory."""

    def __init__(self, surrogate: Surrogate, frame: Frame, number: int, flow: Callable[[int], particles.Flow]) -> None:
        """`flow`: the rule of step 1, 2, ..."""
        self.surrogate, self.number, self.flow = surrogate, number, flow
        self.z, self.count = surrogate.init(), 0
        self.moments = particles.fresh_moments(self._grouped(torch.zeros_like(self.z).flatten(1)))
        # phi/|phi| has length 1 for the whole response, which sqrt(length) makes 1 a token
        self.scale = self._grouped(surrogate.unit * frame.length.to(self.z.dtype).sqrt()[:, None])
        self.origin = self._grouped(surrogate.coords(self.z))
        lengths = self._grouped(frame.length[:, None].to(self.z.dtype)).mean((1, 2))
        self.sigma = [surrogate.unit * math.sqrt(length) for length in lengths.tolist()]

    def _grouped(self, values: Tensor) -> Tensor:
        """`[p n, d]` -> `[p, n, d]`."""
        return values.reshape(-1, self.number, values.shape[-1])

    def step(self) -> None:
        """phi_i = 1/n sum_j k(p_i, p_j) dr/dz_j (plus repulsion), then a step of the optimiser along it."""
        scores = self._grouped(self.surrogate.spread(self.surrogate.grad(self.z)))
        self.count += 1
        flow = self.flow(self.count)
        phi = particles.direction(self._grouped(self.surrogate.coords(self.z)), scores, flow)
        own = self.surrogate.gather(phi.reshape(len(self.z), -1)).flatten(1)
        still = torch.where(torch.isfinite(self.z), self.z, 0.0)  # slots that are no candidates hold -inf
        scale = self.scale if flow.optimizer == "normalized" else self.surrogate.unit
        moved, self.moments = particles.move(
            self._grouped(still.flatten(1)), self._grouped(own), self.moments, self.count, flow, scale=scale
        )
        self.z = torch.where(torch.isfinite(self.z), moved.reshape(self.z.shape), self.z)

    def transport(self) -> Tensor:
        """MMD^2 `[p]` between the particles where they are and where they began, under a Gaussian kernel as wide as
        sqrt(length) tokens."""
        now = self._grouped(self.surrogate.coords(self.z))
        rows = [particles.mmd2(a, b, sigma) for a, b, sigma in zip(self.origin, now, self.sigma, strict=True)]
        return torch.stack(rows)


class Stop(NamedTuple):
    """Particles `[p n]` at some L_test."""

    texts: Responses
    proxy: Tensor  # `[p n]`, of the texts
    transport: Tensor  # `[p]`
    soft: Tensor  # `[p n]`, of the particles before they are decoded


def decode_trials(config: VGFConfig) -> int:
    """Texts that a particle's decoder scores."""
    return config.decode_trials if config.decoder == "accepted" else 0


class Flowing(Responding):
    """Moves the first N rollouts of every prompt, and answers at every L_test on the way."""

    config: VGFConfig

    def __init__(self, context: Context, config: VGFConfig, prompts: int) -> None:
        super().__init__(context, config, prompts, scored=True)

    def answers(self, temperature: float, chunk: slice) -> dict[str, Tensor]:
        config, texts, n = self.config, self.context.texts, drawn(self.config.n_particles, temperature)
        assert self.scorer is not None
        starts = self.sampled(temperature, chunk, n)
        repeated = [tokens.prompt for tokens, _ in self.prompts[chunk] for _ in range(n)]
        fixed = frame(self.sft, self.scorer, repeated, starts, banned=texts.banned, tokens=texts.size)
        found = [
            self.answer(n, starts, stop)
            for step_size in config.test_step_sizes
            for stop in self.path(n, fixed, repeated, starts, step_size)
        ]
        best, proxy, edits, transport, soft = zip(*found, strict=True)  # a setting each, of all prompts
        costs = [self.cost(n, steps) for _ in config.test_step_sizes for steps in config.test_flow_steps]
        by_prompt = [best[k][p] for p in range(len(best[0])) for k in range(len(best))]
        return self.measured(
            chunk, by_prompt, torch.stack(proxy, 1).flatten(), edit_fraction=torch.stack(edits, 1), samples=float(n),
            transport=torch.stack(transport, 1), soft=torch.stack(soft, 1), **spent(costs, len(best[0])),
        )  # fmt: skip

    def cost(self, n: int, steps: float) -> Cost:
        return answer_cost(n, steps, decode_trials(self.config))

    def path(self, n: int, fixed: Frame, prompts: Sequence[Any], starts: Responses, step_size: float) -> Iterator[Stop]:
        """Where `n` particles of a prompt are at every L_test, in the order of the settings."""
        config, found = self.config, dict[int, Stop]()
        moving = Particles(surrogate(fixed, config), fixed, n, partial(flow, config, step_size))
        unmoved = 0 in config.test_flow_steps or config.decoder == "accepted"
        begun = self.proxies(prompts, starts) if unmoved else torch.full((len(starts),), torch.nan)
        for step in range(max(config.test_flow_steps) + 1):
            if step:
                moving.step()
            if step in config.test_flow_steps:
                texts, proxy = self.decoded(moving, fixed, prompts, starts, begun) if step else (starts, begun)
                soft = moving.surrogate.soft(moving.z).cpu()
                found[step] = Stop(texts, proxy, moving.transport().cpu(), soft)
        yield from (found[step] for step in config.test_flow_steps)

    def decoded(
        self, moving: Particles, fixed: Frame, prompts: Sequence[Any], starts: Responses, begun: Tensor
    ) -> tuple[Responses, Tensor]:
        """The particles as texts, and their proxies."""
        if self.config.decoder == "argmax":
            texts = fixed.responses(moving.surrogate.decode(moving.z), [len(start) for start in starts])
            return texts, self.proxies(prompts, texts)
        swaps = moving.surrogate.proposals(moving.z, self.config.decode_trials, moved=self.config.proposals == "moved")
        return accepted(swaps, starts, begun, lambda texts: self.proxies(prompts, texts))

    def answer(self, n: int, starts: Responses, stop: Stop) -> tuple[Responses, Tensor, Tensor, Tensor, Tensor]:
        """(best response, its proxy, its fraction of changed tokens, transport, soft reward) of every prompt."""
        best = choices(self.worth(stop.proxy, stop.texts).reshape(-1, n), (n,)).flatten()
        places = (torch.arange(len(best)) * n + best).tolist()
        edits = [changed(starts[i], stop.texts[i], self.context.texts.eos) for i in places]
        texts = [stop.texts[i] for i in places]
        return texts, stop.proxy[places], torch.tensor(edits), stop.transport, stop.soft[places]


@dataclass(frozen=True)
class VGF(LanguageMethod):
    """The best of N particles after L_test steps."""

    config: VGFConfig
    Config: ClassVar[type[MethodConfig]] = VGFConfig
    name: ClassVar[str] = "vgf"
    inference: ClassVar[tuple[Knob, ...]] = (
        TEMPERATURE, Knob("L_test", "flow steps at test time", "steps", path=True),
        Knob("eps", "step size at test time"),
    )  # fmt: skip

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        del temperature
        several = len(self.config.test_step_sizes) > 1
        return tuple(
            {"L_test": steps} | ({"eps": size} if several else {})
            for size in self.config.test_step_sizes
            for steps in self.config.test_flow_steps
        )

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        n = drawn(self.config.n_particles, self.temperature(knobs))
        return answer_cost(n, knobs["L_test"], decode_trials(self.config))

    def stages(self) -> tuple[Any, ...]:
        enough(self.config, "vgf.n_particles", self.config.n_particles)
        return sft_stage(self.config), reward_stage(self.config)

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        config = self.config
        kept = self.settings(*SAMPLING, *FLOW_SETTINGS, "missing_eos_penalty") | {"prompts": prompts}
        return (
            rollouts(config, prompts),
            responding("the best particle of the flow", kept, frozenset({"sft", "reward", "rollouts"}), config,
                       lambda context: Flowing(context, config, prompts)),
        )  # fmt: skip
