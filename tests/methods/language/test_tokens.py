"""What responses may hold."""

from __future__ import annotations

from dataclasses import replace

from tokenizers import AddedToken

from tests.methods.language.common import WORDS, texts


def test_no_special_token_is_ever_drawn_whatever_it_is_called() -> None:
    """Pythia's "<|padding|>" is special, yet no named one of its tokenizer."""
    corpus = texts()
    corpus.tokenizer.add_tokens([AddedToken("<|padding|>", special=True), AddedToken("word", special=False)])
    ids = {name: corpus.tokenizer.convert_tokens_to_ids(name) for name in ("<|padding|>", "word", *WORDS)}
    found = replace(corpus).banned
    assert ids["<|padding|>"] in found and corpus.pad in found
    assert not {ids["word"], corpus.eos, *(ids[word] for word in WORDS)} & set(found)
