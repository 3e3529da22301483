"""Sampling: a token a step for all prompts together, by one uniform number a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.language.heads import split, without_adapters
from methods.language.prefixes import caches, chosen, padded_left, placed


def forbid(logits: Tensor, tokens: int, banned: Sequence[int]) -> None:
    """Sets the logits `[..., v]` of `banned` tokens, and of ids >= `tokens`, to -inf. Banned tokens may have no row: a
    tokenizer can name more control tokens than its model knows."""
    logits[..., tokens:] = -torch.inf
    logits[..., [i for i in banned if i < logits.shape[-1]]] = -torch.inf


def draw(logits: Tensor, *generators: torch.Generator) -> Tensor:
    """A token `[b]` of each row's softmax, by one uniform number a row: the first whose summed chance exceeds it. Noise
    for every word of a vocabulary takes longer than a small model's pass. Summed in double precision, as a
    vocabulary's rounding adds up; what has no chance is never drawn. Of several generators each has its turn, row by
    row."""
    chances = logits.softmax(-1).double().cumsum(-1)
    rows = len(chances) // len(generators)
    noise = [torch.rand(rows, generator=one, dtype=torch.float64) for one in generators]
    uniform = torch.stack(noise, dim=1).reshape(-1, 1)
    return torch.searchsorted(chances, uniform * chances[:, -1:], right=True)[:, 0]


class Cached:
    """Each prompt read once, however many samples it has, and a token a step after that. They are padded on the left,
    so that all end together."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        self.model, device = model, next(model.parameters()).device
        place = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        self.rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=device)
        self.ids, self.mask = (x.to(device) for x in padded_left(list(place), pad))
        self.past: Any = None
        self.positions, self.placed = (self.mask.cumsum(1) - 1).clamp(min=0), placed(without_adapters(model))

    def logits(self) -> Tensor:
        """Of the next tokens, `[b, v]`."""
        first, places = self.past is None, {"position_ids": self.positions} if self.placed else {}
        out = self.model(input_ids=self.ids, attention_mask=self.mask, past_key_values=self.past, use_cache=True,
                         logits_to_keep=1, **places)  # fmt: skip
        self.past, found = out.past_key_values, out.logits[:, -1]
        if first and len(found) < len(self.rows):
            self.past, found = chosen(self.past, self.rows), found[self.rows]
            self.mask, self.positions = self.mask[self.rows], self.positions[self.rows]
        return found

    def append(self, tokens: Tensor, alive: Tensor) -> None:
        """What has ended stays at its last position, past which a model may have none."""
        self.ids = tokens[:, None].to(self.ids.device)
        self.mask = nn.functional.pad(self.mask, (0, 1), value=1)
        self.positions = self.positions[:, -1:] + alive[:, None].to(self.positions)


class Anew:
    """Everything read again for every token, padded on the right: for models whose memory of what they read is no
    cache of keys and values (Mamba), which would take padding on the left for text."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        self.body, self.head = split(model)
        self.rows, self.pad, self.device = [[*prompt] for prompt in prompts], pad, next(model.parameters()).device

    def logits(self) -> Tensor:
        """Of the next tokens, `[b, v]`."""
        width = max(map(len, self.rows))
        ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in self.rows], device=self.device)
        last = torch.tensor([len(row) - 1 for row in self.rows], device=self.device)
        return self.head(self.body(ids)[torch.arange(len(last), device=self.device), last])

    def append(self, tokens: Tensor, alive: Tensor) -> None:
        for row, token, goes_on in zip(self.rows, tokens.tolist(), alive.tolist(), strict=True):
            if goes_on:
                row.append(token)


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], longest: int, *generators: torch.Generator, eos: int, pad: int,
    banned: Sequence[int], tokens: int, temperature: float = 1.0, limits: Sequence[int] = (),
) -> list[list[int]]:  # fmt: skip
    """A response to each prompt, of at most `longest` tokens; an end-of-text token, where it was drawn, is its last.

    Args:
      generators: on the CPU; draws do not depend on where the model computes. Of several each has its turn, row by row,
        so that a prompt's first sample is the same however many follow it.
      banned: tokens never drawn, nor is any of id >= `tokens` (surplus rows of the embeddings).
      temperature: 0: the likeliest token each time, without a draw.
      limits: of each response its own longest, where they differ.
    """
    reading = (Cached if caches(without_adapters(model)) else Anew)(model, prompts, pad)
    drawn = torch.full((len(prompts), longest), pad, dtype=torch.long)
    lengths = torch.tensor(limits) if limits else torch.full((len(prompts),), longest)
    alive = torch.ones(len(prompts), dtype=torch.bool)
    for t in range(int(lengths.max())):
        logits = reading.logits().float().cpu() / (temperature or 1.0)
        forbid(logits, tokens, banned)
        token = draw(logits, *generators) if temperature else logits.argmax(-1)
        drawn[:, t] = torch.where(alive, token, pad)
        ended = alive & (token == eos)
        lengths[ended] = t + 1
        alive &= lengths > t + 1
        if not alive.any():
            break
        reading.append(token, alive)
    return [row[:length].tolist() for row, length in zip(drawn, lengths.tolist(), strict=True)]
