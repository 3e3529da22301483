"""Logits where they are needed: of response tokens alone, and a piece of them at a time.

At a real vocabulary logits are most of the memory: 512 sequences of 400 tokens and 50,304 words are 41 GB in float32,
and training holds several such arrays. A model's own head is therefore applied to the hidden states of response tokens
only, with whatever it does to its logits besides (Gemma 2 caps them, Cohere scales them).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods.language.tokens import Batch

LOGITS = 2**25  # numbers in a piece, 128 MiB
ACTIVATIONS = 2**28  # numbers in the widest layer of a pass without gradients, a gigabyte
Head = Callable[[Tensor], Tensor]


def wide(x: Tensor) -> Tensor:
    """At least float32, which losses, scores and particles are in whatever the weights are."""
    return x if x.dtype == torch.float64 else x.float()


class _Hidden(tuple[Tensor]):
    """What a body returns: hidden states, and None for all else that a head might hand on."""

    __slots__ = ()

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Body(nn.Module):
    """Stands for a model's body, and returns the hidden states that it is given."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **others: Any) -> _Hidden:
        del input_ids, others
        return _Hidden((inputs_embeds,))


_apart: dict[type, bool] = {}  # classes of models whose head was tried


def without_adapters(model: Any) -> Any:
    """The transformers model inside one that peft put adapters into, which stay in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def own_head(model: Any) -> Head | None:
    """What a causal model does to hidden states `[n, d]` to get logits `[n, v]`: its own forward pass without the body.
    None where that cannot be told apart, which is tried once for each class of models."""
    body, prefix = model.base_model, model.base_model_prefix
    if body is model or model._modules.get(prefix) is not body:
        return None
    rest = copy.copy(model)  # shares every weight
    hooks = {name: type(value)() for name, value in vars(model).items() if name.endswith("_hooks")}
    rest.__dict__.update(hooks, _modules={**model._modules, prefix: _Body()})

    def head(hidden: Tensor) -> Tensor:
        return rest(inputs_embeds=hidden[None], use_cache=False).logits[0]

    if type(model) not in _apart:
        _apart[type(model)] = _agrees(model, body, head)
    return head if _apart[type(model)] else None


@torch.no_grad()
def _agrees(model: Any, body: Any, head: Head) -> bool:
    ids, training = torch.zeros(1, 2, dtype=torch.long, device=model.device), model.training
    model.eval()
    try:
        expected = model(input_ids=ids, use_cache=False).logits[0]
        found = head(body(input_ids=ids, use_cache=False).last_hidden_state[0])
    except (AttributeError, TypeError, KeyError, IndexError, ValueError, NotImplementedError):
        return False  # it asks its body for more than hidden states
    finally:
        model.train(training)
    return found.shape == expected.shape and torch.allclose(wide(found), wide(expected), rtol=1e-3, atol=1e-4)


def split(model: Any) -> tuple[Callable[[Tensor], Tensor], Head]:
    """(ids `[b, l]` to hidden states, those to logits); logits at once where a model has no head of its own."""
    whole = without_adapters(model)
    if (head := own_head(whole)) is None:
        return (lambda ids: whole(input_ids=ids, use_cache=False).logits), lambda hidden: hidden
    return (lambda ids: whole.base_model(input_ids=ids, use_cache=False).last_hidden_state), head


def in_rows(model: Any, batch: Batch) -> Iterator[Batch]:
    """A batch in pieces of so many rows that no layer of a pass exceeds `ACTIVATIONS`; whole where gradients are kept,
    as they would be kept of all pieces."""
    config = model.config.get_text_config()
    rows = max(1, ACTIVATIONS // (batch.ids.shape[1] * 4 * config.hidden_size))
    for part in zip(*(x.split(len(batch.ids) if torch.is_grad_enabled() else rows) for x in batch), strict=True):
        yield Batch(*part)


def response_logits(model: Any, batch: Batch, width: int) -> Tensor:
    """Logits `[b, width, v]` that predict the tokens of each response, teacher-forced; row t of those past a
    response's end is of no meaning."""
    body, head = split(model)
    found = []
    for part in in_rows(model, batch):
        places = part.starts[:, None] - 1 + torch.arange(width, device=part.ids.device)
        places = places.clamp(0, part.ids.shape[1] - 1)
        hidden = body(part.ids)
        chosen = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
        found.append(wide(head(chosen.flatten(0, 1))).unflatten(0, places.shape))
    return torch.cat(found)


def logits_at_a_time(model: Any) -> int:
    """Tokens whose logits stand in memory together."""
    return max(1, LOGITS // model.config.get_text_config().vocab_size)


def token_logprobs(model: Any, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log pi of every token given those before it, `[b, l]`; 0 outside responses. At most `LOGITS` numbers of logits
    stand in memory at a time; those that a gradient needs are computed again."""
    body, head = split(model)
    size = logits_at_a_time(model)
    return torch.cat([logprobs(body(part.ids), head, part, size, temperature) for part in in_rows(model, batch)])


def logprobs(states: Tensor, head: Head, batch: Batch, size: int, temperature: float = 1.0) -> Tensor:
    """The same from a body's states `[b, l, d]` of the batch, the logits of `size` tokens at a time."""
    mask = batch.response_mask
    mask[:, 0] = False  # nothing before it
    row, place = mask.nonzero(as_tuple=True)
    hidden, targets = states[row, place - 1], batch.ids[row, place]
    pieces = list(zip(hidden.split(size), targets.split(size), strict=True))
    again = torch.is_grad_enabled() and len(pieces) > 1
    found = [
        checkpoint(_chosen, head, *piece, temperature, use_reentrant=False, preserve_rng_state=False)
        if again else _chosen(head, *piece, temperature)
        for piece in pieces
    ]  # fmt: skip
    values = torch.cat(found)
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _chosen(head: Head, hidden: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """log pi `[n]` of targets, one for each hidden state."""
    logits = wide(head(hidden))
    if temperature != 1.0:
        logits = logits / temperature
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
