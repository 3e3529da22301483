"""The base of language methods: the stages of its training, then of responding and judging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from methods.core import Method, MethodConfig
from methods.inference import Cost, Knob
from methods.language.core import ONE_SAMPLE, LanguageConfig, LanguageStage, kept
from methods.language.respond import judging

TEMPERATURE = Knob("T", "temperature of sampling")


@dataclass(frozen=True)
class LanguageMethod(Method):
    """Base of language methods. `spec` is a `tasks.language.core.LanguageSpec`."""

    config: Any
    spec: Any
    Config: ClassVar[type[MethodConfig]] = LanguageConfig
    inference: ClassVar[tuple[Knob, ...]] = (TEMPERATURE,)

    @property
    def fields(self) -> frozenset[str]:
        return frozenset()

    @property
    def exploring(self) -> frozenset[str]:
        return frozenset()

    def online(self) -> None:
        return None  # nothing acts in an environment

    def own_knobs(self, temperature: float) -> tuple[Mapping[str, float], ...]:
        """Test-time settings beside the temperature, at that."""
        del temperature
        return ({},)

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        """`own_knobs` at every temperature, which has a column where there are several."""
        several = len(self.config.test_temperatures) > 1
        return tuple(({TEMPERATURE.name: t} if several else {}) | dict(one)
                     for t in self.config.test_temperatures for one in self.own_knobs(t))  # fmt: skip

    def temperature(self, knobs: Mapping[str, float]) -> float:
        """That of a setting of `knobs`."""
        return knobs.get(TEMPERATURE.name, self.config.test_temperatures[0])

    def settings(self, *names: str) -> dict[str, Any]:
        """Those settings, for a stage's `config`."""
        return kept(self.config, *names)

    def cost(self, knobs: Mapping[str, float]) -> Cost:
        """What one answer costs: a sample, where a method does no more."""
        del knobs
        return ONE_SAMPLE

    def evaluation(self, prompts: int, judge: str) -> tuple[LanguageStage, ...]:
        """Stages that respond to so many prompts and compare the responses with the references; before them that of
        the reward model, where it is the judge and the method has none."""
        measuring = replace(self, config=replace(self.config, measure_proxy=True)) if judge == "proxy" else self
        own = {stage.name for stage in self.stages()}
        further: list[Any] = [stage for stage in measuring.stages() if stage.name not in own]
        return (*further, *measuring.responding(prompts), judging(self.config, prompts, judge))

    def responding(self, prompts: int) -> tuple[LanguageStage, ...]:
        """Stages that end in the part "responses": see `methods/language/respond.py`."""
        raise NotImplementedError
