"""The 14 kinds of model of `capabilities.py`, each with its processor, its data and its recipe, at tiny size."""

import json
import wave
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from conformance_shapes import IMAGE_TOKEN, SHAPES, TOKENS
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import plait
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run

NAMES = tuple(SHAPES)[:14]
COLOURS = {"red": (220, 40, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
TITLES = {
    "early": "text + image, early fusion",
    "cross": "text + image, cross-attention",
    "late": "text + image, late fusion",
    "captioner": "captioner",
    "gated": "captioner, gated cross-attention",
    "inline": "language model with images inside its text",
    "retrieval": "text and image in one space",
    "pretraining": "three pretraining objectives",
    "bert": "text classifier (BERT)",
    "mlm": "masked language model",
    "gpt": "language model (GPT)",
    "vit": "image classifier (ViT)",
    "whisper": "speech to text (Whisper)",
    "tav": "text + audio + video, early fusion",
}
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "<image>", "[MASK]", "[UNK]")  # numbered as TOKENS and IMAGE_TOKEN say
WORDS = (*SPECIAL, *COLOURS, *"what colour is it ? a square that looks very now the sky and grass are here".split())
QUESTIONS = ("what colour is it ?", "is it", "a square that looks very red now", "the sky and the grass are here")
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
LENGTH, RATE, SECONDS = 24, 16_000, 0.16  # tokens of a text at most, samples a second, length of a clip
COUNTS = {"train": 8, "validation": 4}
TRAINING: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "probe_products": False}
TRAINING |= {"per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-3, "logging_steps": 1}
TRAINING |= {"save_strategy": "steps", "save_steps": 2}
GENERATION = {"max_new_tokens": 6, "do_sample": False}
TARGETS = ("labels", "mlm_labels", "input_ids_masked", "bool_masked_pos", "return_loss", "num_items_in_batch")


class TaskUse(NamedTuple):
    """How a kind is trained and asked: a task of recipes; a pipeline with the columns of its call and the key of its
    answer (no name: what to use instead)."""

    task: str
    pipeline: str
    columns: tuple[str, ...] = ()
    key: str = ""


QUESTION = TaskUse("classification", "visual-question-answering", ("image", "text"), "answer")
CAPTION = TaskUse("generation", "image-captioning", ("image",), "generated_text")
USES: dict[str, TaskUse] = {
    **dict.fromkeys(("early", "cross", "late"), QUESTION),
    **dict.fromkeys(("captioner", "gated"), CAPTION),
    "inline": TaskUse("dialogue", "visual-question-answering", ("image", "prompt"), "answer"),
    "retrieval": TaskUse("retrieval", "feature-extraction", ("text",)),
    "pretraining": TaskUse("pretraining", ""),
    "bert": TaskUse("classification", "text-classification", ("text",), "label"),
    "mlm": TaskUse("masked_lm", "fill-mask", ("text",)),
    "gpt": TaskUse("causal_lm", "text-generation", ("text",), "generated_text"),
    "vit": TaskUse("classification", "image-classification", ("image",), "label"),
    "whisper": TaskUse("generation", "automatic-speech-recognition", ("audio",), "text"),
    "tav": TaskUse("classification", ""),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of WORDS, whose texts begin and end as those of the configs."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(name, numbers[name]) for name in ("[BOS]", "[EOS]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    names = {"pad": "[PAD]", "bos": "[BOS]", "eos": "[EOS]", "cls": "[BOS]", "sep": "[EOS]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LENGTH,
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def write_media(folder: Path, name: str, number: int) -> dict[str, str]:
    """Writes an image, a clip and a video; returns their paths by modality."""
    colour = list(COLOURS.values())[number % 3]
    random = np.random.default_rng(number)
    frames = [(0.7 * np.array(colour) + random.integers(0, 70, (20, 18, 3))).astype(np.uint8) for _ in range(6)]
    paths = {"image": f"{name}.png", "audio": f"{name}.wav", "video": f"{name}.mp4"}
    Image.fromarray(frames[0]).save(folder / paths["image"])
    clip = np.sin(np.arange(int(RATE * SECONDS)) * (0.05 + 0.01 * number)) + random.normal(0, 0.1, int(RATE * SECONDS))
    with wave.open(str(folder / paths["audio"]), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((8000 * clip).astype("<i2").tobytes())
    write_video(folder / paths["video"], frames)
    return {modality: str(folder / path) for modality, path in paths.items()}


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    """Writes frames (height, width, 3) as a video of 4 frames a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=Fraction(4))
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


class Case:
    """A kind of model in a folder: what the checks ask for is made on first use."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.shape, self.use = name, folder, SHAPES[name], USES[name]
        self.together: tuple[Case, ...] = (self,)  # cases that another process loads with this one
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def config(self) -> plait.PlaitConfig:
        """The config of the kind, with names for its classes, and clips of a second, the least that Whisper's have."""
        tokens = TOKENS if "decoder_config" in self.shape.parts else {}
        parts = dict(self.shape.parts)
        if "audio_config" in parts:
            parts["audio_config"] = {**parts["audio_config"], "max_source_positions": 50}
        return plait.PlaitConfig(**parts, **tokens, id2label=dict(enumerate(COLOURS)))

    @cached_property
    def processor(self) -> plait.PlaitProcessor:
        """The processor of the kind."""
        config, parts = self.config, {}
        if config.text_config is not None:
            parts["text"] = make_tokenizer()
        elif config.decoder_config is not None:
            parts["decoder"] = make_tokenizer()
        parts |= {"image": config} if config.vision_config is not None else {}
        parts |= {"audio": config.audio_config} if config.audio_config is not None else {}
        parts |= {"video": config, "num_frames": 4} if config.video_config is not None else {}
        parts |= {"image_token": "<image>", "num_image_tokens": 5} if config.inline else {}
        made = plait.PlaitProcessor.compose(**parts)
        if config.inline:
            made.chat_template = CHAT
            assert made.image_token_id == IMAGE_TOKEN
        return made

    def build(self) -> Any:
        """Returns the model with random weights, the same ones in every call."""
        torch.manual_seed(0)
        model: Any = self.shape.kind(self.config)
        for parameter in model.parameters():  # biases and norms too: zeros and ones would hide faults
            torch.nn.init.normal_(parameter, std=0.2)
        if model.can_generate():
            model.generation_config.update(**GENERATION)
        return model.eval()

    @cached_property
    def saved(self) -> Path:
        """The folder of the model and its processor."""
        self.build().save_pretrained(self.folder / "model")
        self.processor.save_pretrained(self.folder / "model")
        return self.folder / "model"

    def load(self, **options: Any) -> Any:
        """Returns the saved model."""
        return self.shape.kind.from_pretrained(self.saved, **options)  # pyright: ignore[reportAttributeAccessIssue]

    @cached_property
    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each split, with the columns that the task reads."""
        found: dict[str, list[dict[str, Any]]] = {}
        for split, count in COUNTS.items():
            start = sum(len(rows) for rows in found.values())
            found[split] = [self.make_row(split, start + number) for number in range(count)]
        return found

    def make_row(self, split: str, number: int) -> dict[str, Any]:
        """Returns one row; no two rows of all splits are equal."""
        colour = list(COLOURS)[number % 3]
        values = write_media(self.folder, f"{split}{number}", number)
        values |= {"text": f"{QUESTIONS[number % 4]} {'now ' * (number // 4)}".strip()}
        values |= {"prompt": values["text"], "label": colour, "target": f"a {colour} square {'now ' * (number % 3)}"}
        return {name: values[name] for name in self.columns}

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model reads."""
        text = ["text"] if self.config.decoder_config is not None and "target" not in self.shape.inputs else []
        return list(dict.fromkeys([*self.config.encoders, *text]))

    @property
    def columns(self) -> list[str]:
        """The columns of the rows."""
        if self.use.task == "dialogue":
            return ["image", "prompt", "target"]
        targets = {"classification": ["label"], "generation": ["target"]}
        return [*self.modalities, *targets.get(self.use.task, [])]

    @cached_property
    def recipe_content(self) -> dict[str, Any]:
        """The recipe that trains the saved model, as its keys and values."""
        for split, rows in self.rows.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (self.folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        source = {split: str(self.folder / f"{split}.jsonl") for split in self.rows}
        content = {"task": self.use.task, "model": {"from_pretrained": str(self.saved)}, "data": {"source": source}}
        content["data"]["columns"] = {name: name for name in self.columns}
        content |= {"seed": 3, "training": TRAINING}
        generates = self.use.task in ("generation", "dialogue", "causal_lm")
        return content | ({"generation": GENERATION} if generates else {})

    def build_recipe(self, output: str, **training: Any) -> Any:
        """Returns the recipe with an output folder inside the case's."""
        content = self.recipe_content
        changed = {"training": content["training"] | training, "output_dir": str(self.folder / output)}
        return build_recipe(content | changed)

    def build_run(self, output: str, **training: Any) -> TrainingRun:
        """Returns the parts of a training run, before its first step."""
        recipe = self.build_recipe(output, **training)
        arguments = plait.PlaitTrainingArguments(
            **recipe.training, output_dir=str(self.folder / output), seed=recipe.seed, remove_unused_columns=False
        )
        return build_run(recipe, self.folder / output, arguments)

    @cached_property
    def run(self) -> TrainingRun:
        """A run whose data and collator the checks use."""
        return self.build_run("run-parts", save_strategy="no")

    def collate(self, changes: Mapping[int, Mapping[str, Any]] | None = None, rows: Any = range(4)) -> dict[str, Any]:
        """Returns the training batch of rows, by the collator of the recipe; `changes`: other values of a row."""
        data: Any = self.rows["train"] if self.use.task == "dialogue" else self.run.trainer.train_dataset
        chosen = [{**data[number], **(changes or {}).get(number, {})} for number in rows]
        if self.use.task == "dialogue":  # it puts the image's token into the text of each row that has an image
            prepared = self.run.task.prepare(Dataset.from_list(chosen), "train", self.run.processor, self.run.recipe)
            chosen = list(prepared)
        torch.manual_seed(7)  # of the masked words
        return dict(self.run.trainer.data_collator(chosen))

    @cached_property
    def batch(self) -> dict[str, Any]:
        """A training batch, with the targets of the loss."""
        return self.collate()

    def drop_targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a batch without what only the loss reads."""
        kept = {name: value for name, value in batch.items() if name not in TARGETS}
        if "target" in self.shape.inputs and "decoder_input_ids" not in kept:
            kept["decoder_input_ids"] = batch["labels"].clamp(min=0)
        return kept

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The batch as a prediction reads it; of pretraining, whose outputs are losses, the whole batch."""
        return self.batch if self.use.task == "pretraining" else self.drop_targets(self.batch)


def name_tensors(output: Any, path: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a model's output by dotted name; caches are left out."""
    if isinstance(output, Tensor):
        return {path: output.detach().clone()}
    if not isinstance(output, Mapping):
        return {}
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        found |= name_tensors(value, f"{path}.{name}" if path else str(name))
    return found


@torch.no_grad()
def answer(model: Any, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors that a model answers with, those of padding as zeros."""
    torch.manual_seed(0)
    found = name_tensors(model.eval()(**inputs))
    mask = inputs.get("attention_mask")
    if mask is None or "decoder_input_ids" in inputs:
        return found
    rows = {name: value for name, value in found.items() if value.shape[:2] == mask.shape}
    return found | {name: value * mask.view(*mask.shape, *[1] * (value.ndim - 2)) for name, value in rows.items()}


def check_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 0.0) -> None:
    """Raises AssertionError where outputs differ: in a bit, or by more than `tolerance` of the largest number."""
    assert found.keys() == expected.keys(), f"other outputs: {', '.join(sorted(found.keys() ^ expected.keys()))}"
    assert expected, "no outputs to compare"
    for name, value in expected.items():
        if tolerance == 0:
            assert torch.equal(found[name], value), f"{name} differs by {(found[name] - value).abs().max():.1e}"
            continue
        gap, size = (found[name].float() - value.float()).abs().max().item(), max(value.abs().max().item(), 1.0)
        assert gap <= tolerance * size, f"{name} differs by {gap:.1e} of {size:.1e}"


def find_loss(model: Any, outputs: Any) -> Tensor:
    """Returns the loss of outputs. Raises AssertionError for none, or one that is not finite."""
    loss = outputs.loss
    assert loss is not None and bool(loss.isfinite()), f"the loss is {loss}"
    return loss
