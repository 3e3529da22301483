"""Language models that no stage trained: the tiny one, checkpoints in folders, and models of the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import torch

from core.errors import reason
from harness.files import Place, contents, located
from methods.core import BadInput
from methods.language.core import LanguageConfig
from methods.language.models import RewardModel, as_classifier, positions, reads, reward_of, tiny_model
from methods.language.tokens import Texts, vocabulary_hash, word_tokenizer

TINY = "tiny"
GLOBAL = RLock()
"""Held by who draws from torch's global generator or has transformers load, which changes defaults of the process."""


def tokenizer_for(config: LanguageConfig, texts: Sequence[str]) -> Any:
    """The tokenizer of the settings' models; of the tiny one, a word tokenizer made from `texts`.

    Raises:
      BadInput: checkpoints among the settings have different ones, or none with an end of text.
    """
    places = (config.sft_checkpoint, "" if config.model == TINY else config.model, config.reward_checkpoint)
    first = next(filter(None, places[:2]), "")
    own = _tokenizer(first) if first else word_tokenizer(texts)
    for place in filter(None, places):
        if place != first and vocabulary_hash(_tokenizer(place)) != vocabulary_hash(own):
            raise BadInput(f"{place}: its tokenizer differs from that of {first or 'the tiny model'}; "
                           "policy and reward model must share one")  # fmt: skip
    if own.eos_token_id is None:
        raise BadInput(f"{first}: its tokenizer has no end-of-text token")
    return own


def check_sizes(config: LanguageConfig, texts: Texts) -> None:
    """Refuses checkpoints among the settings that could not read the texts, before anything is trained.

    Raises:
      BadInput: a model has fewer positions than prompt, response and end of text take, or its embeddings lack a row for
        a token that texts may hold.
    """
    for place, load in ((config.sft_checkpoint or config.model, _causal), (config.reward_checkpoint, _reward)):
        if place and place != TINY:
            about = _config(place)
            _check_rows(place, about.get_text_config().vocab_size, texts)
            _check_positions(place, positions(about), load, texts)


def _check_rows(place: str, rows: int, texts: Texts) -> None:
    before, after = texts.around
    harmless = {*texts.banned} - {texts.pad, *before, *after}  # control tokens that neither texts nor batches hold
    for token, number in texts.tokenizer.get_vocab().items():
        if number >= rows and number not in harmless:
            raise BadInput(f"model {place!r}: its embeddings have {rows} rows, and its tokenizer's token {token!r} is "
                           f"number {number}: they do not belong together")  # fmt: skip


def _check_positions(place: str, stated: int | None, load: Callable[[str], Any], texts: Texts) -> None:
    if stated is None or stated >= texts.max_prompt + texts.max_response + 1:
        return
    prompt = texts.longest()
    needed = prompt + texts.max_response + 1
    with GLOBAL:
        model = load(place)
    if not reads(model.backbone if isinstance(model, RewardModel) else model, needed):
        raise BadInput(f"model {place!r} has {stated} positions, and {needed} are needed: {prompt} for the longest "
                       f"prompt, {texts.max_response} for a response, 1 for the end of text")  # fmt: skip


class Backbones:
    """`methods.language.core.Models` for a run's settings."""

    def __init__(
        self, config: LanguageConfig, tokens: int, longest: int, known: frozenset[str] = frozenset(),
        heed: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """`tokens`: of the tokenizer; `longest`: tokens of the tiny model's sequences; `known`: what checkpoints held
        (`harness.files.contents`) when the run was planned, and must hold when they are loaded; `heed`: called before
        every pass of a model."""
        self.heed = heed
        self.config, self.tokens, self.longest, self.known = config, tokens, longest, known
        self._loaded: dict[tuple[str, str], Any] = {}

    def fresh(self) -> Any:
        if self.config.sft_checkpoint:
            return self.given("sft")  # the architecture that parts were made with
        if self.config.model == TINY:
            with GLOBAL:
                return self._heeding(tiny_model(self.config, self.tokens, self.longest).to(self._dtype))
        return self._copy(self.config.model, "sft")

    def given(self, part: Literal["sft", "reward"]) -> Any:
        return self._copy(self.config.sft_checkpoint if part == "sft" else self.config.reward_checkpoint, part)

    def _copy(self, path: str, part: Literal["sft", "reward"]) -> Any:
        """One of its own for every caller."""
        with GLOBAL:
            if (path, part) not in self._loaded:
                if contents(path) not in self.known:
                    raise BadInput(f"{path}: its files changed since the run was planned")
                self._loaded[path, part] = _causal(path) if part == "sft" else _reward(path)
            found = copy.deepcopy(self._loaded[path, part])
        (found.backbone if isinstance(found, RewardModel) else found).to(self._dtype)
        return self._heeding(found)

    def _heeding(self, model: Any) -> Any:
        body = model.backbone if isinstance(model, RewardModel) else model.base_model
        body.register_forward_pre_hook(lambda module, given: self.heed())
        return model

    @property
    def _dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.config.dtype]


def _load(path: str, what: str, load: Callable[..., Any], **settings: Any) -> Any:
    """What transformers makes of a folder or a hub's commit, or one line on why it cannot."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of weights: it would run across ours
    place: Place = located(path)
    try:
        return load(place.name, **settings, **({"revision": place.revision} if place.revision else {}))
    except Exception as error:  # whatever libraries make of strangers' files
        where = "cannot be read" if place.revision is None else "did not come from the model hub"
        raise BadInput(f"{what} {path!r} {where}: {reason(error)[:200]}") from error


def _config(path: str) -> Any:
    from transformers import AutoConfig

    return _load(path, "configuration of", AutoConfig.from_pretrained)


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return _load(path, "tokenizer of", AutoTokenizer.from_pretrained)


def _whole(path: str, what: str, kind: Any, **settings: Any) -> Any:
    """A model of which nothing lacks: transformers fills what a checkpoint does not have with random weights."""
    found, about = _load(path, what, kind.from_pretrained, output_loading_info=True, **settings)
    if about["missing_keys"]:
        raise BadInput(f"{what} {path!r}: no weights for {', '.join(sorted(about['missing_keys'])[:3])}")
    return found


def _causal(path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return _whole(path, "model", AutoModelForCausalLM)


def _reward(path: str) -> RewardModel:
    """A transformers classifier with one label, its head read where we read it."""
    from transformers import AutoModelForSequenceClassification

    found = _whole(path, "reward model", AutoModelForSequenceClassification, num_labels=1)
    head = getattr(found, "score", None)
    if head is None or head.weight.shape[0] != 1:
        raise BadInput(f"reward model {path!r}: no scalar head called `score`")
    return reward_of(found)


def save_checkpoint(folder: Path, model: Any, tokenizer: Any) -> None:
    """A causal or reward model as transformers would have saved it, so that anything can load it."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would run across ours
    whole = as_classifier(model, tokenizer.pad_token_id) if isinstance(model, RewardModel) else model
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
