"""What moves instead of tokens: continuous coordinates of a response, from which tokens are decoded.

A response y0 ~ pi_SFT is the starting point; its prompt, length and end-of-text token never change. A surrogate has
coordinates z of the tokens between, a map to embeddings of the reward model, through which dr/dz is exact, and a
decoder back to tokens. Rows are particles `[b]`, prompt by prompt; t runs over the longest response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from methods.language.models import forbid, response_logits, wide
from methods.language.scoring import Scorer, behind
from methods.language.tokens import finished, join

_NEIGHBOURS = 512  # tokens over which the distance to the nearest embedding of the vocabulary is averaged


@dataclass(frozen=True)
class Frame:
    """What stays fixed while particles move."""

    prompts: Sequence[Sequence[int]]  # of every row
    ids: Tensor  # `[b, l]`: the prompt's last token, response and end of text, padded on the right
    places: Tensor  # `[b, t]`: where the response's tokens stand in `ids`
    last: Tensor  # `[b]`: where the reward is read
    start: Tensor  # y0 `[b, t]`
    editable: Tensor  # `[b, t]` bool: response tokens that are not the end of text
    logits: Tensor  # of SFT, `[b, t, v]`, teacher-forced on y0; -inf where a token may not be chosen
    scorer: Scorer
    table: Tensor  # `[v, d]`: the reward model's embeddings; no surplus rows

    @property
    def length(self) -> Tensor:
        """Editable tokens `[b]`, at least 1."""
        return self.editable.sum(1).clamp(min=1)

    def score(self, embeds: Tensor) -> Tensor:
        """Normalised reward `[b]` of responses given by embeddings `[b, t, d]`."""
        reader, model = self.scorer.reader, self.scorer.model
        given = reader.body.get_input_embeddings()(self.ids).detach()
        index = self.places[..., None].expand(-1, -1, given.shape[-1])
        mixed = torch.where(self.editable[..., None], embeds, wide(given).gather(1, index))
        hidden = reader.hidden(self.prompts, embeds=given.scatter(1, index, mixed.to(given.dtype)))
        return model.normalised(model.at(self.last, hidden))

    def responses(self, tokens: Tensor, lengths: Sequence[int]) -> list[list[int]]:
        """Tokens `[b, t]` as lists of the starting points' lengths."""
        return [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]


def frame(
    sft: Any, scorer: Scorer, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *,
    banned: Sequence[int], tokens: int,
) -> Frame:  # fmt: skip
    """The frame of responses to prompts, row by row; one teacher-forced pass of the SFT model."""
    for weight in scorer.model.parameters():
        weight.requires_grad_(False)  # gradients are of texts alone
    texts, device = [finished(response, scorer.eos) for response in responses], scorer.reader.body.device
    scored, width = behind(prompts, texts, scorer.pad, device), max(map(len, responses))
    count = torch.arange(width, device=device)
    lengths = torch.tensor([len(response) for response in responses], device=device)
    places = torch.minimum(scored.starts[:, None] + count, scored.last[:, None])  # past the end: the end of text
    start = scored.ids.gather(1, places)
    editable = (count < lengths[:, None]) & (start != scorer.eos)
    with torch.no_grad():
        logits = response_logits(sft, join(prompts, texts, scorer.pad, device), width)[..., :tokens]
        forbid(logits, tokens, [scorer.eos, *banned])
    table = scorer.model.table(tokens)
    return Frame(prompts, scored.ids, places, scored.last, start, editable, logits, scorer, table)


class Swaps(NamedTuple):
    """Changes of one token, in the order in which they are to be tried."""

    places: Tensor  # `[b, m]`
    tokens: Tensor  # `[b, m]`
    possible: Tensor  # `[b, m]` bool


def ranked(worth: Tensor, tokens: Tensor, count: int) -> Swaps:
    """Of each place the other token that is worth most, the best places first; from `worth` `[b, t, k]` of tokens
    `[b, t, k]`, -inf where a token may not stand."""
    best, chosen = worth.max(-1)
    value, places = best.topk(min(count, best.shape[1]), dim=1)
    others = tokens.gather(-1, chosen[..., None]).squeeze(-1)
    return Swaps(places, others.gather(1, places), torch.isfinite(value))


def accepted(
    swaps: Swaps, texts: Sequence[Sequence[int]], worth: Tensor, score: Callable[[list[list[int]]], Tensor]
) -> tuple[list[list[int]], Tensor]:
    """Texts that take in one swap after the other where `score` `[b]` of the text with it is more than before, from
    `worth` `[b]` on; and what they are worth then."""
    found = [[*text] for text in texts]
    columns = (swaps.places.T.tolist(), swaps.tokens.T.tolist(), swaps.possible.T.tolist())
    for places, tokens, possible in zip(*columns, strict=True):
        tried = [[*text] for text in found]
        for text, place, token, good in zip(tried, places, tokens, possible, strict=True):
            if good:
                text[place] = token
        after = score(tried)
        better = after > worth
        found = [b if taken else a for a, b, taken in zip(found, tried, better.tolist(), strict=True)]
        worth = torch.where(better, after, worth)
    return found, worth


class Surrogate(Protocol):
    """`coords` and the gradient live in one space `[b, c]`, the same for all particles, where kernels compare them;
    `gather` takes a direction there back to the particle's own `z`."""

    def init(self) -> Tensor:
        """z `[b, t, k]` of the starting points."""

    def grad(self, z: Tensor) -> Tensor:
        """dr/dz `[b, t, k]`; 0 where nothing may change."""

    def coords(self, z: Tensor) -> Tensor:
        """`[b, c]`."""

    def spread(self, values: Tensor) -> Tensor:
        """Values `[b, t, k]` at a particle's own coordinates, in the common space `[b, c]`."""

    def gather(self, values: Tensor) -> Tensor:
        """The reverse of `spread`."""

    def decode(self, z: Tensor) -> Tensor:
        """Tokens `[b, t]`."""

    def soft(self, z: Tensor) -> Tensor:
        """The reward `[b]` that gradients climb, before anything is decoded."""

    def proposals(self, z: Tensor, count: int, *, moved: bool = False) -> Swaps:
        """At most `count` swaps of one token of y0, the first ones first: those that z is nearest to or furthest past,
        or, if `moved`, those towards which it moved furthest."""

    @property
    def unit(self) -> float:
        """A length in z that a step size of 1 stands for, a token."""


class Simplex:
    """Logits z over a few candidates a position: the likeliest tokens under SFT, and y0's own.

    z0 = SFT's logits, but max + bonus for y0's token. The embedding is the mean under p = softmax(z / tau), the
    gradient the exact one through it, particles are compared by p, and the decoder takes the largest z.
    """

    unit = 1.0

    def __init__(self, frame: Frame, *, candidates: int = 8, bonus: float = 2.0, tau: float = 1.0) -> None:
        self.frame, self.bonus, self.tau = frame, bonus, tau
        count = min(candidates, frame.logits.shape[-1])
        top, likeliest = frame.logits.topk(count, dim=-1)
        own = frame.start[..., None]
        self.tokens = torch.cat([own, likeliest], dim=-1)  # `[b, t, k]`, y0 first
        others = (likeliest != own) & torch.isfinite(top) & frame.editable[..., None]
        self.valid = torch.cat([torch.ones_like(own, dtype=torch.bool), others], dim=-1)
        self.top = top
        # the common space has an axis for each token that is a candidate anywhere
        self.compact, index = torch.unique(self.tokens, return_inverse=True)
        steps = torch.arange(self.tokens.shape[1], device=own.device)[:, None] * len(self.compact)
        self.index = (index + steps).flatten(1)  # `[b, t k]`

    def init(self) -> Tensor:
        first = self.top[..., :1] + self.bonus
        first = torch.where(torch.isfinite(first), first, 0.0)  # no candidates: y0 alone
        return torch.cat([first, self.top], dim=-1).masked_fill(~self.valid, -torch.inf)

    def probabilities(self, z: Tensor) -> Tensor:
        return torch.softmax(z / self.tau, dim=-1)

    def embed(self, z: Tensor) -> Tensor:
        return (self.probabilities(z)[..., None] * self.frame.table[self.tokens]).sum(-2)

    def grad(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.frame.score(self.embed(leaf)).sum(), leaf)
        return torch.where(self.valid & self.frame.editable[..., None], found, 0.0)

    @torch.no_grad()
    def soft(self, z: Tensor) -> Tensor:
        return self.frame.score(self.embed(z))

    def proposals(self, z: Tensor, count: int, *, moved: bool = False) -> Swaps:
        z = z - torch.where(self.valid, self.init(), 0.0) if moved else z
        ahead = torch.where(self.frame.editable[..., None], z[..., 1:] - z[..., :1], -torch.inf)
        return ranked(ahead.masked_fill(~self.valid[..., 1:], -torch.inf), self.tokens[..., 1:], count)

    def coords(self, z: Tensor) -> Tensor:
        return self.spread(torch.where(self.frame.editable[..., None], self.probabilities(z), 0.0))

    def spread(self, values: Tensor) -> Tensor:
        space = torch.zeros(
            len(values), self.tokens.shape[1] * len(self.compact), device=values.device, dtype=values.dtype
        )
        # y0 stands twice where it is among the likeliest; its second place is not valid and holds 0
        return space.scatter_add(1, self.index, torch.where(self.valid, values, 0.0).flatten(1))

    def gather(self, values: Tensor) -> Tensor:
        found = values.gather(1, self.index).reshape(self.tokens.shape)
        return torch.where(self.valid & self.frame.editable[..., None], found, 0.0)

    def decode(self, z: Tensor) -> Tensor:
        best = z.argmax(-1, keepdim=True)
        return torch.where(self.frame.editable, self.tokens.gather(-1, best).squeeze(-1), self.frame.start)


class Embedding:
    """Vectors z, which start as the reward model's embeddings of y0; gradients are taken at the decoded tokens and
    passed straight through to z.

    With D = z - E[y0], a position decodes to argmax_v <D, E_v - E_y0> - |E_v - E_y0|^2 / 2 + tau_f delta^2 min(0,
    l_v - l_y0), that is the token nearest to z, if `fluency` tau_f is 0; delta^2 is the mean squared distance from a
    token's embedding to its nearest neighbour, l are SFT's logits. `candidates` 0 means every token: with no fluency
    that is the paper read literally ("Dec maps to the nearest token embedding").
    """

    def __init__(self, frame: Frame, *, candidates: int = 8, fluency: float = 1.0) -> None:
        self.frame, self.fluency, self.k = frame, fluency, candidates
        self.origin = frame.table[frame.start]  # `[b, t, d]`
        allowed = torch.isfinite(frame.logits).any(1).any(0)
        own = frame.start[..., None]
        if candidates:
            top, likeliest = frame.logits.topk(min(candidates, frame.logits.shape[-1]), dim=-1)
            self.tokens = torch.cat([own, likeliest], dim=-1)
            self.valid = torch.cat([torch.ones_like(own, dtype=torch.bool), torch.isfinite(top)], dim=-1)
        else:
            self.tokens = torch.cat([own, torch.arange(len(allowed), device=own.device).expand(*own.shape[:2], -1)], -1)
            self.valid = torch.cat([torch.ones_like(own, dtype=torch.bool), allowed.expand(*own.shape[:2], -1)], -1)

    @cached_property
    def delta2(self) -> float:
        table = self.frame.table
        some = torch.arange(0, len(table), max(1, len(table) // _NEIGHBOURS), device=table.device)[:_NEIGHBOURS]
        distances = torch.cdist(table[some], table, compute_mode="donot_use_mm_for_euclid_dist")  # exact
        distances.scatter_(1, some[:, None], torch.inf)  # none is its own neighbour
        return float(distances.min(1).values.square().mean())

    @property
    def unit(self) -> float:
        return float(self.delta2**0.5)

    def init(self) -> Tensor:
        return self.origin.clone()

    @torch.no_grad()
    def soft(self, z: Tensor) -> Tensor:
        return self.frame.score(z)

    def proposals(self, z: Tensor, count: int, *, moved: bool = False) -> Swaps:
        value = self._worth(z)
        if moved:
            value = value - torch.where(self.valid, self._worth(self.origin), 0.0)
        allowed = self.frame.editable[..., None] & (self.tokens != self.frame.start[..., None])
        ahead = torch.where(allowed, value - value[..., :1], -torch.inf)
        return ranked(ahead[..., 1:], self.tokens[..., 1:], count)

    def _worth(self, z: Tensor) -> Tensor:
        """Of every candidate, y0's own token first, `[b, t, k]`; -inf of those that are none."""
        table, own = self.frame.table, self.frame.start[..., None]
        # |E_v - z|^2 over the vocabulary, from which candidates are taken: no `[b, t, k, d]` stands in memory
        nearness = z @ table.T - 0.5 * table.square().sum(-1)
        value = nearness.gather(-1, self.tokens)
        if self.fluency:
            logits = self.frame.logits.gather(-1, self.tokens)
            before = self.frame.logits.gather(-1, own)
            drop = torch.where(torch.isfinite(before), logits - before, 0.0).clamp(max=0.0)
            value = value + self.fluency * self.delta2 * torch.nan_to_num(drop, nan=0.0)
        value[..., 0] = nearness.gather(-1, own).squeeze(-1)  # y0's own token pays no fluency
        return value.masked_fill(~self.valid, -torch.inf)

    def decode(self, z: Tensor) -> Tensor:
        best = self._worth(z).argmax(-1, keepdim=True)
        return torch.where(self.frame.editable, self.tokens.gather(-1, best).squeeze(-1), self.frame.start)

    def grad(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = self.frame.table[self.decode(z)].requires_grad_(True)
            (found,) = torch.autograd.grad(self.frame.score(leaf).sum(), leaf)
        return torch.where(self.frame.editable[..., None], found, 0.0)

    def coords(self, z: Tensor) -> Tensor:
        return self.spread(torch.where(self.frame.editable[..., None], z, 0.0))

    def spread(self, values: Tensor) -> Tensor:
        return values.flatten(1)

    def gather(self, values: Tensor) -> Tensor:
        return torch.where(self.frame.editable[..., None], values.reshape(self.origin.shape), 0.0)
