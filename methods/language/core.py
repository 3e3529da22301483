"""The contract of language methods: the stages of `methods/core.py`, carried out one seed at a time.

A `LanguageStage` begins a `Job` for a seed; a job is run in spans of steps, can be saved between them, and ends in
named `Part`s: tensors and a little JSON, which is all that is ever written to disk. What is generated and judged is
work of stages too, so that it is shared, resumed and recorded as training is. Nothing here does I/O: a `Context` brings
what was read.

Reading order: this file, `method.py`, `models.py`, `training.py`, `sft.py`, `vgf.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from methods.core import Count, Fraction, MethodConfig, PositiveFloat, PositiveInt, Weight
from methods.inference import Cost
from methods.settings import Added, neutral

if TYPE_CHECKING:
    import torch

    from methods.language.tokens import Texts


MODELS = ("sft", "reward", "policy")
"""The parts that are models with weights: the fine-tuned one, the one that scores, the one a method trained."""


class Part(NamedTuple):
    """What a stage made for one seed."""

    tensors: dict[str, torch.Tensor]
    about: dict[str, Any]  # JSON: the architecture of weights, the names of columns


class Job(Protocol):
    """The work of one stage for one seed."""

    total: int  # steps; of a training stage, its gradient steps
    alone: bool  # changes state of the whole process while it runs, so no other job may begin

    def run(self, first: int, count: int) -> dict[str, float]:
        """Does steps `first` + 1 .. `first` + `count`; returns the mean of each metric over them."""

    def snapshot(self) -> Part:
        """All that a job begun anew needs to go on from here."""

    def restore(self, kept: Part) -> None: ...

    def parts(self) -> dict[str, Part]:
        """What the finished job made."""


class Models(Protocol):
    """Where weights come from that no stage trained."""

    def fresh(self) -> Any:
        """A causal language model: the tiny one with random weights drawn from torch's generator, or the one that the
        setting `model` names."""

    def given(self, part: Literal["sft", "reward"]) -> Any:
        """The checkpoint that the settings name for a part. Raises `BadInput`: unreadable, some of its weights lack, or
        not the one that the run was planned with."""


class Sampler(Protocol):
    """Another way to sample from a model than ours."""

    def __call__(self, prompts: Sequence[Sequence[int]], number: int, temperature: float, seed: int) -> list[list[int]]:
        """`number` responses to each prompt, prompt by prompt; an end of text that was drawn is the last token."""


@dataclass(frozen=True)
class Context:
    """What a job works with."""

    seed: int
    texts: Texts  # the corpus in tokens
    models: Models
    part: Callable[[str], Part]  # of an earlier stage, by name
    device: Any
    gold: Callable[[str, str], float] | None = None
    best: Callable[[str], str] | None = None  # prompt -> a response of the largest gold reward
    judge: Callable[[Sequence[tuple[str, str, str]]], Sequence[float]] | None = (
        None  # (prompt, a, b) -> 1, 0.5, 0 or NaN
    )
    sampler: Callable[[Any], Sampler] | None = None  # of a model, where the settings name another than ours


class LanguageStage(NamedTuple):
    """A span of work that makes some parts while reading others; see `methods.core.Stage`, whose fields it shares."""

    name: str
    trains: frozenset[str]
    steps: int
    """Gradient steps; 0 of a stage that trains nothing, whose job counts its own."""
    rule: str
    config: Mapping[str, Any]
    begin: Callable[[Context], Job]
    batch_size: int
    reads: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    """Checkpoints it reads, whose contents are part of its identity."""


@dataclass(frozen=True)
class LanguageConfig(MethodConfig):
    """Settings that language methods share, so that equal ones share stages. `steps`, `batch_size` and `learning_rate`
    are those of the method's own training; sizes of the tiny model count only where `model` is "tiny"."""

    steps: PositiveInt = 400  # of the method's own training, where it has one
    batch_size: PositiveInt = 64  # prompts a step
    learning_rate: PositiveFloat = 3e-4  # AdamW; falls to 0 after a warm-up
    schedule: Annotated[Literal["linear", "cosine"], Added] = "linear"  # by which it falls; policies that learn from
    # their own samples (PPO, RLOO, GRPO) have a line without a warm-up, as N+
    warm_up: Annotated[Fraction, Added] = 0.05  # of the steps, in which it rises linearly
    model: str = "tiny"  # or a folder or hub name of a causal language model
    layers: PositiveInt = 4  # of the tiny GPT-NeoX
    width: PositiveInt = 128
    heads: PositiveInt = 4
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights; particles are float32 always
    gradient_checkpointing: bool = False
    micro_batch: Count = 0  # rows at a time, their gradients added up, where a batch does not fit; 0: the whole batch
    lora_rank: Count = 0  # 0: all weights are trained
    bos: Annotated[Literal["auto", "on", "off"], Added] = "auto"  # a beginning of text before each prompt; auto: where
    # the tokenizer puts one itself
    chat_template: Annotated[bool, Added] = False  # prompts as a user's turn in the tokenizer's template
    backend: Literal["own", "trl"] = "own"  # what trains SFT, reward model and DPO
    sft_checkpoint: str = ""  # a folder whose model stands in for the SFT stage
    sft_steps: PositiveInt = 1000
    sft_epochs: Annotated[Weight, Added] = 0.0  # passes over the references, which count the steps instead; 0: those
    sft_batch_size: PositiveInt = 64
    sft_learning_rate: PositiveFloat = 2e-3
    reward_checkpoint: str = ""  # a folder whose model stands in for the reward model's stage
    reward_steps: PositiveInt = 700
    reward_epochs: Annotated[Weight, Added] = 0.0  # passes over the preferences; 0: `reward_steps`
    reward_batch_size: PositiveInt = 64  # pairs
    reward_learning_rate: PositiveFloat = 1e-3
    measure_proxy: bool = True  # whether responses of methods that need no reward model are scored by it all the same
    rollouts: PositiveInt = 64  # samples of the SFT model a prompt, which SFT, best-of-N and VGF share
    rollout_engine: Literal["own", "vllm"] = "own"  # what draws rollouts
    test_temperatures: tuple[Weight, ...] = (1.0,)  # T of sampling; 0: greedy; in a column of its own where several
    missing_eos_penalty: Weight = 1.0  # off the reward of a response that was cut off, when choosing (PPO: N+ detail)
    prompt_split: str = "test"
    respond_batch: PositiveInt = 25  # prompts at a time


ONE_SAMPLE = Cost(passes=1)

WEIGHTS = ("model", "layers", "width", "heads", "dtype", "gradient_checkpointing", "lora_rank")
"""Settings that any training depends on."""
READING = ("bos", "chat_template")
"""Settings of how texts become tokens. Stages whose parts all others read bear them."""
GIVEN = "a checkpoint given"
"""The rule of stages that train nothing, as the settings name a checkpoint."""


def kept(config: LanguageConfig, *names: str) -> dict[str, Any]:
    """Those settings, for a stage's `config`, and of what trains a model those of its schedule; without what came later
    (`Added`) and is at its default, so that what was trained before is the same work today."""
    training = ("schedule", "warm_up") if {*WEIGHTS} <= {*names} else ()
    hidden = neutral(config)
    return {name: getattr(config, name) for name in (*names, *training) if name not in hidden}


def derived_seed(*names: Any) -> int:
    """A seed that depends on all the names, for one generator; 63 bits."""
    text = "/".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def own_settings(config: LanguageConfig) -> frozenset[str]:
    """Settings that a method's class adds to the shared ones."""
    return frozenset(field.name for field in fields(config)) - {field.name for field in fields(LanguageConfig)}
