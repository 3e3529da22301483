"""Samples of the pretrained model and preferences among them: the step before `--suite tldr-local` can train.

    python -m tasks.collect tldr-local

SmolLM2 is shown three examples as turns of a chat and asked for a summary, once at each of three temperatures (all at 1
are mostly noise: the model is small, and quantised), by transformers' `generate`; the first line is the answer. Every
chunk of prompts is appended to a file as it is done, so a command that was stopped goes on. Then the gold reward labels
pairs: a over b with P = sigmoid((G(a) - G(b)) / 0.1), 5% of labels flipped.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from core import strict_json
from core.errors import BadInput
from core.files import draft_folder, write_json, write_lines
from tasks import sizes
from tasks.data import download
from tasks.language import local
from tasks.language.core import UNFINISHED, Example, Preference, fault
from tasks.language.tldr_local.gold import GOLD, RULE
from tasks.progress import bar

TEMPERATURE = 0.1  # of labels, in units of the gold reward
FLIPPED = 0.05  # of labels
SHOTS = 3  # examples that the model is shown
ABOUT = "about.json"


@dataclass(frozen=True)
class Recipe:
    """What is sampled, and how."""

    prompts: int = 400  # of the training split
    validation: int = 60  # prompts of the validation split
    temperatures: tuple[float, ...] = (0.5, 0.75, 1.0)  # of a prompt's samples: with its reference they make six pairs
    seed: int = 0
    chunk: int = 40  # prompts at a time
    longest: int = 24  # tokens

    @property
    def told(self) -> dict[str, Any]:
        """What records say of it."""
        labels = {"gold": RULE, "label_temperature": TEMPERATURE, "flipped": FLIPPED}
        own = asdict(self) | {"temperatures": list(self.temperatures)}
        return {**own, "model": local.LANGUAGE_MODEL, "shots": SHOTS, **labels}


def collect(recipe: Recipe, examples: dict[str, Sequence[Example]], identity: str, out: Path) -> Path:
    """Samples what is still to be sampled, labels the pairs, and writes `out`/train.jsonl and validation.jsonl, with
    what they are in about.json; nothing is done where they are there.

    Args:
      examples: by split; the first prompts of each are answered, the last training ones shown.
      identity: of the examples: samples of other texts are refused.

    Raises:
      BadInput: a wrong number, preferences made otherwise in that place, or the model cannot be had.
      KeyboardInterrupt: stopped; whole chunks stay.
    """
    for name, least in (("prompts", 1), ("validation", 1), ("seed", 0)):
        sizes.check_number(f"--{name}", getattr(recipe, name), least)
    wanted = {"train": recipe.prompts, "validation": recipe.validation}
    for split, count in wanted.items():
        if count > len(examples[split]) - SHOTS:
            raise BadInput(f"{count} prompts to sample from: split {split!r} has {len(examples[split])} pairs")
    about = {**recipe.told, "texts": identity}
    with download.locked(out, "sampling"):
        if out.is_dir():
            check(out, identity, about)
            return out
        chosen = {split: list(examples[split][:count]) for split, count in wanted.items()}
        kept = out.with_name(f"{out.name}.samples.jsonl")
        samples = _sampled(recipe, chosen, examples["train"][-SHOTS:], about, kept)
        try:
            with draft_folder(out) as draft:
                for split, rows in chosen.items():
                    pairs = list(labelled(rows, samples[split], recipe.seed))
                    write_lines(draft / f"{split}.jsonl", (json.dumps(row._asdict()) for row in pairs))
                write_json(draft / ABOUT, about)
        except OSError as error:
            raise download.unwritable(out, error) from error
        kept.unlink(missing_ok=True)
    return out


def check(folder: Path, identity: str, wanted: dict[str, Any] | None = None) -> dict[str, Any]:
    """What preferences in a folder are. Raises: BadInput: of other texts, labelled by another gold reward, or made
    otherwise than `wanted`."""
    told = strict_json.parse_line((folder / ABOUT).read_bytes(), str(folder / ABOUT))
    for key, value in (wanted or {"texts": identity, "gold": RULE}).items():
        if told.get(key) != value:
            raise BadInput(f"{folder} was made with {key} {told.get(key)}, not {value}; remove it to sample anew "
                           "(python -m tasks.collect tldr-local)")  # fmt: skip
    return dict(told)


def labelled(rows: Sequence[Example], samples: Sequence[Sequence[str]], seed: int) -> Iterator[Preference]:
    """Every pair among a prompt's reference and samples, texts that are empty or alike left out, labelled by gold with
    noise of its own."""
    draw = random.Random(f"tldr-local/labels/{seed}")
    asked = [(row.prompt, text) for row, own in zip(rows, samples, strict=True) for text in (row.reference, *own)]
    gold = dict(zip(asked, GOLD.many(asked), strict=True))
    for row, own in zip(rows, samples, strict=True):
        for a, b in combinations(dict.fromkeys((row.reference, *own)), 2):
            first = draw.random() < preferred(gold[row.prompt, a], gold[row.prompt, b])
            if not fault(a, b):
                yield Preference(row.prompt, a, b) if first else Preference(row.prompt, b, a)


def preferred(a: float, b: float) -> float:
    """The probability that a response of gold reward a is labelled as better than one of b."""
    chance = 1.0 / (1.0 + math.exp(-(a - b) / TEMPERATURE))
    return (1.0 - FLIPPED) * chance + FLIPPED * (1.0 - chance)


def _sampled(
    recipe: Recipe, chosen: dict[str, list[Example]], shown: Sequence[Example], about: dict[str, Any], path: Path
) -> dict[str, list[list[str]]]:
    """Samples of every prompt by split, from the file `path` as far as they are there."""
    # by length: what stands together in a pass is padded to the longest
    rows = sorted((row for split in chosen.values() for row in split), key=lambda row: (len(row.prompt), row.prompt))
    found = _kept(path, about)[: len(rows)]
    model = None
    with bar("sampling", len(rows), len(found), "prompts") as advance:
        while len(found) < len(rows):
            model = model or Sampler(recipe, shown)
            some = rows[len(found) : len(found) + recipe.chunk]
            new = model(some, len(found))
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(own) + "\n" for own in new)
            found += new
            advance(len(some))
    answers = dict(zip((row.prompt for row in rows), found, strict=True))
    return {split: [answers[row.prompt] for row in own] for split, own in chosen.items()}


def _kept(path: Path, about: dict[str, Any]) -> list[list[str]]:
    """What an earlier command sampled: a line on what it is, then one a prompt; a last line that breaks off does not
    count, nor do its chunk's others, so that every chunk is drawn whole."""
    head = json.dumps(about, sort_keys=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and lines[0].rstrip("\n") != head:
        raise BadInput(f"{path} holds samples of another kind; remove it, or ask for the same")
    whole = [line for line in lines[1:] if line.endswith("\n")]
    whole = whole[: len(whole) // about["chunk"] * about["chunk"]]
    write_lines(path, [head, *(line.rstrip("\n") for line in whole)])
    return [strict_json.parse_line(line.encode(), str(path)) for line in whole]


class Sampler:
    """The pretrained model with examples in its context, whose keys and values are computed once."""

    def __init__(self, recipe: Recipe, shown: Sequence[Example]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = local.place(local.LANGUAGE_MODEL)
        self.torch, self.recipe = torch, recipe
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.pad = self.tokenizer.pad_token_id
        # an end of text, or of the line: byte-level vocabularies spell that as this letter
        lines = [number for token, number in self.tokenizer.get_vocab().items() if "\u010a" in token]
        self.ends = [self.tokenizer.eos_token_id, *sorted(lines)]
        turns = "".join(f"{_turn(row.prompt)}{row.reference.strip()}<|im_end|>\n" for row in shown)
        self.prefix = self._ids(turns)
        with torch.no_grad():
            self.seen = self.model(torch.tensor([self.prefix]), use_cache=True).past_key_values

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def __call__(self, rows: Sequence[Example], first: int) -> list[list[str]]:
        """A response to each prompt at every temperature, with the mark of those that have no end; draws depend on the
        seed and on `first`, the first prompt's place."""
        torch = self.torch
        asked = [self._ids(_turn(row.prompt)) for row in rows]
        width = max(map(len, asked))
        ids = torch.tensor([[*self.prefix, *[self.pad] * (width - len(own)), *own] for own in asked])
        mask = torch.ones_like(ids)
        for row, own in zip(mask, asked, strict=True):
            row[len(self.prefix) : len(self.prefix) + width - len(own)] = 0
        seen = copy.deepcopy(self.seen)
        seen.batch_repeat_interleave(len(ids))
        places, there = mask.cumsum(1) - 1, len(self.prefix)
        with torch.no_grad():  # all but the last token, which `generate` begins with
            self.model(ids[:, there:-1], attention_mask=mask[:, :-1], position_ids=places[:, there:-1],
                       past_key_values=seen, use_cache=True, logits_to_keep=1)  # fmt: skip
        torch.manual_seed(1_000_003 * self.recipe.seed + first)
        found = [self._drawn(ids, mask, seen, temperature) for temperature in self.recipe.temperatures]
        return [list(own) for own in zip(*found, strict=True)]

    def _drawn(self, ids: Any, mask: Any, seen: Any, temperature: float) -> list[str]:
        with self.torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=mask, past_key_values=copy.deepcopy(seen), do_sample=True, temperature=temperature,
                top_k=0, top_p=1.0, max_new_tokens=self.recipe.longest, eos_token_id=self.ends, pad_token_id=self.pad,
            )  # fmt: skip
        return [self._text(row.tolist()) for row in out[:, ids.shape[1] :]]

    def _text(self, ids: list[int]) -> str:
        """The first line; what has no end is cut off."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return f" {text.strip()}" + ("" if end is not None else UNFINISHED)


def _turn(asked: str) -> str:
    """A prompt as a user's turn, with the assistant's begun."""
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
