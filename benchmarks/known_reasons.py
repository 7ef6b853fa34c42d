"""Do explanations find reasons that are known? `python benchmarks/known_reasons.py [--output FOLDER]`

Draws four data sets whose reasons are known, trains a tiny model on each until it answers nearly every test row, and
measures how often an explanation names the reason:

- shapes: two shapes in one image (in training one to three), and a question about the colour of one of them; is the
  map's largest value in the box of that shape (the pointing game)?
- words: sentences of words that say nothing and one that decides; has it the largest value?
- clip: a short tone in each half of an audio clip, of which the second decides; is the largest value in its half?
- sides: a colour, named by the text or shown by the image, drawn for each row; has that modality the largest Shapley
  value?

Only rows that the model answers rightly count: a wrong answer has another reason. Last line:

    plait known reasons: shapes=0.xxx words=0.xxx clip=0.xxx sides=0.xxx seconds=nnn
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import plait
from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitRNNConfig, PlaitTextConfig, PlaitVisionConfig
from plait.processing.mel import PlaitMelFeatureExtractor
from plait.training import PlaitDataCollator
from plait.training.data.labels import SINGLE, LabelSpec
from plait.training.explanations.checking.ranks import points_at
from plait.training.metrics.images.intervals import compute_wilson_interval

COLOURS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180), "yellow": (240, 200, 20)}
SHAPES = ("square", "circle", "cross")
FILLERS = "the a this that some day very often here there it was then now one more of and".split()
TONES = {"low": 300, "middle": 600, "high": 1200}
SIDE, RATE = 32, 4000
WORDS = ["[PAD]", "[UNK]", "[MASK]", "what", "colour", "is", "none", *FILLERS, *COLOURS, *SHAPES]
TINY = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


class Example(NamedTuple):
    """A row with its label, and its reason: a box, the number of a word, a half of the clip, or a modality."""

    row: dict[str, Any]
    label: str
    reason: Any


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, colour: str, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    if shape == "square":
        draw.rectangle(box, COLOURS[colour])
    elif shape == "circle":
        draw.ellipse(box, COLOURS[colour])
    else:
        x, y = (left + right) // 2, (top + bottom) // 2
        draw.rectangle((left, y - 1, right, y + 2), COLOURS[colour])
        draw.rectangle((x - 1, top, x + 2, bottom), COLOURS[colour])


def make_shapes(chance: random.Random, others: int | None = None) -> Example:
    """A shape that the question names, in a quarter of the image, and `others` of other forms and colours in other
    quarters (None: 0, 1 or 2 at random, so that a model cannot find a shape by what it is not)."""
    image = Image.new("RGB", (SIDE, SIDE), (chance.randint(200, 255),) * 3)
    draw = ImageDraw.Draw(image)
    count = 1 + (chance.randrange(3) if others is None else others)
    shapes, colours = chance.sample(SHAPES, len(SHAPES)), chance.sample(list(COLOURS), count)
    forms = [shapes[0], *chance.choices(shapes[1:], k=count - 1)]
    boxes = []
    for quarter, shape, colour in zip(chance.sample(range(4), count), forms, colours, strict=True):
        left, top = (quarter % 2) * 16 + chance.randint(1, 5), (quarter // 2) * 16 + chance.randint(1, 5)
        boxes.append((left, top, left + 9, top + 9))
        draw_shape(draw, shape, colour, boxes[-1])
    left, top, right, bottom = boxes[0]
    return Example(
        {"text": f"what colour is the {shapes[0]}", "image": image}, colours[0], (left, top, right + 1, bottom + 1)
    )


def make_two_shapes(chance: random.Random) -> Example:
    """Two shapes, of which the question names one."""
    return make_shapes(chance, others=1)


def make_words(chance: random.Random) -> Example:
    """Eight words, of which one decides."""
    words, label, place = chance.choices(FILLERS, k=8), chance.choice(list(COLOURS)), chance.randrange(8)
    words[place] = label
    return Example({"text": " ".join(words)}, label, place)


def make_clip(chance: random.Random) -> Example:
    """A second of noise with a short tone in each half; that in the second half decides."""
    tones = [chance.choice(list(TONES)) for _ in range(2)]
    clip = np.random.default_rng(chance.randrange(2**32)).standard_normal(RATE) * 0.05
    seconds = np.arange(RATE // 10) / RATE
    for half, tone in enumerate(tones):
        start = half * RATE // 2 + chance.randrange(RATE // 2 - len(seconds))
        clip[start : start + len(seconds)] += 0.5 * np.sin(2 * np.pi * TONES[tone] * seconds)
    return Example({"audio": {"array": clip.astype(np.float32), "sampling_rate": RATE}}, tones[1], 1)


def make_sides(chance: random.Random) -> Example:
    """The text names a colour and the image is grey, or the image shows one and the text names none."""
    label, side = chance.choice(list(COLOURS)), chance.choice(("text", "image"))
    ground = COLOURS[label] if side == "image" else (chance.randint(90, 160),) * 3
    noise = np.random.default_rng(chance.randrange(2**32)).integers(-20, 21, (SIDE, SIDE, 3))
    image = Image.fromarray(np.clip(np.array(ground) + noise, 0, 255).astype(np.uint8))
    words = chance.choices(FILLERS, k=4)
    words[chance.randrange(4)] = label if side == "text" else "none"
    return Example({"text": " ".join(words), "image": image}, label, side)


def build_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )


def build_towers(names: tuple[str, ...]) -> dict[str, Any]:
    towers: dict[str, Any] = {
        "text": PlaitTextConfig(vocab_size=len(WORDS), max_position_embeddings=16, pad_token_id=0, **TINY),
        "image": PlaitVisionConfig(image_size=SIDE, patch_size=4, stem="conv", class_tokens=0, **TINY),
        "audio": PlaitRNNConfig(
            num_mel_bins=16, rnn_size=32, num_hidden_layers=1, bidirectional=False, pooling="final"
        ),
    }
    return {name: towers[name] for name in names}


def build_processor(names: tuple[str, ...]) -> PlaitProcessor:
    image = PlaitProcessor.compose(image=PlaitVisionConfig(image_size=SIDE)).image_processor
    parts = {
        "text": {"tokenizer": build_tokenizer()},
        "image": {"image_processor": image},
        "audio": {"feature_extractor": PlaitMelFeatureExtractor(16, RATE)},
    }
    return PlaitProcessor(**{key: part for name in names for key, part in parts[name].items()})


class Task(NamedTuple):
    """A data set of known reasons: what draws a row, the labels, the modalities, what a good answer of an explanation
    is, and what draws the test rows, if they are others."""

    make: Callable[[random.Random], Example]
    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    rows: int
    epochs: int
    found: Callable[[Any, Any], bool]
    make_test: Callable[[random.Random], Example] | None = None


def found_box(explanation: Any, box: Any) -> bool:
    return points_at(explanation.attributions["image"].values, [box])


def found_word(explanation: Any, place: int) -> bool:
    return int(explanation.attributions["text"].values.argmax()) == place


def found_half(explanation: Any, half: int) -> bool:
    audio = explanation.attributions["audio"]
    middle = (audio.times[:-1] + audio.times[1:]) / 2
    return float(middle[audio.values.argmax()]) >= 0.5 * half


TASKS = {
    "shapes": Task(make_shapes, tuple(COLOURS), ("text", "image"), 6000, 20, found_box, make_two_shapes),
    "words": Task(make_words, tuple(COLOURS), ("text",), 1000, 4, found_word),
    "clip": Task(make_clip, tuple(TONES), ("audio",), 1000, 10, found_half),
    "sides": Task(make_sides, tuple(COLOURS), ("text", "image"), 1500, 6, found_word),
}


def make_examples(make: Callable[[random.Random], Example], count: int, seed: int) -> list[Example]:
    chance = random.Random(seed)
    return [make(chance) for _ in range(count)]


def train(task: Task, seed: int) -> tuple[PlaitForClassification, PlaitProcessor]:
    torch.manual_seed(seed)
    processor = build_processor(task.modalities)
    fusion = {"fusion": "cross_attention", "query": "text", "fusion_config": {**TINY, "num_hidden_layers": 2}}
    options = fusion if len(task.modalities) > 1 else {}
    model: Any = PlaitForClassification.compose(
        **build_towers(task.modalities), **options, labels=list(task.labels), initializer_range=0.1, verbose=False
    )
    collator = PlaitDataCollator(processor, LabelSpec(task.labels, SINGLE))
    examples = make_examples(task.make, task.rows, seed + 1)
    rows = [{**example.row, "label": task.labels.index(example.label)} for example in examples]
    batches = [collator(rows[start : start + 32]) for start in range(0, len(rows), 32)]
    steps = task.epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.2)
    chance = random.Random(seed)
    for epoch in range(task.epochs):
        chance.shuffle(batches)
        losses = []
        for batch in batches:
            loss = model.train()(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"  epoch {epoch + 1} of {task.epochs}: loss {np.mean(losses):.4f}", flush=True)
    return model.eval(), processor


@torch.no_grad()
def select_right(model: Any, processor: PlaitProcessor, task: Task, examples: list[Example]) -> list[Example]:
    """Returns the examples that the model answers rightly."""
    collator, right = PlaitDataCollator(processor), []
    for start in range(0, len(examples), 50):
        part = examples[start : start + 50]
        chosen = model(**collator([example.row for example in part])).logits.argmax(-1).tolist()
        right += [e for e, number in zip(part, chosen, strict=True) if task.labels[number] == e.label]
    return right


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains on one data set and returns by method how often the reason is found."""
    task = TASKS[name]
    print(f"{name}: training on {task.rows:,} rows", flush=True)
    model, processor = train(task, arguments.seed)
    examples = make_examples(task.make_test or task.make, arguments.test_rows, arguments.seed + 10_000)
    right = select_right(model, processor, task, examples)
    found: dict[str, Any] = {"accuracy": len(right) / len(examples), "rows": len(right), "reasons": {}}
    rows, reasons = [example.row for example in right], [example.reason for example in right]
    if name == "sides":
        for absence in ("shuffled", "blank", "absent"):
            report = plait.explain_modalities(model, processor, rows, absence=absence)
            largest = [report.players[number] for number in np.nanargmax(report.nats.shapley, axis=1)]
            hits = sum(one == other for one, other in zip(largest, reasons, strict=True))
            found["reasons"][absence] = compute_wilson_interval(hits, len(rows))
    else:
        for method in arguments.methods or [None]:
            explanation = plait.explain(model, processor, rows, method=method, modalities=task.modalities[-1])
            hits = sum(task.found(one, reason) for one, reason in zip(explanation, reasons, strict=True))
            found["reasons"][explanation.method] = compute_wilson_interval(hits, len(rows))
    for kind, (share, low, high) in found["reasons"].items():
        print(f"{name}, {kind}: {share:.3f} [{low:.3f}, {high:.3f}] of {len(right)} rows", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", help="of plait.explain (default: its default)")
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    started = time.process_time()
    found = {name: measure(name, arguments) for name in arguments.tasks}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shares = " ".join(f"{name}={next(iter(own['reasons'].values()))[0]:.3f}" for name, own in found.items())
    print(f"plait known reasons: {shares} seconds={time.process_time() - started:.0f}")


if __name__ == "__main__":
    main()
