"""The shapes of what is stored with datasets; see `core.records`, by which it is checked."""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # pydantic needs its form of it below Python 3.12

from core.records import Number


@with_config(ConfigDict(strict=True, extra="allow"))
class Source(TypedDict):
    """Of an imported set its original."""

    sha256: NotRequired[str]


@with_config(ConfigDict(strict=True, extra="allow"))
class Metadata(TypedDict):
    """What of a Minari dataset's metadata is used."""

    dataset_id: str
    total_episodes: Number
    total_steps: Number
    data_format: NotRequired[str]
    observation_space: NotRequired[str]
    action_space: NotRequired[str]
    env_spec: NotRequired[str | None]
    eval_env_spec: NotRequired[str | None]
    ref_min_score: NotRequired[float | None]
    ref_max_score: NotRequired[float | None]


@with_config(ConfigDict(strict=True, extra="allow"))
class OwnMetadata(Metadata):
    """What those of our own sets say besides; others may mean something else by the same words."""

    reference: NotRequired[str]
    source: NotRequired[Source]
    recipe: NotRequired[dict[str, Any]]
    medium_step: NotRequired[Number]
    expert_step: NotRequired[Number]


@with_config(ConfigDict(strict=True, extra="allow"))
class RecipeRecord(TypedDict):
    """A recipe in a file."""

    dataset: str
    episodes: Number
    seed: Number
