"""Writes `predict.py`, the script that answers by exported graphs, from the functions of `standalone.py`."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...configuration.modalities import MODALITY_TABLE
from ...processing import PlaitProcessor
from . import standalone
from .settings import build_script_settings, find_script_parts

COMMON_FUNCTIONS = (standalone.run_graph, standalone.open_graph, standalone.read_rows)
READERS = {"text": standalone.read_texts, "image": standalone.read_image_files, "audio": standalone.read_audio_files}
PART_CLASSES = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}
PRINT_TEXTS = "    print_texts(tokens, AutoTokenizer.from_pretrained({place}))"


class Answer(NamedTuple):
    """How a script answers. functions: of `standalone` that it needs besides the common ones; call: the lines that
    run them."""

    functions: tuple[Callable[..., Any], ...]
    call: str


def build_plain_answer(*functions: Callable[..., Any]) -> Answer:
    """Returns the answer of a model with one graph, which the last function prints."""
    return Answer(functions, f"    {functions[-1].__name__}(open_graph('model'), parts, options, SETTINGS)")


SIDES = "    sessions = {side: open_graph(name) for side, name in SETTINGS['graphs'].items()}\n"
CALLS = {
    "context": "    graphs = (open_graph('encoder_model'), open_graph('decoder_model'))\n"
    "    tokens = generate_from_context(*graphs, read_rows(parts, options, SETTINGS), SETTINGS)\n",
    "images": "    graphs = (open_graph('vision_model'), open_graph('decoder_model'))\n"
    "    tokens = generate_with_images(*graphs, read_rows(parts, options, SETTINGS), SETTINGS)\n",
    "text": "    feeds = read_rows(parts, options, SETTINGS)\n"
    "    ids, mask = feeds['input_ids'], feeds['attention_mask']\n"
    "    tokens = generate_tokens(open_graph('model'), ids, mask, {}, SETTINGS)\n",
}
GENERATORS = (standalone.start_cache, standalone.generate_tokens, standalone.print_texts)
ANSWERS = {
    "PlaitModel": build_plain_answer(standalone.print_features),
    "PlaitForClassification": build_plain_answer(standalone.softmax, standalone.print_classes),
    "PlaitForMaskedLM": build_plain_answer(standalone.print_masks),
    "PlaitForQuestionAnswering": build_plain_answer(standalone.find_span, standalone.print_answers),
    "PlaitForRetrieval": Answer(
        (standalone.print_similarities,), SIDES + "    print_similarities(sessions, parts, options, SETTINGS)"
    ),
    "PlaitForConditionalGeneration": Answer(
        (*GENERATORS, standalone.generate_from_context), CALLS["context"] + PRINT_TEXTS
    ),
    "PlaitForCausalLM": Answer(GENERATORS, CALLS["text"] + PRINT_TEXTS),
    "inline": Answer((*GENERATORS, standalone.generate_with_images), CALLS["images"] + PRINT_TEXTS),
}
HEAD = '''"""Answers with the exported {name} that lies beside this file.

It needs numpy, onnxruntime and transformers, of which it takes {classes}{libraries}: neither plait nor torch.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import {classes}

HERE = Path(__file__).parent
Feeds = dict[str, Any]
SETTINGS: dict[str, Any] = {settings}
'''
MAIN = '''def main() -> None:
    """Reads the command line, and prints an answer for every row."""
    parser = argparse.ArgumentParser(description=__doc__)
{arguments}
    options = parser.parse_args()
    parts = {{{parts}}}
{call}


if __name__ == "__main__":
    main()
'''


def write_script(model: Any, processor: PlaitProcessor, folder: Path) -> bool:
    """Writes `predict.py` beside the graphs of a model, and the parts of the processor that it loads, each in its
    own folder. Returns whether there is one: not for a class, or a modality, that it cannot read."""
    name = next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in ANSWERS), None)
    parts = find_script_parts(model.config, processor)
    if name is None or parts is None:
        return False
    answer = ANSWERS["inline" if name == "PlaitForCausalLM" and model.config.inline else name]
    read = [MODALITY_TABLE[part].processor_part for part in parts]
    decoding = ("tokenizer", "decoder_tokenizer") if PRINT_TEXTS in answer.call else ()
    for part in (*read, *decoding):
        if processor.find_part(part) is not None:
            processor.find_part(part).save_pretrained(folder / part)
    settings = build_script_settings(model, processor)
    functions = [*COMMON_FUNCTIONS, *(READERS[part] for part in parts), *answer.functions]
    classes = sorted(
        {PART_CLASSES[part] for part in parts} | ({"AutoTokenizer"} if PRINT_TEXTS in answer.call else set())
    )
    head = HEAD.format(
        name=type(model).__name__,
        classes=", ".join(classes),
        libraries=name_libraries(parts),
        settings=write_literal(settings),
    )
    main = MAIN.format(
        arguments="\n".join(f"    {line}" for line in write_arguments(name, settings)),
        parts=", ".join(
            f'"{part}": {PART_CLASSES[part]}.from_pretrained(HERE / "{place}")'
            for part, place in zip(parts, read, strict=True)
        ),
        call=answer.call.replace(
            "{place}", f'HERE / "{"decoder_tokenizer" if settings["decoder_tokenizer"] else "tokenizer"}"'
        ),
    )
    code = [inspect.getsource(function) for function in functions]
    (folder / "predict.py").write_text("\n\n".join((head, *code, main)), encoding="utf-8")
    return True


def name_libraries(parts: Sequence[str]) -> str:
    """Names the libraries that read files."""
    return "".join(f", {library}" for part, library in (("image", "pillow"), ("audio", "soundfile")) if part in parts)


def write_literal(settings: dict[str, Any]) -> str:
    """Writes settings as a dict in Python, one to a line."""
    return "\n".join(("{", *(f"    {name!r}: {value!r}," for name, value in settings.items()), "}"))


def write_arguments(name: str, settings: dict[str, Any]) -> list[str]:
    """Writes the lines that add the options of the command line, one for each modality or side."""
    helps = {"text": "a text", "image": "an image file, or several of a row joined by commas", "audio": "an audio file"}
    given = [(side, helps.get(modality, modality)) for side, modality in settings["sides"].items()]
    given += [("context", "the text that holds the answer")] if name == "PlaitForQuestionAnswering" else []
    return [
        f'parser.add_argument("--{option}", action="append", default=[], help="{text}; once for every row")'
        for option, text in given
    ]
