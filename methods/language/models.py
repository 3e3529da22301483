"""Causal language models and reward models: built, scored, sampled from.

Any transformers causal language model will do; the tiny one is a GPT-NeoX, as Pythia is. A reward model is such a model
with a scalar head that is read at an explicit last index: transformers' own classification head looks for padding,
which is not there to find when embeddings are given.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import reason
from core.extras import install
from methods.core import BadInput
from methods.language.core import Context, LanguageConfig, Part
from methods.language.heads import own_head
from methods.language.heads import response_logits as response_logits  # for methods, which look for them here
from methods.language.heads import token_logprobs as token_logprobs
from methods.language.heads import wide as wide
from methods.language.sampling import draw as draw
from methods.language.sampling import forbid as forbid
from methods.language.sampling import sample as sample

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx",
              "max_target_positions")  # fmt: skip  # what configurations call it
ROUND = 8  # rows of the tiny model's embeddings come in multiples of it, as real models' do


def positions(config: Any) -> int | None:
    """The longest sequence that a model is said to read, in tokens; None where its configuration does not say."""
    config = config.get_text_config()
    stated = (getattr(config, name, None) for name in _POSITIONS)
    return next((count for count in stated if isinstance(count, int) and count > 0), None)


@torch.no_grad()
def reads(model: Any, length: int) -> bool:
    """Whether a model on the CPU reads so many tokens. Where its configuration states fewer it is tried: a table of
    positions ends there, rotary ones go on. Raises: RuntimeError, where trying fails otherwise (out of memory, ...)."""
    stated = positions(model.config)
    if stated is None or length <= stated:
        return True
    try:
        model.base_model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    except IndexError:
        return False
    except RuntimeError as error:  # no class of its own says that positions end; others (out of memory) are no answer
        if not re.search("index .*out of (bounds|range)|size of tensor .* must match", str(error)):
            raise
        return False
    return True


def tiny_model(config: LanguageConfig, tokens: int, longest: int) -> Any:
    """A GPT-NeoX with random weights from torch's generator, for `tokens` tokens and sequences of `longest`."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=-(-tokens // ROUND) * ROUND, hidden_size=config.width, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, intermediate_size=4 * config.width, max_position_embeddings=longest,
            rope_parameters=rotary, hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=1,
            pad_token_id=0, tie_word_embeddings=False,
            initializer_range=config.width**-0.5,  # at 0.02, which suits large ones, attention forms half as fast
        )
    )  # fmt: skip


class RewardModel(nn.Module):
    """A backbone with a scalar head, of float32 at least; `mean` and `deviation`, which `reward_model.py` measures,
    normalise its scores."""

    def __init__(self, backbone: Any, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        weight = next(backbone.parameters())
        self.score = nn.Linear(width, 1, bias=False, device=weight.device)
        nn.init.normal_(self.score.weight, std=(width + 1) ** -0.5)  # N+ implementation details, 2403.17031
        self.mean, self.deviation = 0.0, 1.0

    @property
    def config(self) -> Any:
        return self.backbone.config

    def table(self, tokens: int) -> Tensor:
        """Embeddings `[tokens, d]` of the first so many, as the model itself looks them up: Gemma scales them then."""
        call = self.backbone.get_input_embeddings()
        return wide(call(torch.arange(tokens, device=call.weight.device)).detach())

    def values(self, ids: Tensor | None = None, embeds: Tensor | None = None) -> Tensor:
        """The head at every token `[b, l]` of ids `[b, l]` or embeddings `[b, l, d]` padded on the right."""
        return self._head(self.backbone(input_ids=ids, inputs_embeds=embeds, use_cache=False).last_hidden_state)

    def _head(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return wide(self.score(hidden.to(self.score.weight.dtype)).squeeze(-1))

    def forward(self, last: Tensor, ids: Tensor | None = None, embeds: Tensor | None = None) -> Tensor:
        """The score `[b]` at the tokens of index `last` `[b]`, not normalised."""
        return self.at(last, self.backbone(input_ids=ids, inputs_embeds=embeds, use_cache=False).last_hidden_state)

    def at(self, last: Tensor, hidden: Tensor) -> Tensor:
        """The score `[b]` of the backbone's states `[b, l, d]` at index `last` `[b]`, not normalised."""
        return self._head(hidden[torch.arange(len(last), device=last.device), last])

    def normalised(self, score: Tensor) -> Tensor:
        """Scores to mean 0 and standard deviation 1, as measured on validation pairs."""
        return (score - self.mean) / self.deviation


def reward_from(model: Any) -> RewardModel:
    """A reward model that starts as the language model `model`, which it takes over."""
    return RewardModel(model.base_model, model.config.get_text_config().hidden_size)


def as_classifier(model: RewardModel, pad: int) -> Any:
    """A copy as transformers' classifier with one label, in whose form reward models are published.

    Raises: BadInput: transformers has no such classifier of this family (Mamba), or one with another head.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    config.num_labels, config.pad_token_id = 1, pad
    refused = f"a reward model of the family {config.model_type!r} cannot be made a classifier: transformers has"
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise BadInput(f"{refused} none of that family")
    whole: Any = AutoModelForSequenceClassification.from_config(config)
    if not hasattr(whole, "score"):
        raise BadInput(f"{refused} {type(whole).__name__}, which has no head called 'score'")
    whole.base_model.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        whole.score.weight.copy_(model.score.weight)
    return whole


def reward_of(classifier: Any) -> RewardModel:
    """A reward model that takes over the weights of a classifier with one label, called `score` as in transformers."""
    model = RewardModel(classifier.base_model, classifier.score.weight.shape[1])
    with torch.no_grad():
        model.score.weight.copy_(classifier.score.weight)
    return model


# parts


def weights(model: nn.Module, **about: Any) -> Part:
    """A model as a part. Tensors that are one in the model are stored once."""
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in model.state_dict().items()}
    seen: dict[int, str] = {}
    kept = {n: v for n, v in tensors.items() if seen.setdefault(v.data_ptr() if v.numel() else id(v), n) == n}
    exact = {"read_in": "float32"} if any(getattr(one, "took_adapters", False) for one in model.modules()) else {}
    return Part(kept, {"weights": True, **exact, **about})


def load_into(model: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Raises `BadInput` where the weights are another model's, or not all of this one's."""
    own = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    for name, value in tensors.items():
        if shapes.get(name) != tuple(value.shape):
            raise BadInput(f"{what}: {name} has shape {tuple(value.shape)} there and {shapes.get(name)} in the model")
    given = {own[name].data_ptr() for name in tensors}  # tied weights are stored under one of their names
    lacking = [name for name, value in own.items() if name not in tensors and value.data_ptr() not in given]
    if lacking:
        raise BadInput(f"{what}: no weights for {', '.join(lacking[:3])}")
    model.load_state_dict(tensors, strict=False)


def causal(context: Context, name: str) -> Any:
    """The causal language model that the part `name` is, on the device, for evaluation."""
    part = context.part(name)
    model = context.models.given("sft") if part.about.get("given") else context.models.fresh()
    if not part.about.get("given"):
        load_into(read_as(part, model), part.tensors, name)
    model = model.to(context.device).eval()
    own_head(model)  # tried now, so that nothing passes through the model but what is asked of it
    return model


def reward(context: Context, name: str = "reward") -> RewardModel:
    """The reward model that the part `name` is, on the device, for evaluation."""
    part = context.part(name)
    if part.about.get("given"):
        model: RewardModel = context.models.given("reward")
    else:
        model = reward_from(read_as(part, context.models.fresh()))
        load_into(model, part.tensors, name)
    model.mean, model.deviation = float(part.about.get("mean", 0.0)), float(part.about.get("deviation", 1.0))
    return model.to(context.device).eval()


def adapted(model: Any, rank: int) -> Any:
    """The model with LoRA adapters of that rank on every linear layer, nothing else trained; rank 0: itself."""
    if not rank:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise BadInput(f"lora_rank={rank} needs peft ({error}): {install('rlhf')}") from error
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    try:
        return get_peft_model(model, settings)
    except ValueError as error:  # of Mamba's layers, for one
        raise BadInput(
            f"lora_rank={rank}: peft puts no adapters into {type(model).__name__}: {reason(error)}"
        ) from error


def merged(model: Any) -> Any:
    """With its adapters taken into the weights, in float32: rounded to bfloat16 most of a small update would be lost.
    `weights` notes that, so that the part is read in float32, too."""
    if not hasattr(model, "merge_and_unload"):
        return model
    whole = in_float32(model).merge_and_unload()
    whole.took_adapters = True
    return whole


def in_float32(model: Any) -> Any:
    """The model with every weight in float32 at least."""
    for weight in model.parameters():
        weight.data = wide(weight.data)
    return model


def read_as(part: Part, model: Any) -> Any:
    """The model that a part's weights go into, in float32 where they came of adapters, whatever the setting `dtype`."""
    return in_float32(model) if part.about.get("read_in") == "float32" else model
