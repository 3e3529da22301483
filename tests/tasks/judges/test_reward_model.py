"""A reward model read from a folder, in the format of the published ones; tiny, with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from methods.core import BadInput
from tasks.judges import Pair, RewardModelJudge
from tasks.judges.reward_model import identity, load_scorer, names, weights
from tasks.language.core import UNFINISHED

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # for importing transformers
WORDS = ["<|endoftext|>", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("reward") / "model"
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token=WORDS[0]).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                        intermediate_size=32, num_labels=1)  # fmt: skip
    transformers.GPTNeoXForSequenceClassification(config).save_pretrained(path)
    return path


def test_scores_are_those_of_the_last_token_whatever_the_padding(folder: Path) -> None:
    scorer = load_scorer(str(folder), batch=3)
    prompts, responses = ["a b", "a", "a b c d"], ["c", "b c d a b" + UNFINISHED, "d d"]
    together = scorer(prompts, responses)
    alone = [scorer([prompt], [response])[0] for prompt, response in zip(prompts, responses, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)  # float32, of scores about 0.1
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = ([1, 2, 3, 0], [1, 2, 3, 4, 1, 2], [1, 2, 3, 4, 4, 4, 0])  # the end of the text after what was finished
    for ids, score in zip(tokens, together, strict=True):
        with torch.no_grad():
            hidden = model.gpt_neox(torch.tensor([ids])).last_hidden_state[0, -1]
            assert float(model.score(hidden)[0]) == pytest.approx(score, abs=1e-6)
    assert len({round(score, 4) for score in together}) == 3


def test_it_judges_and_is_known_by_its_weights(folder: Path) -> None:
    judge = RewardModelJudge(load_scorer(str(folder)), identity(str(folder)))
    (one, other) = judge.verdicts([Pair("a", "b c", "d d d"), Pair("a", "d d d", "b c")])
    assert {one.outcome, other.outcome} == {"win", "loss"} and judge.id.startswith("reward-model-model-")
    known = names(str(folder))
    assert {str(folder), "model"} | weights(str(folder)) < known and identity("x/y") != identity("z/y")


@pytest.mark.parametrize("damage", ["no head", "two labels", "truncated"])
def test_a_head_that_is_not_there_is_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    """transformers would draw one at random."""
    path = shutil.copytree(folder, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder)
    if damage == "no head":
        transformers.GPTNeoXForCausalLM(config).save_pretrained(path)
    elif damage == "two labels":
        config.num_labels = 2
        transformers.GPTNeoXForSequenceClassification(config).save_pretrained(path)
    else:
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(BadInput, match="no reward model") as caught:
        load_scorer(str(path))
    assert "\n" not in str(caught.value) and (damage != "no head" or "lack score.weight" in str(caught.value))


def test_no_such_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match="no reward model") as caught:
        load_scorer(str(tmp_path))
    assert "\n" not in str(caught.value)
