"""Texts as tokens: a word tokenizer built from a corpus, prompts and responses cut to size, padded batches.

Prompt and response are tokenised apart, so that where one ends and the other begins never depends on how words merge.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from methods.core import BadInput

Ids = list[int]
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
UNFINISHED = " …"  # as `tasks.language.core.UNFINISHED`: what judges see at the end of a response that was cut off


def word_tokenizer(texts: Sequence[str]) -> Any:
    """A tokenizer with a token a word, as a transformers one. Words are ordered, so equal corpora give equal ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.split()} - {PAD, EOS, UNKNOWN})
    vocabulary = {word: i for i, word in enumerate([PAD, EOS, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def vocabulary_hash(tokenizer: Any) -> str:
    """Of tokens and their ids: equal for models that can share embeddings and texts."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    """Ids of texts as they read: a control token that one spells out ("<|endoftext|>") is text like any other.

    Raises:
      BadInput: a text that the tokenizer cannot tell from a control token.
    """
    found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = special_ids(tokenizer)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id:
        control -= {unknown}
    rows = []
    for text, ids in zip(texts, found, strict=True):
        if not control.isdisjoint(ids):  # a vocabulary that has control tokens among its words finds them there
            if unknown is None or unknown in control:
                shown = tokenizer.convert_ids_to_tokens(next(i for i in ids if i in control))
                raise BadInput(f"text {text[:60]!r}: its tokenizer reads a part of it as the control token {shown!r}")
            ids = [unknown if i in control else i for i in ids]
        rows.append(list(ids))
    return rows


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of control tokens, named (`pad_token`) or only added."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {int(i) for i in added | {*tokenizer.all_special_ids}}


def begins(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its beginning of text before what it reads, as its models were trained to expect."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and list(ids[:1]) == [tokenizer.bos_token_id]


class Exchange(NamedTuple):
    """A prompt and a response; the response has its end-of-text token unless it was cut off."""

    prompt: Ids
    response: Ids


@dataclass(frozen=True)
class Texts:
    """A corpus (`tasks.language.core.Corpus`) through a tokenizer."""

    corpus: Any
    tokenizer: Any
    max_prompt: int
    max_response: int
    bos: str = "auto"  # "on" | "off" | "auto": a beginning of text where the tokenizer puts one itself
    chat_template: bool = False

    @cached_property
    def eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def pad(self) -> int:
        """Never the end-of-text token: that one is learned and scored, padding is not."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None and pad != self.eos else int(self.eos == 0)

    @cached_property
    def around(self) -> tuple[Ids, Ids]:
        """What stands before and after a prompt's own tokens: a beginning of text, the chat template's of a user's turn
        whose answer comes next. Raises: BadInput: the tokenizer has none."""
        before, after = self._turn() if self.chat_template else (Ids(), Ids())
        bos = self.tokenizer.bos_token_id
        if self.bos == "on" and bos is None:
            raise BadInput("bos=on: the tokenizer has no beginning of text")
        wanted = self.bos == "on" or (self.bos == "auto" and not self.chat_template and begins(self.tokenizer))
        return ([int(bos), *before] if wanted and before[:1] != [bos] else before), after

    def _turn(self) -> tuple[Ids, Ids]:
        if not self.tokenizer.chat_template:
            raise BadInput("chat_template=on: the tokenizer has no template for chats")
        mark = "PROMPT"
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False,
                                                  add_generation_prompt=True)  # fmt: skip
        if text.count(mark) != 1:
            raise BadInput(f"chat_template=on: the template makes {text[:60]!r} of {mark!r}, in which that does not "
                           "stand once")  # fmt: skip
        before, after = (self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(mark))
        return list(before), list(after)

    @cached_property
    def banned(self) -> Ids:
        """Special tokens other than the end of text: no response holds them."""
        return sorted(special_ids(self.tokenizer) - {self.eos})

    @cached_property
    def size(self) -> int:
        """Tokens; embeddings may have more rows, which stand for nothing."""
        return len(self.tokenizer)

    def ended(self, ids: Ids) -> Ids:
        """A response with its end-of-text token, or cut to the longest."""
        return [*ids, self.eos][: self.max_response]

    def decode(self, ids: Sequence[int]) -> str:
        """A response's text; one that was cut off says so at its end."""
        ended = bool(len(ids)) and int(ids[-1]) == self.eos
        text = self.tokenizer.decode([int(i) for i in ids if int(i) != self.eos], clean_up_tokenization_spaces=False)
        return str(text) + ("" if ended else UNFINISHED)

    def retokenised(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """Of each response, whether its text is read as other tokens than it was written in: judges, and reward models
        of text, then see another sequence."""
        written = [[int(i) for i in ids if int(i) != self.eos] for ids in responses]
        found = []
        for ids in written:
            text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            try:
                found.append(plain_ids(self.tokenizer, [text])[0] != ids if text else bool(ids))
            except BadInput:  # read as a control token, which no response holds
                found.append(True)
        return found

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        return {}

    def examples(self, split: str) -> list[tuple[Exchange, Any]]:
        """(tokens, example) of every example whose prompt is short enough."""
        return self._cut("examples", split, lambda prompt, reference: Exchange(prompt, reference))

    def preferences(self, split: str) -> list[tuple[tuple[Ids, Ids, Ids], Any]]:
        """((prompt, chosen, rejected), preference) likewise."""

        return self._cut("preferences", split, lambda prompt, chosen, rejected: (prompt, chosen, rejected))

    def _cut(self, kind: str, split: str, tokens: Any) -> list[Any]:
        """Rows whose prompt is short enough, each behind what `tokens` makes of its texts' ids."""
        if (kind, split) not in self._kept:
            rows = getattr(self.corpus, kind)(split)
            prompts, *others = ([row[k] for row in rows] for k in range(len(rows[0])))
            firsts, *rest = (plain_ids(self.tokenizer, column) for column in (prompts, *others))
            before, after = self.around
            firsts = [[*before, *ids, *after] for ids in firsts]
            columns = [firsts, *([self.ended(ids) for ids in column] for column in rest)]
            found = [(tokens(*ids), row) for *ids, row in zip(*columns, rows, strict=True)]
            self._kept[kind, split] = [one for one in found if len(one[0][0]) <= self.max_prompt]
            if not self._kept[kind, split]:
                raise BadInput(f"{split} {kind}: every prompt is longer than {self.max_prompt} tokens")
        return self._kept[kind, split]

    def longest(self) -> int:
        """Tokens of the longest prompt that is used, of any split."""
        found = [0]
        for kind, splits in (("examples", self.corpus.of_examples), ("preferences", self.corpus.of_preferences)):
            for split in splits:
                with contextlib.suppress(BadInput):  # one without a prompt that is short enough
                    found += [len(tokens[0]) for tokens, _ in getattr(self, kind)(split)]
        return max(found)

    def prompts(self, split: str, count: int) -> list[tuple[Exchange, Any]]:
        """The first `count` examples of a split. Raises `BadInput` where it has fewer."""
        rows = self.examples(split)
        if len(rows) < count:
            raise BadInput(
                f"--episodes {count}: split {split!r} has {len(rows)} prompts of at most {self.max_prompt} tokens"
            )
        return rows[:count]


class Batch(NamedTuple):
    """Prompts with responses, padded on the right, which causal attention never sees."""

    ids: torch.Tensor  # `[b, l]`
    starts: torch.Tensor  # `[b]`: where responses start
    last: torch.Tensor  # `[b]`: index of the last token

    @property
    def response_mask(self) -> torch.Tensor:
        """`[b, l]`, true at the responses' tokens."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (places >= self.starts[:, None]) & (places <= self.last[:, None])


def join(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad: int, device: Any = "cpu") -> Batch:
    """Prompts, each followed by its response."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    ids = torch.full((len(lengths), max(lengths)), pad, dtype=torch.long)
    for row, (prompt, response) in zip(ids, zip(prompts, responses, strict=True), strict=True):
        row[: len(prompt) + len(response)] = torch.tensor([*prompt, *response])
    starts, last = torch.tensor([len(p) for p in prompts]), torch.tensor(lengths) - 1
    return Batch(ids.to(device), starts.to(device), last.to(device))


def finished(response: Sequence[int], eos: int) -> list[int]:
    """The response as reward models know it: with an end-of-text token, which scoring appends to one cut off."""
    return [*response] if len(response) and response[-1] == eos else [*response, eos]
