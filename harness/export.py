"""Makes a checkpoint that anything can load of a part that a stage trained.

    python -m harness.export results/artifacts/FINGERPRINT --out FOLDER

FOLDER gets config.json, model.safetensors and the tokenizer, as transformers writes them (a reward model as a
classifier with one label), and checkpoint.json: which stage made it, from what, by which code. So
`AutoModelForCausalLM.from_pretrained(FOLDER)` loads it, or the class for sequence classification.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a while
    from core.command import main

    main("harness.export:app")

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import tasks
from core import records
from core.command import guarded
from core.files import draft_folder, expanded, sweep, write_json
from methods.core import BadInput
from methods.language.core import GIVEN, MODELS, LanguageConfig, Part

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def export(
    artifact: Annotated[Path, typer.Argument(help="results/artifacts/FINGERPRINT of a finished language stage")],
    out: Annotated[Path, typer.Option(help="a folder that does not exist yet")],
    like: Annotated[
        str, typer.Option(help="a checkpoint of the same architecture and tokenizer, where the run began as one")
    ] = "",
    data: Annotated[
        str, typer.Option(help="auto|download|generate|PATH, as the run had it: a tiny model's words come from there")
    ] = "auto",
) -> None:
    """Writes the checkpoint, whole or not at all."""
    given, place = expanded(artifact), expanded(out)
    raise typer.Exit(guarded(lambda: _export(given, place, like, data)))


def _export(artifact: Path, out: Path, like: str, data: str) -> None:
    from harness.store import LaneStore
    from harness.tensors import TensorFormat

    store = LaneStore(artifact, {}, TensorFormat())
    note = store.note
    stored: Mapping[str, Any] = note["identity"] if note else {}
    part = next((part for part in MODELS if stored.get("trains") == [part]), None)
    if part is None or not (note and note["finished"]):
        raise BadInput(f"{artifact}: no finished stage that trained a model to export ({', '.join(MODELS)})")
    if stored.get("rule") == GIVEN:
        raise BadInput(f"{artifact}: its model is the checkpoint that the run was given; nothing was trained")
    identity = records.check(stored, records.ModelStage, f"{artifact / 'stage.json'}: identity")
    if os.path.lexists(out):
        raise BadInput(f"--out {out}: exists already")
    began = like or _beginning(artifact, identity, stored.get("reads") or {})

    from core.checkpoints import NOTE
    from harness.files import contents

    found = LaneStore(artifact, stored, TensorFormat()).load()[part]
    with draft_folder(out) as folder:
        sweep(out.parent)  # of exports that were killed
        _write(folder, identity, part, found, began, data)
        about = {key: value for key, value in found.about.items() if key != "weights"}
        more = (f" --like {like}" if like else "") + (f" --data {data}" if data != "auto" else "")
        write_json(folder / NOTE, {
            "command": f"python -m harness.export results/artifacts/{artifact.resolve().name} --out PATH{more}",
            "stage": identity["stage"], "fingerprint": artifact.resolve().name, "seed": identity["seed"],
            "measured": about,
            "sha256": contents(str(folder)), "git": note.get("git"), "identity": dict(identity)})  # fmt: skip


def _beginning(artifact: Path, identity: records.ModelStage, reads: Mapping[str, Any]) -> str:
    """The checkpoint whose architecture the model has; "" of the tiny one. Raises: BadInput: nobody says which."""
    from harness.store import LaneStore
    from harness.tensors import TensorFormat

    for read in (reads[part] for part in MODELS if part in reads):
        note = LaneStore(artifact.parent / str(read), {}, TensorFormat()).note
        if note and note["identity"].get("rule") == GIVEN:
            raise BadInput(f"{artifact}: it began as a checkpoint that the run was given; --like CHECKPOINT names it, "
                           "or another of the same architecture and tokenizer")  # fmt: skip
    model = identity["config"]["model"]
    return "" if model == "tiny" else model


def _write(folder: Path, identity: records.ModelStage, name: str, part: Part, began: str, data: str) -> None:
    from harness.backbones import Backbones, save_checkpoint, tokenizer_for
    from harness.files import contents
    from methods.language.models import load_into, reward_from

    size = identity["config"]
    config = LanguageConfig(layers=size["layers"], width=size["width"], heads=size["heads"], sft_checkpoint=began)
    suite, _, task_name = identity["task"].partition("/")
    (task,) = tasks.select(suite, [task_name])
    words: list[str] = []
    if not began:
        corpus = task.load(data)
        if corpus.provenance.sha256 != identity["data"]:
            raise BadInput(f"--data {data}: the corpus is another one than the stage was trained on")
        words = [text for example in corpus.examples("train") for text in example]
    tokenizer = tokenizer_for(config, words)
    longest = task.spec.max_prompt_tokens + task.spec.max_response_tokens + 1
    known = frozenset([contents(began)] if began else [])
    model: Any = Backbones(config, len(tokenizer), longest, known).fresh()
    model = reward_from(model) if name == "reward" else model
    load_into(model, part.tensors, f"--like {began}" if began else str(folder))
    if tokenizer.pad_token_id is None:
        # not the end of text, as classifiers read a score at the last token that is no padding
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(tokenizer.eos_token_id == 0))
    save_checkpoint(folder, model, tokenizer)
