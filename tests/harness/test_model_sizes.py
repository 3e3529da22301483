"""Checkpoints that are too small for the texts: one line before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hub
from tokenizers import AddedToken

from harness.backbones import check_sizes
from harness.record import read_run
from methods.core import BadInput
from methods.language.core import LanguageConfig
from methods.language.tokens import Texts, word_tokenizer
from tasks.core import Provenance
from tasks.language.core import Corpus, Example
from tests.harness.test_language import go, run_of

WORDS = ["a", "b", "c"]  # with three control tokens, ids 0 to 5
PROMPT, RESPONSE = 9, 6  # of the longest prompt; as many as a response may have
SIZES: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
KINDS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda n, **more: hub.GPT2Config(n_positions=n, n_embd=8, n_layer=1, n_head=2, **more),
    "gptj": lambda n, **more: hub.GPTJConfig(n_positions=n, n_embd=8, n_layer=1, n_head=2, rotary_dim=4, **more),
    "mpt": lambda n, **more: hub.MptConfig(max_seq_len=n, d_model=8, n_layers=1, n_heads=2, **more),
    "opt": lambda n, **more: hub.OPTConfig(
        max_position_embeddings=n, hidden_size=8, word_embed_proj_dim=8, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=8, **more),
    "neox": lambda n, **more: hub.GPTNeoXConfig(
        max_position_embeddings=n, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        **more),
    "bloom": lambda n, **more: hub.BloomConfig(hidden_size=8, n_layer=1, n_head=2, **more),
}  # fmt: skip


def saved(folder: Path, kind: str, positions: int, rows: int = 8, tokenizer: Any = None, reward: bool = False) -> str:
    config = KINDS[kind](positions, vocab_size=rows, num_labels=1, **SIZES)
    made = hub.AutoModelForSequenceClassification if reward else hub.AutoModelForCausalLM
    made.from_config(config).save_pretrained(folder)
    (tokenizer or word_tokenizer(WORDS)).save_pretrained(folder)
    return str(folder)


def corpus(tokenizer: Any = None) -> Texts:
    examples = {"train": [Example("a b", "c"), Example(" ".join("a" * PROMPT), "b")], "test": [Example("a", "b")]}
    texts = Corpus(examples, {}, Provenance("one", "0", "given"))
    return Texts(texts, tokenizer or word_tokenizer(WORDS), 400, RESPONSE)


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "mpt", "opt"])
def test_a_table_of_positions_must_have_room(tmp_path: Path, kind: str) -> None:
    """For the texts as they are: 400 tokens of prompt would be allowed, the longest has nine."""
    enough = PROMPT + RESPONSE + 1
    check_sizes(LanguageConfig(model=saved(tmp_path / "fits", kind, enough)), corpus())
    short = saved(tmp_path / "short", kind, enough - 1)
    with pytest.raises(BadInput) as caught:
        check_sizes(LanguageConfig(model=short), corpus())
    assert str(caught.value) == (f"model {short!r} has 15 positions, and 16 are needed: 9 for the longest prompt, "
                                 "6 for a response, 1 for the end of text")  # fmt: skip


@pytest.mark.parametrize("kind", ["neox", "bloom"])
def test_models_without_a_table_read_on(tmp_path: Path, kind: str) -> None:
    check_sizes(LanguageConfig(model=saved(tmp_path / "any", kind, 4)), corpus())


def test_the_policy_and_the_reward_model_are_looked_at_alike(tmp_path: Path) -> None:
    policy, judge = saved(tmp_path / "sft", "gpt2", 16), saved(tmp_path / "reward", "gpt2", 15, reward=True)
    with pytest.raises(BadInput, match=r"reward' has 15 positions, and 16 are needed"):
        check_sizes(LanguageConfig(sft_checkpoint=policy, reward_checkpoint=judge), corpus())
    check_sizes(LanguageConfig(model=judge, sft_checkpoint=policy), corpus())  # `model` is not used then


def test_every_token_that_texts_may_hold_has_an_embedding(tmp_path: Path) -> None:
    def with_token(name: str, special: bool) -> Any:
        tokenizer = word_tokenizer(WORDS)
        tokenizer.add_tokens([AddedToken(name, special=special)])
        return tokenizer

    plain, control = with_token("new", False), with_token("<image>", True)
    model = saved(tmp_path / "model", "gpt2", 99, rows=6)
    check_sizes(LanguageConfig(model=model), corpus(control))  # as Gemma's, whose text models have no row for images
    with pytest.raises(BadInput, match=r"its embeddings have 6 rows, and its tokenizer's token 'new' is number 6"):
        check_sizes(LanguageConfig(model=model), corpus(plain))
    control.pad_token = "<image>"
    with pytest.raises(BadInput, match=r"its tokenizer's token '<image>' is number 6"):
        check_sizes(LanguageConfig(model=model), corpus(control))


@pytest.mark.slow
def test_a_run_ends_with_that_line_before_it_trains(tmp_path: Path) -> None:
    from tasks.language.tldr_synthetic.suite import TASK as TLDR_TASK

    torch.manual_seed(0)
    tokenizer = word_tokenizer([text for example in TLDR_TASK.load("auto").examples("train") for text in example])
    short = saved(tmp_path / "short", "gpt2", 24, rows=len(tokenizer), tokenizer=tokenizer)
    done = go(tmp_path / "results", "--methods", "sft", "--set", f"model={short}", "--set", "measure_proxy=off")
    failed = [line.partition(f"failed: model {short!r} has 24 positions, and ")[0] for line in done.stderr.splitlines()]
    sft, run = "sft on tldr-synthetic: sft", "sft on tldr-synthetic"
    assert done.exit_code == 1 and failed[:-1] == [
        *(f"{sft}, seed {seed}: " for seed in (0, 1)), *(f"{run}, seed {seed}: failed: its sft " for seed in (0, 1))
    ]  # fmt: skip
    assert not list((tmp_path / "results").glob("artifacts/*/st*")), "nothing is stored"
    assert read_run(run_of(tmp_path / "results", "sft", 1))["status"] == "failed"


def test_control_tokens_without_a_row_are_no_obstacle(tmp_path: Path) -> None:
    """Sampling and moving particles ban them."""
    from methods.language.models import forbid

    logits = torch.zeros(2, 6)
    forbid(logits, 5, [0, 6, 7])
    assert torch.isinf(logits).any(0).tolist() == [True, False, False, False, False, True]
