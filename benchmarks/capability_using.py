"""The checks of `capabilities.py` that ask, explain and examine a model."""

import json
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
import transformers
from capability_cases import Case, answer, check_equal, find_loss
from capability_outcomes import NotApplicableError
from capability_training import check_run

import plait
from plait.training.cli import main
from plait.training.data.media import find_columns

TOLERANCE = 1e-5
PIPELINE_REASONS = {
    "pretraining": "its answers are losses",
    "tav": "no pipeline reads text, audio and video together: `plait predict` does",
}


def check_generated(case: Case) -> None:
    """With and without a cache, and by beams, the tokens are those of the logits."""
    model = case.load()
    if not model.can_generate():
        raise NotApplicableError("it generates no text")
    inputs = {name: value for name, value in case.drop_targets(case.collate(rows=[0])).items() if "decoder" not in name}
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    cached, whole = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert cached.past_key_values is not None and torch.equal(cached.sequences, whole.sequences)
    pairs = {
        f"logits of step {step}": values for step, values in enumerate(zip(cached.logits, whole.logits, strict=True))
    }
    check_equal(*({name: pair[side] for name, pair in pairs.items()} for side in (0, 1)), tolerance=TOLERANCE)
    beams = [model.generate(**inputs, max_new_tokens=8, num_beams=3, use_cache=use) for use in (True, False)]
    assert torch.equal(*beams)


def predict(case: Case) -> list[dict[str, Any]]:
    """Returns what `plait predict` answers for the validation rows, by the folder of the run if there is one."""
    if not (case.folder / "run" / "model.safetensors").is_file():
        check_run(case)
    printed = StringIO()
    with redirect_stdout(printed):
        code = main(["predict", str(case.folder / "run"), "--data", str(case.folder / "validation.jsonl")])
    assert code == 0, f"plait predict ended with {code}"
    return [json.loads(line) for line in printed.getvalue().splitlines() if line.startswith("{")]


def check_predicted(case: Case) -> None:
    """`plait predict` answers every row."""
    if case.use.task == "pretraining":
        raise NotApplicableError(
            "its answers are losses: load it as another class (PlaitForRetrieval, PlaitForMaskedLM)"
        )
    assert len(predict(case)) == len(case.rows["validation"])


def check_pipeline(case: Case) -> None:
    """plait.pipeline answers a row as `plait predict` does; vectors as `encode`, hidden words as transformers asks."""
    if not case.use.pipeline:
        raise NotApplicableError(PIPELINE_REASONS[case.name])
    row, run = case.rows["validation"][0], str(case.folder / "run")
    expected = predict(case)[0]
    if case.use.pipeline == "fill-mask":
        pipe = transformers.pipeline("fill-mask", model=case.load(), tokenizer=case.processor.tokenizer)
        found: Any = pipe("what colour is [MASK] ?")
        assert len(found) == 5 and all(0 < each["score"] < 1 for each in found)
        return
    pipe: Any = plait.pipeline(case.use.pipeline, model=run)
    if case.use.pipeline == "feature-extraction":
        vectors = pipe.model.encode([row["text"]], case.processor, show_progress=False)
        check_equal({"vector": pipe([row["text"]], return_tensors=True)}, {"vector": vectors})
        return
    found = pipe(*(row[name] for name in case.use.columns))
    found = found[0] if isinstance(found, list) else found
    told = [*expected.values(), f"{row.get('text')}{expected.get('generated_text')}"]  # or the prompt, continued
    assert found[case.use.key] in told, f"the pipeline says {found}, plait predict {expected}"


def list_absent(case: Case) -> dict[str, dict[str, None]]:
    """Returns the changes that take each modality from a row, by its column."""
    columns = list(case.rows["train"][0])
    media = [name for modality in case.modalities for name in find_columns(columns, modality)]
    texts = [name for name in ("text", "prompt") if name in columns]
    return {name: {name: None} for name in dict.fromkeys([*texts, *media])}


def check_absent(case: Case) -> None:
    """A row without one modality answers among other rows as it does alone, and the loss is finite."""
    absent = list_absent(case)
    if len(absent) < 2:
        raise NotApplicableError(f"it reads one modality, {case.modalities[0]}")
    model = case.load()
    changes = dict(enumerate(absent.values()))
    together = case.collate(changes)
    loss = find_loss(model, model.train()(**together))
    loss.backward()
    whole = answer(model, case.drop_targets(together) if case.inputs is not case.batch else together)
    main_name = next(iter(whole)) if "logits" not in whole else "logits"
    if case.use.task != "classification":
        return
    for number, change in changes.items():
        alone = answer(model, case.drop_targets(case.collate({number: change}, rows=[number])))
        check_equal({"row": alone[main_name][0]}, {"row": whole[main_name][number]}, tolerance=TOLERANCE)


def check_packed(case: Case) -> None:
    """Computed without the padding and with it, by eager attention and by SDPA: the same answers."""
    model = case.load()
    expected = answer(model, case.inputs)
    parts = [*model.config.encoders.values(), model.config.decoder_config, model.config.fusion_config]
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for part in parts:
            if part is not None:
                part.packing = not part.packing
        check_equal(answer(model, case.inputs), expected, tolerance=TOLERANCE)


def make_explained_row(case: Case) -> tuple[dict[str, Any], Any]:
    """Returns a row as an explanation reads it, and what is explained."""
    row = {name: value for name, value in case.rows["validation"][0].items() if name not in ("label", "target")}
    if case.use.task == "masked_lm":
        return {"text": "what colour is [MASK] ?"}, None
    if case.use.task == "dialogue":
        return {"image": row["image"], "text": f"<image> {row['prompt']}"}, "a red square"
    return row, "a red square" if case.load().can_generate() else None


def check_explained(case: Case) -> None:
    """`plait.explain` gives each input finite amounts, by occlusion, by gradients and by attention."""
    row, target = make_explained_row(case)
    for method in ("occlusion", "attention_relevance"):
        (found,) = plait.explain(case.load(), case.processor, row, target, method, cells=2, segments=4)
        assert set(found.attributions) == set(row), f"{method} explains {', '.join(found.attributions)}"
        assert all(np.isfinite(each.values).all() for each in found.attributions.values())


def check_modalities_explained(case: Case) -> None:
    """`plait.explain_modalities`: what each modality adds, adding up to the whole."""
    row, target = make_explained_row(case)
    if len(row) < 2:
        raise NotApplicableError(f"it reads one modality, {case.modalities[0]}")
    others = {name: case.rows["validation"][1].get(name, value) for name, value in row.items()}
    report = plait.explain_modalities(case.load(), case.processor, [row, others], target, draws=1)
    gaps = report.nats.shapley.sum(1) - (report.nats.whole - report.nats.empty)
    assert np.abs(gaps).max() < 1e-4 and report.describe()


def check_doctor(case: Case) -> None:
    """`plait doctor` finds no fault in the sound recipe, and overfits one batch."""
    found = plait.training.doctor(case.build_recipe("doctor"), show=lambda line: None)
    assert found.is_sound, "; ".join(map(str, found.errors))
