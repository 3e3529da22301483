"""What a reward model reads of the texts it judges: no control tokens but its own, and no more than it has room for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from methods.core import BadInput
from tasks.judges.reward_model import load_scorer
from tasks.language.core import UNFINISHED

WORDS = ["<unk>", "<|end|>", "a", "b", "c"]
POSITIONS = 8


def saved(folder: Path, rows: int = len(WORDS), config: str = "") -> tuple[str, Any]:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token=WORDS[0], eos_token=WORDS[1])
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=rows, n_positions=POSITIONS, n_embd=8, n_layer=1, n_head=2, num_labels=1,
                       bos_token_id=1, eos_token_id=1)  # fmt: skip
    model = GPT2ForSequenceClassification(sizes).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if config:
        (folder / "config.json").write_text(config)
    return str(folder), model


@torch.no_grad()
def expected(model: Any, ids: list[int]) -> float:
    return float(model.score(model.transformer(torch.tensor([ids])).last_hidden_state[0, -1])[0])


def test_a_control_token_that_a_response_spells_out_is_no_end(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "model")
    scored = load_scorer(path)(["a", "a", "a <|end|>"], ["b <|end|> c", "b" + UNFINISHED, "b"])
    rows = [[2, 3, 0, 4, 1], [2, 3], [2, 0, 3, 1]]
    assert scored == pytest.approx([expected(model, row) for row in rows], abs=1e-6)  # float32


def test_of_texts_beyond_its_positions_the_end_is_read(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "model")
    (score,) = load_scorer(path)(["a b " * 9], ["c a b"])
    assert score == pytest.approx(expected(model, [2, 3, 2, 3, 4, 2, 3, 1]), abs=1e-6)


def test_what_cannot_be_scored_is_one_line(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "few", rows=3)
    with pytest.raises(BadInput, match=r"its embeddings have 3 rows, and its tokenizer gives token 4: they do not"):
        load_scorer(path)(["a"], ["c"])
    with pytest.raises(BadInput, match="nothing to score where both prompt and response are empty"):
        load_scorer(path)([""], [UNFINISHED])
    for config in ("[]", "[" * 100_000, "null"):
        path, _ = saved(tmp_path / "damaged", config=config)
        with pytest.raises(BadInput, match=r"^no reward model '.*damaged': ") as caught:
            load_scorer(path)
        assert "\n" not in str(caught.value)
