"""Collects what a model, a processor or an embedder answers, as tensors by name, for files and for comparisons."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TARGETS = ("labels", "start_positions", "end_positions", "input_ids_masked", "mlm_labels", "bool_masked_pos")
GENERATING = ("PlaitForCausalLM", "PlaitForConditionalGeneration")


def name_tensors(output: Any, path: str = "") -> dict[str, Tensor]:
    """Returns every tensor of a nested output under its dotted name; caches are left out."""
    if isinstance(output, Tensor):
        return {path: output.detach().clone().contiguous()}
    if not isinstance(output, Mapping):
        return {}
    named = [name_tensors(value, f"{path}.{name}" if path else str(name)) for name, value in output.items()]
    return {name: tensor for tensors in named for name, tensor in tensors.items()}


@torch.no_grad()
def ask(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns what a model answers: outputs, with targets the losses ("learned."), and ids of greedy decoding.

    Rows with padding on the left were saved when native decoders counted positions over the padding too: they are given
    so.
    """
    wrapped = any(type(module).__name__ == "WrappedDecoder" for module in model.modules())
    inputs = dict(inputs) if wrapped else {**inputs, **give_places(inputs)}
    plain = {name: value for name, value in inputs.items() if name not in TARGETS}
    torch.manual_seed(0)
    answers = name_tensors(model.eval()(**plain))
    if type(model).__name__ == "PlaitForRetrieval":
        answers |= name_tensors(model(**plain, return_loss=True), "learned")
    elif len(plain) < len(inputs):
        given = {name: value for name, value in inputs.items() if "labels" not in inputs or name != "decoder_input_ids"}
        answers |= name_tensors(model(**given), "learned")
    if type(model).__name__ in GENERATING:
        read = {name: value for name, value in plain.items() if name not in ("decoder_input_ids", "position_ids")}
        answers["generated"] = model.generate(**read, max_new_tokens=5)
    return answers


def give_places(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the places of the tokens as `position_ids` if there is padding on the left of a text, else nothing."""
    mask = inputs.get("attention_mask")
    if mask is None or bool(mask[:, 0].all()):
        return {}
    return {"position_ids": torch.arange(mask.shape[1]).expand(mask.shape)}


def hide_padding(answers: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the answers with zeros at the padding on the left of a text, where a number means nothing."""
    if not give_places(inputs):
        return dict(answers)
    mask = inputs["attention_mask"]
    return {
        name: answer * mask.view(*mask.shape, *[1] * (answer.ndim - 2)) if answer.shape[:2] == mask.shape else answer
        for name, answer in answers.items()
    }


def process(processor: Any, rows: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns what a processor makes of rows."""
    return name_tensors(dict(processor(**rows, return_tensors="pt")))


def embed(embedder: Any, rows: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the vectors of the rows of each modality by an embedder of sentence-transformers."""
    return {
        name: embedder.encode(values, convert_to_tensor=True, show_progress_bar=False).clone()
        for name, values in rows.items()
    }


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes tensors into a new file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def write_rows(rows: Mapping[str, Any], folder: Path) -> None:
    """Writes rows: texts into rows.json, images, audio and videos as arrays into rows.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    media = {name: values for name, values in rows.items() if name in ("images", "audio", "videos")}
    plain = {name: values for name, values in rows.items() if name not in media}
    (folder / "rows.json").write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    arrays = {f"{name}.{row}": torch.as_tensor(value) for name, values in media.items() for row, value in
              enumerate(values)}  # fmt: skip
    if arrays:
        write_tensors(arrays, folder / "rows.safetensors")


def read_rows(folder: Path) -> dict[str, Any]:
    """Returns the rows that `write_rows` wrote."""
    rows: dict[str, Any] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    file = folder / "rows.safetensors"
    arrays = load_file(file) if file.is_file() else {}
    for name in sorted(arrays):
        rows.setdefault(name.partition(".")[0], []).append(arrays[name].numpy())
    return rows
