"""A reward model from a folder or the hub as a judge: transformers' sequence classification with one output.

Its head is read at the last token of the response, found by counting: what transformers pools by itself depends on the
padding token, which Pythia shares with the end of the text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from methods.core import BadInput
from tasks import fetch
from tasks.judges.core import Scorer
from tasks.language import UNFINISHED


def load_scorer(model: str, batch: int = 16, longest: int = 1024) -> Scorer:
    """Scores of responses, in batches, on the GPU where there is one.

    A response is scored with the end-of-text token after it, as such models are trained, unless it was cut off. Prompt
    and response are tokenised apart; of more than `longest` tokens the first are left out.

    Raises:
      BadInput: transformers is not installed, or there is no such model, in one line.
    """
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise BadInput(f"a reward model needs torch and transformers: {error}") from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        network: Any = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"no reward model {model!r}: {' '.join(str(error).split())[:200]}") from error
    if not hasattr(network, "score"):
        raise BadInput(f"no reward model {model!r}: a {type(network).__name__} has no head called 'score'")
    if tokenizer.eos_token_id is None:
        raise BadInput(f"no reward model {model!r}: its tokenizer has no end-of-text token")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()

    def tokens(prompt: str, response: str) -> list[int]:
        done = not response.endswith(UNFINISHED)
        of_prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        of_response = tokenizer(response.removesuffix(UNFINISHED), add_special_tokens=False)["input_ids"]
        return [*of_prompt, *of_response, *([tokenizer.eos_token_id] if done else [])][-longest:]

    @torch.no_grad()
    def scorer(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        rows = [tokens(*row) for row in zip(prompts, responses, strict=True)]
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


def names(model: str) -> set[str]:
    """All that a model is known by: as it was called; of a folder also its path, its own name (a fingerprint, of one
    that a stage made) and the SHA-256 of its weights."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return {model}
    weights = (fetch.digest(file) for file in sorted(folder.glob("*.safetensors")))
    return {model, str(folder.resolve()), folder.resolve().name, *weights}


def identity(model: str, known: set[str]) -> str:
    """The judge's id, given `names(model)`: another one for other weights."""
    weights = sorted(name for name in known if re.fullmatch("[0-9a-f]{64}", name)) or [model]
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", Path(model).name).strip("-.")[:60]
    return f"reward-model-{slug}-{hashlib.sha256(' '.join(weights).encode()).hexdigest()[:8]}"
