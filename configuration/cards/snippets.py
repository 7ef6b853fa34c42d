"""Python lines that load a model and its processor and print a prediction."""

from collections.abc import Sequence
from typing import NamedTuple

from ..plait import PlaitConfig
from ..remote_code.auto_classes import list_auto_classes
from ..remote_code.entry import refer_to
from ..retrieval import DOCUMENT


class ExampleInput(NamedTuple):
    """An example of a modality: the arguments of the processor's call, the row, its import and the line before."""

    argument: str
    row: str
    library: str = ""
    line: str = ""


PIL = "from PIL import Image"
EXAMPLES = {
    "text": ExampleInput("text=[{row}]", '"what is this"'),
    "image": ExampleInput("images=[image]", "image", PIL, 'image = Image.new("RGB", (224, 224), "red")  # your image'),
    "audio": ExampleInput(
        "audio=[clip], sampling_rate=16000",
        "clip",
        "import numpy as np",
        "clip = np.sin(np.arange(16000) / 9)  # your clip: samples at a sampling rate, or a file",
    ),
    "video": ExampleInput(
        "videos=[video]",
        "video",
        PIL,
        'video = [Image.new("RGB", (224, 224), "red")] * 16  # your video: frames or a file',
    ),
}
GENERATE = ["tokens = model.generate(**inputs, max_new_tokens=20)"]
GENERATE += ["print(processor.batch_decode(tokens, skip_special_tokens=True)[0])"]
CLASSIFIERS = {
    "image": "AutoModelForImageClassification",
    "audio": "AutoModelForAudioClassification",
    "video": "AutoModelForVideoClassification",
}


def write_snippet(model_class: str, config: PlaitConfig, name: str, with_code: bool = False) -> str:
    """Writes the lines for a model of this class and config that is saved, with its processor, under this name."""
    auto = find_loading_class(model_class, config)
    examples = [EXAMPLES[modality] for modality in list_inputs(model_class, config)]
    imports = sorted({example.library for example in examples if example.library})
    lines = list(dict.fromkeys(example.line for example in examples if example.line))
    trust = ", trust_remote_code=True" if with_code else ""
    load = [
        f'model = {auto}.from_pretrained("{name}"{trust})',
        f'processor = AutoProcessor.from_pretrained("{name}"{trust})',
    ]
    return "\n".join(
        [*write_imports(auto, name, imports, with_code), *load, "", *lines, *write_prediction(model_class, config)]
    )


def write_imports(auto: str, name: str, imports: Sequence[str], with_code: bool) -> list[str]:
    """Writes the imports, of an Auto class or of a class of plait, which may lie beside the model."""
    if auto.startswith("Auto"):
        first = [] if with_code else ["import plait  # its classes load the folder"]
        return [*first, *imports, f"from transformers import {auto}, AutoProcessor", ""]
    if not with_code:
        return [f"from plait import {auto}", *imports, "from transformers import AutoProcessor", ""]
    finder = "get_class_from_dynamic_module"
    imports = [
        *imports,
        "from transformers import AutoProcessor",
        f"from transformers.dynamic_module_utils import {finder}",
    ]
    return [*imports, "", f'{auto} = {finder}("{refer_to(auto, flat=True)}", "{name}")']


def find_loading_class(model_class: str, config: PlaitConfig) -> str:
    """Returns the Auto class that loads a model, or plait's own class where transformers has none."""
    modalities = [*config.encoders]
    if model_class == "PlaitForClassification" and len(modalities) == 1 and modalities[0] in CLASSIFIERS:
        return CLASSIFIERS[modalities[0]]
    if model_class == "PlaitForPreTraining":
        return "AutoModel"
    if model_class == "PlaitForConditionalGeneration" and "image" in modalities:
        return "AutoModelForImageTextToText"
    if model_class == "PlaitForConditionalGeneration" and modalities == ["audio"]:
        return "AutoModelForSpeechSeq2Seq"
    return next(iter(list_auto_classes(model_class)), model_class)


def list_inputs(model_class: str, config: PlaitConfig) -> list[str]:
    """Returns the modalities that the snippet gives the processor."""
    if model_class == "PlaitForImageAutoencoding":
        return ["image"]
    alone = config.decoder_config is not None and (config.inline or not config.encoders)
    return [*(["text"] if alone else []), *config.encoders]


def write_call(config: PlaitConfig, modalities: Sequence[str], text: str = EXAMPLES["text"].row, more: str = "") -> str:
    """Writes the processor's call for one row."""
    text = 'f"{processor.image_token} what is this"' if config.inline else text
    arguments = [EXAMPLES[modality].argument.format(row=text) for modality in modalities]
    return f'inputs = processor({", ".join([*arguments, *([more] if more else [])])}, return_tensors="pt")'


def write_prediction(model_class: str, config: PlaitConfig) -> list[str]:
    """Writes the lines from the inputs to what is printed."""
    inputs = list_inputs(model_class, config)
    call = write_call(config, inputs)
    match model_class:
        case "PlaitForClassification":
            return [call, "logits = model(**inputs).logits", write_answer(config)]
        case "PlaitForCausalLM" | "PlaitForConditionalGeneration":
            return [call, *GENERATE]
        case "PlaitForRetrieval":
            return write_comparison(config)
        case "PlaitForMaskedLM":
            return write_filled_mask(config, inputs)
        case "PlaitForQuestionAnswering":
            return write_found_answer(config, inputs)
        case "PlaitForImageGeneration":
            return [call, 'model.generate_images(**inputs)[0].save("image.png")']
        case "PlaitForImageAutoencoding":
            call = 'inputs = processor(target_images=[image], return_tensors="pt")'
            return [call, "print(model(**inputs).reconstruction.shape)"]
    start = ', decoder_input_ids=inputs["input_ids"][:, :1]' if config.is_encoder_decoder else ""
    return [call, f"print(model(**inputs{start}).last_hidden_state.shape)"]


def write_answer(config: PlaitConfig) -> str:
    """Writes the line that prints a classifier's answer."""
    if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
        return "print(logits[0].tolist())"
    if config.problem_type == "multi_label_classification":
        return "print([model.config.id2label[n] for n in (logits[0] > 0).nonzero().flatten().tolist()])"
    return "print(model.config.id2label[int(logits[0].argmax())])"


def write_comparison(config: PlaitConfig) -> list[str]:
    """Writes the lines that compare the vectors of two sides."""
    sides = [*config.sides.items()]
    named = [(side, EXAMPLES["text" if side == DOCUMENT else modality].row) for side, modality in sides[:2]]
    rates = {side: ", sampling_rate=16000" if row == EXAMPLES["audio"].row else "" for side, row in named}
    lines = [f'{side}_vectors = model.encode([{row}], processor, side="{side}"{rates[side]})' for side, row in named]
    first, last = named[0][0], named[-1][0]
    return [*lines, f"print({first}_vectors @ {last}_vectors.T)"]


def write_filled_mask(config: PlaitConfig, inputs: Sequence[str]) -> list[str]:
    """Writes the lines that fill in a masked word."""
    return [
        write_call(config, inputs, 'f"what is {processor.tokenizer.mask_token}"'),
        "logits = model(**inputs).logits",
        'place = (inputs["input_ids"][0] == processor.tokenizer.mask_token_id).nonzero()[0, 0]',
        "print(processor.decode(logits[0, place].argmax()))",
    ]


def write_found_answer(config: PlaitConfig, inputs: Sequence[str]) -> list[str]:
    """Writes the lines that find an answer in a text."""
    return [
        write_call(config, inputs, more='text_pair=["this is a text"]'),
        "outputs = model(**inputs)",
        "start, end = int(outputs.start_logits[0].argmax()), int(outputs.end_logits[0].argmax())",
        'print(processor.decode(inputs["input_ids"][0, start : end + 1]))',
    ]
