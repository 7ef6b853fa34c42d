"""Exports a model of plait to the format of the pretrained checkpoint that it was made from."""

from pathlib import Path
from typing import Any

from ...configuration.sentence import pools_sentences
from .component import Component
from .conversion.family import HEAD_MODULES, find_top_module
from .dual_encoders import export_dual_encoder
from .reading import LM_HEAD_WEIGHT
from .sentence_modules import write_sentence_modules
from .writing import write_components


def export(model: Any, folder: str | Path, modality: str | None = None) -> None:
    """Saves a model in its family's format: config.json and model.safetensors, as transformers reads them.

    A model of one component, or an encoder with its decoder, is saved with its head (and its generation config). Of
    several towers, `modality` (or "decoder") names the one to save. Two towers of one space that came from one
    checkpoint are saved together. A sentence encoder's folder also gets its modules, as sentence-transformers reads it.

    Raises:
        ValueError: several towers and none named; a tower that came from no checkpoint of a known family, or whose
            config or weights the family's format cannot express.
    """
    parts = model.parts
    if modality is None and model.config.retrieval_config is not None and len(parts) > 1:
        export_dual_encoder(model, folder)
        return
    if modality is None and len(parts) > 1 and model.config.fusion_config is not None:
        raise ValueError(f"the model has the towers {', '.join(parts)}: name the one to export with modality=...")
    chosen = parts if modality is None else {modality: parts[modality]}
    named = model.state_dict() if modality is None else {}
    heads = {name: tensor for name, tensor in named.items() if find_top_module(name) in HEAD_MODULES}
    components = {name: Component(part.config, part.state_dict(), {}) for name, part in chosen.items()}
    sentences = {name: part for name, part in components.items() if pools_sentences(part.config)}
    for name, part in sentences.items():
        tower = {key: weight for key, weight in part.weights.items() if not key.startswith("sentence.")}
        components[name] = part._replace(weights=tower)
    last = list(components)[-1]
    components[last] = components[last]._replace(heads=heads)
    labels = ("id2label", "label2id", "problem_type") if "classifier.weight" in heads else ()
    write_components(components, folder, **{name: getattr(model.config, name) for name in labels})
    for part in sentences.values():
        write_sentence_modules(part.config, part.weights, folder)
    if LM_HEAD_WEIGHT in heads and model.can_generate():
        model.generation_config.save_pretrained(folder)
