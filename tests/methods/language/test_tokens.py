"""What texts become, and what responses may hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from methods.core import BadInput
from methods.language.tokens import EOS, PAD, Texts, plain_ids, special_ids, word_tokenizer
from tasks.core import Provenance
from tasks.language.core import Corpus, Example
from tests.methods.language.common import WORDS, texts


def test_no_special_token_is_ever_drawn_whatever_it_is_called() -> None:
    """Pythia's "<|padding|>" is special, yet no named one of its tokenizer."""
    corpus = texts()
    corpus.tokenizer.add_tokens([AddedToken("<|padding|>", special=True), AddedToken("word", special=False)])
    ids = {name: corpus.tokenizer.convert_tokens_to_ids(name) for name in ("<|padding|>", "word", *WORDS)}
    found = replace(corpus).banned
    assert ids["<|padding|>"] in found and corpus.pad in found
    assert not {ids["word"], corpus.eos, *(ids[word] for word in WORDS)} & set(found)


def byte_pairs() -> Any:
    """As GPT-2's and Pythia's: one control token, which is the end of text, and no unknown one."""
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    found.train_from_iterator(["the cat sat on the mat", "endoftext"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<|endoftext|>")


def unigrams() -> Any:
    """As XGLM's: control tokens are pieces like any other, which the likeliest segmentation finds in texts."""
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((sign, -4.0) for sign in "<>/sabc")]
    found = Tokenizer(models.Unigram(pieces, unk_id=0))
    found.pre_tokenizer, found.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="</s>", unk_token="<unk>")


SPELLED = {
    "words": (lambda: word_tokenizer(["a b c", f"{EOS} a {PAD}"]), f"a {EOS} b {PAD} c"),
    "byte pairs": (byte_pairs, "the cat<|endoftext|> sat"),
    "unigrams": (unigrams, "a</s> b"),
}


@pytest.mark.parametrize("kind", SPELLED)
def test_a_control_token_that_a_text_spells_out_is_text(kind: str) -> None:
    make, text = SPELLED[kind]
    tokenizer = make()
    example = Corpus({"test": [Example(text, text)]}, {}, Provenance("one", "0", "given"))
    ((tokens, _),) = Texts(example, tokenizer, 99, 99).examples("test")
    control = special_ids(tokenizer) - {tokenizer.unk_token_id}
    assert tokenizer.eos_token_id in control
    assert control.isdisjoint(tokens.prompt), tokens.prompt
    assert tokens.response == [*tokens.prompt, tokenizer.eos_token_id], "the end of text is ours alone"
    if kind == "byte pairs":
        assert Texts(example, tokenizer, 99, 99).decode(tokens.response) == text, "and it reads as it did"


def test_texts_without_control_tokens_are_tokenised_as_ever() -> None:
    tokenizer = byte_pairs()
    plain = ["the cat", "on the mat <| endoftext |>", ""]
    assert plain_ids(tokenizer, plain) == tokenizer(plain, add_special_tokens=False)["input_ids"]


def test_a_corpus_s_control_words_take_no_control_token_s_number() -> None:
    tokenizer = word_tokenizer([f"a {EOS} {PAD} b"])
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1) and len(tokenizer) == 5


def test_what_cannot_be_told_from_a_control_token_is_refused() -> None:
    """Words that are unknown, in a vocabulary whose word for them is the end of text."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({EOS: 0, "a": 1}, unk_token=EOS))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=EOS, unk_token=EOS)
    assert plain_ids(tokenizer, ["a a"]) == [[1, 1]]
    with pytest.raises(BadInput, match=r"^text 'a b': its tokenizer reads a part of it as the control token '<eos>'$"):
        plain_ids(tokenizer, ["a b"])


def test_a_text_that_is_read_as_other_tokens_is_told() -> None:
    """Letters instead of "the"; and half of a two-byte character, whose text is a replacement character."""
    tokenizer = byte_pairs()
    corpus = replace(texts(), tokenizer=tokenizer)
    whole = plain_ids(tokenizer, ["the cat"])[0]
    (the,) = plain_ids(tokenizer, ["the"])
    pieces = [plain_ids(tokenizer, [letter])[0][0] for letter in "the"]
    assert len(the) == 1 and len(pieces) == 3
    half = [plain_ids(tokenizer, ["é"])[0][0]]
    responses = [[*whole, corpus.eos], whole, [*pieces, corpus.eos], half, [corpus.eos]]
    assert corpus.retokenised(responses) == [False, False, True, True, False]
    words = texts()
    assert words.retokenised([[3, 4, 5, words.eos], [3, words.tokenizer.unk_token_id]]) == [False, False]


def chat_tokenizer() -> Any:
    """Words, with a beginning of text that it puts before what it reads, and a template of turns."""
    from tokenizers.processors import TemplateProcessing

    found = word_tokenizer([*WORDS, "user", "answer"])
    found.add_special_tokens({"bos_token": "<bos>", "additional_special_tokens": ["<turn>"]})
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", found.convert_tokens_to_ids("<bos>"))]
    )
    found.chat_template = (
        "{% for one in messages %}<turn> {{ one.role }} {{ one.content | trim }} <turn> {% endfor %}"
        "{% if add_generation_prompt %}answer{% endif %}"
    )
    return found


def test_a_beginning_of_text_stands_before_each_prompt_where_the_tokenizer_puts_one() -> None:
    tokenizer = chat_tokenizer()
    some = replace(texts(), tokenizer=tokenizer)
    bos = tokenizer.bos_token_id
    plain = [tokens.prompt for tokens, _ in replace(some, bos="off").examples("train")]
    assert bos not in plain[0] and tokenizer.decode(plain[0]) == "a b c"
    for setting in ("auto", "on"):
        found = replace(some, bos=setting)
        assert [tokens.prompt for tokens, _ in found.examples("train")] == [[bos, *prompt] for prompt in plain]
        assert [tokens[0][0] for tokens, _ in found.preferences("train")] == [bos] * 3
        assert all(bos not in tokens.response for tokens, _ in found.examples("train")) and bos in found.banned
    assert texts().around == ([], []), "of the tiny models' tokenizer, which has none, nothing"
    with pytest.raises(BadInput, match=r"^bos=on: the tokenizer has no beginning of text$"):
        replace(texts(), bos="on").examples("train")


def test_a_prompt_stands_in_the_turn_of_a_user() -> None:
    """Whatever it spells: the template's control tokens are the template's alone."""
    tokenizer = chat_tokenizer()
    example = Corpus({"test": [Example("a <turn> b", "c")]}, {}, Provenance("x", "0", "built-in"))
    found = Texts(example, tokenizer, 99, 99, chat_template=True)
    ((tokens, _),) = found.examples("test")
    turn, unknown = tokenizer.convert_tokens_to_ids("<turn>"), tokenizer.unk_token_id
    words = [tokenizer.convert_tokens_to_ids(word) for word in ("user", "a", "b", "answer")]
    assert tokens.prompt == [turn, words[0], words[1], unknown, words[2], turn, words[3]]
    assert replace(found, bos="on").examples("test")[0][0].prompt == [tokenizer.bos_token_id, *tokens.prompt]
    with pytest.raises(BadInput, match=r"^chat_template=on: the tokenizer has no template for chats$"):
        replace(texts(), chat_template=True).examples("train")
