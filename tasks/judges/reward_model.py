"""A reward model from a folder or the hub as a judge: transformers' sequence classification with one output.

Its head is read at the last token of the response, found by counting: what transformers pools by itself depends on the
padding token, which Pythia shares with the end of the text.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from core import checkpoints
from core.errors import BadInput, reason
from core.extras import install
from core.files import expanded
from tasks import SHIPPED, shipped
from tasks.judges.core import Scorer
from tasks.language.core import UNFINISHED


def load_scorer(model: str, batch: int = 16, longest: int = 1024) -> Scorer:
    """Scores of responses, in batches, on the GPU where there is one.

    A response is scored with the end-of-text token after it, as such models are trained, unless it was cut off. Prompt
    and response are tokenised apart; of more than `longest` tokens, or than the model has positions for, the first are
    left out.

    Raises:
      BadInput: transformers is not installed, or there is no such model, or one whose head is missing or has another
        shape, in one line.
    """
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from methods.language.models import positions, reads
        from methods.language.tokens import plain_ids
    except ImportError as error:
        raise BadInput(f"a reward model needs torch and transformers ({error}): {install('rlhf')}") from error
    place = str(_place(model)) if _place(model).is_dir() else model
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
        network: Any
        network, loaded = AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=1, output_loading_info=True
        )
    except Exception as error:  # whatever libraries make of strangers' files
        raise BadInput(f"no reward model {model!r}: {reason(error)[:200]}") from error
    # transformers fills these with random numbers, e.g. the whole head of a language model
    if random := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
        raise BadInput(f"no reward model {model!r}: its weights lack {', '.join(random[:3])}")
    if not hasattr(network, "score"):
        raise BadInput(f"no reward model {model!r}: a {type(network).__name__} has no head called 'score'")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"no reward model {model!r}: its tokenizer has no end-of-text token")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.eval()
    most = min(longest, positions(network.config) or longest)
    most = longest if reads(network, longest) else most
    network, known = network.to(device), network.get_input_embeddings().weight.shape[0]

    def tokens(prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        texts = [response.removesuffix(UNFINISHED) for response in responses]
        ends = [[] if response.endswith(UNFINISHED) else [tokenizer.eos_token_id] for response in responses]
        both = zip(plain_ids(tokenizer, prompts), plain_ids(tokenizer, texts), ends, strict=True)
        return [[*prompt, *response, *end][-most:] for prompt, response, end in both]

    @torch.no_grad()
    def scorer(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        rows = tokens(prompts, responses)
        if not all(rows):
            raise BadInput(f"reward model {model!r}: nothing to score where both prompt and response are empty")
        if (largest := max(map(max, rows), default=0)) >= known:
            raise BadInput(f"reward model {model!r}: its embeddings have {known} rows, and its tokenizer gives token "
                           f"{largest}: they do not belong together")  # fmt: skip
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # of about equal lengths in a batch
        scores = [0.0] * len(rows)
        for start in range(0, len(rows), batch):
            some = order[start : start + batch]
            width = max(len(rows[i]) for i in some)
            ids = torch.tensor([rows[i] + [tokenizer.eos_token_id] * (width - len(rows[i])) for i in some])
            last = torch.tensor([len(rows[i]) - 1 for i in some], device=device)
            mask = torch.arange(width, device=device) <= last[:, None]
            hidden = network.base_model(input_ids=ids.to(device), attention_mask=mask.long()).last_hidden_state
            found = network.score(hidden[torch.arange(len(some), device=device), last])[:, 0]
            for i, score in zip(some, found.float().tolist(), strict=True):
                scores[i] = score
        return scores

    return scorer


@cache
def weights(model: str) -> frozenset[str]:
    """SHA-256 of each file of weights in a folder or below it; none of a name that is no folder here."""
    return frozenset(checkpoints.weights(_place(model)))


@cache
def described(model: str) -> dict[str, Any]:
    """What a verdicts' record keeps of which model judged, whatever it is called: the SHA-256 of its files (`weights`),
    of its tensors, whatever they are called (`tensors`), of its folder (`contents`), and the stage that it was exported
    of, as the checkpoint.json beside it says (`stage`). All empty of a name that is no folder here."""
    place = _place(model)
    return {"weights": sorted(weights(model)), "tensors": checkpoints.tensors(place),
            "contents": checkpoints.whole(place), "stage": checkpoints.stage(place)}  # fmt: skip


def _marks(model: str) -> set[str]:
    """The same as a set."""
    found = described(model)
    return {*found["weights"], *found["tensors"], found["contents"], found["stage"]} - {""}


def names(model: str) -> set[str]:
    """All that a judge is known by: as it was called, what `described` says of it, and of a folder its path, every end
    of that ("owner/name" too) and the names of all folders above, one of which may be a stage's fingerprint."""
    found = {model, os.path.normpath(model), *_marks(model)}
    if _place(model).is_dir():
        parts = _place(model).resolve().parts
        found |= {str(Path(*parts[i:])) for i in range(len(parts))} | set(parts)
    return found


def optimised(checkpoint: str) -> set[str]:
    """What a checkpoint that a run recorded would share with `names` of a judge: path and what `described` says of it,
    or, where it no longer lies there, what it was called."""
    folder = _place(checkpoint)
    return {str(folder.resolve()), *_marks(checkpoint)} if folder.is_dir() else {os.path.normpath(checkpoint)}


def identity(model: str) -> str:
    """The judge's id: another one for other weights."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", Path(model).name).strip("-.")[:60]
    return f"reward-model-{slug}-{hashlib.sha256(' '.join(sorted(weights(model)) or [model]).encode()).hexdigest()[:8]}"


def _place(model: str) -> Path:
    """Where a model lies, if it is a folder; "shipped:NAME" is one beside the tasks."""
    if model.startswith(SHIPPED):
        return shipped(model)
    return expanded(Path(model))
