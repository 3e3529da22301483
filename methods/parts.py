"""The base of methods whose state is named parts, each a `Learner` of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from methods.core import REWARD_SETTINGS, Batch, Key, Method, MethodConfig, Metrics, Stage, State
from methods.learner import part_key


@dataclass(frozen=True)
class PartsMethod(Method):
    """A method made of parts that one stage trains together.

    A subclass names its `parts`, initialises them (`init_part`), says what an update draws (`draw`) and does
    (`update_parts`), and how to act. Methods with more stages build on the same pieces.
    """

    config: MethodConfig
    parts: ClassVar[tuple[str, ...]] = ()
    rule: ClassVar[str] = ""  # what the stage computes, in words that change whenever its result would

    # what subclasses bring

    def init_part(self, name: str, key: Key) -> Any:
        """A part at its start, from a key of its own."""
        raise NotImplementedError

    def draw(self, key: Key, batch: Batch) -> Any:
        """The random draws of one `update_parts`; none by default."""
        del batch
        return key

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        """New values of the method's own parts."""
        raise NotImplementedError

    @property
    def test_time(self) -> frozenset[str]:
        """Settings that only acting depends on: changing them retrains nothing."""
        return frozenset()

    # the contract

    def init(self, key: Key) -> State:
        return {name: self.init_part(name, part_key(key, name)) for name in self.parts}

    def stages(self) -> tuple[Stage, ...]:
        return (self.own_stage("joint"),)

    def own_stage(self, name: str, *, skip: frozenset[str] = frozenset(), **changes: Any) -> Stage:
        """The stage of the method's own parts; settings in `skip` have no bearing on it."""
        stage = Stage(
            name=name,
            trains=frozenset(self.parts),
            steps=self.config.steps,
            update=self.update_own,
            rule=self.rule,
            config=self.settings(skip),
            batch_size=self.config.batch_size,
        )
        return stage._replace(**changes)

    def settings(self, skip: frozenset[str] = frozenset()) -> Mapping[str, Any]:
        """The settings that training depends on."""
        skip = skip | self.test_time | self.exploring | {"steps"} | REWARD_SETTINGS
        return {name: value for name, value in asdict(self.config).items() if name not in skip}

    def online(self) -> Stage | None:
        return self.online_stage()

    def online_stage(self, **changes: Any) -> Stage:
        """The own stage gone on with: what a stage fits in closed form stays as the dataset had it. In `config` the
        grids of knobs give way to the setting that explores."""
        values = asdict(self.config)
        skip = {"steps"} | REWARD_SETTINGS
        config = {name: values[name] for name in values if name not in skip and not _is_grid(name, values[name])}
        config["explores_by"] = dict(self.explorer.knobs[0])
        return self.own_stage("online", **{"config": config, **changes})

    def update_own(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        return self.update_parts(state, batch, self.draw(key, batch))


def _is_grid(name: str, value: Any) -> bool:
    """Whether a setting lists the values of a test-time knob."""
    return name.startswith("test_") and isinstance(value, tuple)
