"""Prompts read once: N responses to one prompt share what a model keeps of it, its keys and values.

Read whole, every response costs prompt + response tokens; so read, the prompt is paid for once. Posts of TL;DR are ten
times as long as their summaries, so scoring and moving many responses to one post is several times as fast. A model
without such a cache (Mamba), or whose cache does not give what whole passes give, reads everything anew.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.language.heads import ACTIVATIONS

KEPT = 2**29  # numbers in the keys and values of a pass, 2 GiB in float32


def caches(model: Any) -> bool:
    """Whether a model keeps keys and values of what it read."""
    return "past_key_values" in inspect.signature(model.forward).parameters


def placed(model: Any) -> bool:
    """Whether a model can be told where its tokens stand."""
    known = inspect.signature(model.forward).parameters
    return "position_ids" in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def padded_left(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask `[b, l]` of rows that all end together."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        if len(row):
            ids[place, width - len(row) :] = torch.tensor([*row])
            mask[place, width - len(row) :] = 1
    return ids, mask


def chosen(past: Any, rows: Tensor) -> Any:
    """A cache with those rows of another, which stays as it is."""
    found = copy.copy(past)
    found.layers = [copy.copy(layer) for layer in past.layers]
    found.batch_select_indices(rows)
    return found


class Prompts:
    """Prompts that a model's body has read but for their last token, which texts that go on from them begin with."""

    def __init__(self, body: Any, prompts: Iterable[tuple[int, ...]], pad: int) -> None:
        self.body, self.place = body, {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        ids, mask = (x.to(body.device) for x in padded_left([prompt[:-1] for prompt in self.place], pad))
        self.mask, self.lengths, self.placed = mask, mask.sum(1), placed(body)
        with torch.no_grad():
            where = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if self.placed else {}
            self.past = body(input_ids=ids, attention_mask=mask, use_cache=True, **where).past_key_values

    def rows(self, width: int) -> int:
        """Texts of so many tokens that a pass takes."""
        config = self.body.config.get_text_config()
        each = sum(layer.keys[0].numel() + layer.values[0].numel() for layer in self.past.layers)
        return max(1, min(KEPT // max(1, each), ACTIVATIONS // (width * 4 * config.hidden_size)))

    def hidden(self, rows: Tensor, ids: Tensor | None = None, embeds: Tensor | None = None) -> Tensor:
        """States `[b, w, d]` of tokens that go on from the prompts of index `rows` `[b]`."""
        width = (ids if ids is not None else embeds).shape[1]  # type: ignore[union-attr]
        mask = nn.functional.pad(self.mask[rows], (0, width), value=1)  # of padding on the right nothing is read
        places = self.lengths[rows, None] + torch.arange(width, device=rows.device)
        where = {"position_ids": places} if self.placed else {}
        out = self.body(input_ids=ids, inputs_embeds=embeds, attention_mask=mask, use_cache=True,
                        past_key_values=chosen(self.past, rows), **where)  # fmt: skip
        return out.last_hidden_state


_alike: dict[type, bool] = {}  # classes of bodies whose cache was tried


class Reader:
    """A model's body reading texts that go on from prompts. It keeps the prompts that it was asked about last."""

    def __init__(self, body: Any, pad: int) -> None:
        self.body, self.pad = body, pad
        self.prompts: Prompts | None = None

    def hidden(
        self, prompts: Sequence[Sequence[int]], *, ids: Tensor | None = None, embeds: Tensor | None = None
    ) -> Tensor:
        """States `[b, w, d]` of the last token of each prompt and what follows it: ids `[b, w]` or embeddings
        `[b, w, d]`, both with that token, padded on the right."""
        rows = [tuple(prompt) for prompt in prompts]
        if min(map(len, rows)) < 2 or not self._agrees():
            return whole(self.body, rows, self.pad, ids, embeds)
        kept = self._kept(rows)
        places = torch.tensor([kept.place[row] for row in rows], device=self.body.device)
        given, how = (ids, "ids") if ids is not None else (embeds, "embeds")
        assert given is not None
        size = len(rows) if torch.is_grad_enabled() else kept.rows(given.shape[1])
        pieces = zip(places.split(size), given.split(size), strict=True)
        return torch.cat([kept.hidden(where, **{how: piece}) for where, piece in pieces])

    def _kept(self, rows: Sequence[tuple[int, ...]]) -> Prompts:
        if self.prompts is None or not self.prompts.place.keys() >= set(rows):
            self.prompts = None  # its memory is free before the next one's is asked for
            self.prompts = Prompts(self.body, rows, self.pad)
        return self.prompts

    @torch.no_grad()
    def _agrees(self) -> bool:
        """Whether states behind a cache are those of whole passes; tried once for each class of bodies."""
        kind = type(self.body)
        if kind not in _alike:
            _alike[kind] = caches(self.body) and self._tried()
        return _alike[kind]

    def _tried(self) -> bool:
        rows, ids = [(0, 1, 2, 3), (2, 1)], torch.tensor([[3, 0, 2], [1, 2, 0]], device=self.body.device)
        expected = whole(self.body, rows, 0, ids, None)
        try:
            kept = Prompts(self.body, rows, 0)
            twice = [kept.hidden(torch.tensor([0, 1], device=ids.device), ids=ids) for _ in range(2)]
        except (AttributeError, TypeError, KeyError, IndexError, ValueError, NotImplementedError, RuntimeError):
            return False  # a cache of another kind
        near = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
        return all(float((one - expected).abs().max()) <= near * float(expected.abs().max()) for one in twice)


def whole(body: Any, prompts: Sequence[tuple[int, ...]], pad: int, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
    """What `Reader.hidden` gives, by passes over prompts and all."""
    device, given = body.device, ids if ids is not None else embeds
    assert given is not None
    starts = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    places = starts[:, None] + torch.arange(given.shape[1], device=device)
    before = torch.full((len(prompts), int(places.max()) + 1), pad, device=device)
    for row, prompt in zip(before, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    if ids is not None:
        out = body(input_ids=before.scatter(1, places, ids), use_cache=False)
    else:
        read = body.get_input_embeddings()(before).detach()
        index = places[..., None].expand(-1, -1, read.shape[-1])
        out = body(inputs_embeds=read.scatter(1, index, given.to(read.dtype)), use_cache=False)
    states = out.last_hidden_state
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
