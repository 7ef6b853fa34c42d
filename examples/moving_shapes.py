"""Questions about videos in which shapes move: `python examples/moving_shapes.py`.

Draws its own data: one or two shapes in colours, each still or moving left, right, up or down, some of them changing
colour on their way; and questions that one frame does not answer ("which way does the red circle move", "does the blue
square change its colour", "which moves faster"), beside some that it does ("what shape is green at the end"). A small
convolutional image tower reads every frame, a temporal transformer joins them, and text asks by cross-attention. The
same model given the middle frame alone, frozen into a still video, is the baseline. The last line is
`plait moving shapes: accuracy=0.xxx low=0.xxx high=0.xxx single_frame=0.xxx majority=0.xxx seconds=nnn`.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig

SIDE, FRAMES = 32, 8
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (230, 200, 40)}
SHAPES = ("circle", "square", "bar")
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "nowhere": (0, 0)}
WORDS = "[PAD] [UNK] which way does the move change its colour is faster or what shape moves".split()
WORDS += [*COLOURS, *SHAPES]


class Thing(NamedTuple):
    """One shape on its way: row and column of its middle in the first frame, pixels a frame."""

    shape: str
    colour: str
    later: str
    start: tuple[int, int]
    move: str
    speed: int


class Video(NamedTuple):
    """frames: (frames, height, width, channels) uint8."""

    frames: np.ndarray
    things: list[Thing]


def thing(chance: random.Random, colours: list[str], half: int) -> Thing:
    """A shape in the upper (0) or lower (1) half of the picture, where it stays."""
    move, speed = chance.choice(list(MOVES)), chance.choice((1, 2))
    down, across = MOVES[move]
    way = speed * (FRAMES - 1)
    speed, way = (1, FRAMES - 1) if down else (speed, way)  # half a picture has no room for more
    rows = (half * SIDE // 2 + 5, (half + 1) * SIDE // 2 - 5)
    row = chance.randint(*rows) if not down else rows[0 if down > 0 else 1]
    low, high = 5 + way * (across < 0), SIDE - 6 - way * (across > 0)
    start = (row, chance.randint(low, high))
    colour = colours.pop()
    later = colours.pop() if chance.random() < 0.4 else colour
    return Thing(chance.choice(SHAPES), colour, later, start, move, 0 if move == "nowhere" else speed)


def draw(things: list[Thing], chance: random.Random) -> np.ndarray:
    frames = np.full((FRAMES, SIDE, SIDE, 3), chance.randint(0, 40), dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(FRAMES):
        for each in things:
            down, across = (step * each.speed * number for step in MOVES[each.move])
            y, x = np.abs(rows - each.start[0] - down), np.abs(columns - each.start[1] - across)
            inside = {"circle": x * x + y * y <= 17, "square": (x <= 4) & (y <= 4), "bar": (x <= 4) & (y <= 1)}
            frames[number][inside[each.shape]] = COLOURS[each.colour if number < FRAMES // 2 else each.later]
    return frames


def make_video(chance: random.Random) -> Video:
    """One shape, or one in either half."""
    halves = chance.choice(([0], [1], [0, 1]))
    colours = chance.sample(list(COLOURS), len(COLOURS))
    things = [thing(chance, colours, half) for half in halves]
    return Video(draw(things, chance), things)


def questions(video: Video) -> list[tuple[str, str]]:
    """Every question that this video answers, with its answer. A thing is called by its first colour."""
    asked = []
    for each in video.things:
        name = f"{each.colour} {each.shape}"
        asked.append((f"which way does the {name} move", each.move))
        asked.append((f"does the {name} change its colour", "no" if each.colour == each.later else each.later))
        asked.append((f"what shape is {each.colour}", each.shape))
    if len(video.things) == 2:
        first, second = video.things
        if first.speed != second.speed:
            faster = first if first.speed > second.speed else second
            asked.append((f"which is faster the {first.colour} or the {second.colour}", faster.colour))
    return asked


class Rows(NamedTuple):
    """videos: (videos, frames, channels, height, width); the rest one entry a question."""

    videos: Tensor
    of: list[int]
    texts: list[str]
    answers: list[str]


def make_rows(count: int, seed: int, processor: PlaitProcessor) -> Rows:
    chance = random.Random(seed)
    videos = [make_video(chance) for _ in range(count)]
    pixels = [processor(videos=[video.frames], return_tensors="pt")["pixel_values_videos"][0, 0] for video in videos]
    rows = [(number, *pair) for number, video in enumerate(videos) for pair in questions(video)]
    of, texts, answers = map(list, zip(*rows, strict=True))
    return Rows(torch.stack(pixels), of, texts, answers)


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=["input_ids", "attention_mask"]
    )


def batches(rows: Rows, videos_at_once: int, chance: random.Random | None) -> Any:
    """Questions by their videos, so that each video is encoded once a step."""
    by_video: dict[int, list[int]] = {}
    for question, video in enumerate(rows.of):
        by_video.setdefault(video, []).append(question)
    order = list(by_video)
    if chance is not None:
        chance.shuffle(order)
    for start in range(0, len(order), videos_at_once):
        chosen = order[start : start + videos_at_once]
        yield chosen, [by_video[video] for video in chosen]


class Model(NamedTuple):
    model: Any
    processor: PlaitProcessor
    labels: dict[str, int]

    def logits(self, rows: Rows, videos: list[int], asked: list[list[int]], still: bool) -> Tensor:
        """Each video goes through its tower once; its questions share what came out."""
        frames = rows.videos[videos]
        if still:
            frames = frames[:, FRAMES // 2 : FRAMES // 2 + 1].expand_as(frames)
        encoded = self.model.model.encode("video", pixel_values_videos=frames)
        of = torch.tensor([place for place, questions in enumerate(asked) for _ in questions])
        given = {"video": {"last_hidden_state": encoded.last_hidden_state[of], "mask": encoded.mask[of]}}
        texts = [rows.texts[question] for questions in asked for question in questions]
        return self.model(**self.processor(text=texts, return_tensors="pt"), encoder_outputs=given).logits

    def targets(self, rows: Rows, asked: list[list[int]]) -> Tensor:
        return torch.tensor([self.labels[rows.answers[question]] for questions in asked for question in questions])


def new_model(processor: PlaitProcessor, labels: list[str]) -> Model:
    text = PlaitTextConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    image = PlaitVisionConfig(
        image_size=SIDE, patch_size=8, stem="conv", hidden_size=64, num_hidden_layers=0, class_tokens=0
    )
    video = PlaitVideoConfig(
        image_config=image, frame_pooling="none", num_frames=FRAMES, num_hidden_layers=2, num_attention_heads=4
    )
    fusion = {"num_hidden_layers": 2, "num_attention_heads": 4}
    model = PlaitForClassification.compose(
        text=text, video=video, fusion="cross_attention", query="text", fusion_config=fusion, labels=labels
    )
    return Model(model, processor, {label: number for number, label in enumerate(labels)})


def train(model: Model, rows: Rows, epochs: int, seed: int, still: bool, at_once: int = 32) -> None:
    chance, net = random.Random(seed), model.model
    steps = epochs * -(-len(rows.videos) // at_once)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.15)
    for epoch in range(epochs):
        losses = []
        for videos, asked in batches(rows, at_once, chance):
            net.train()
            logits = model.logits(rows, videos, asked, still)
            loss = torch.nn.functional.cross_entropy(logits, model.targets(rows, asked))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"{'still' if still else 'video'} epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", flush=True)


@torch.no_grad()
def accuracy(model: Model, rows: Rows, still: bool) -> float:
    model.model.eval()
    right = 0
    for videos, asked in batches(rows, 64, None):
        right += int((model.logits(rows, videos, asked, still).argmax(-1) == model.targets(rows, asked)).sum())
    return right / len(rows.texts)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--test-videos", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the model and its processor are saved")
    arguments = parser.parse_args()
    started = time.process_time()
    reader = PlaitProcessor.compose(video=PlaitVisionConfig(image_size=SIDE), num_frames=FRAMES)
    processor = PlaitProcessor(tokenizer=tokenizer(), frame_processor=reader.frame_processor, num_frames=FRAMES)
    rows = make_rows(arguments.videos, 1 + arguments.seed, processor)
    test = make_rows(arguments.test_videos, 10_000 + arguments.seed, processor)
    labels = sorted(set(rows.answers))
    shares = {}
    for still in (False, True):
        torch.manual_seed(arguments.seed)
        model = new_model(processor, labels)
        train(model, rows, arguments.epochs, arguments.seed, still)
        shares[still] = accuracy(model, test, still)
        if arguments.output is not None and not still:
            for part in (model.model, processor):
                part.save_pretrained(arguments.output)
            reloaded = PlaitForClassification.from_pretrained(arguments.output)
            shares[still] = accuracy(model._replace(model=reloaded), test, still)
        print(f"{'single frame' if still else 'video'}: accuracy {shares[still]:.4f}", flush=True)
    low, high = wilson(shares[False], len(test.texts))
    majority = max(test.answers.count(label) for label in labels) / len(test.answers)
    seconds = time.process_time() - started
    numbers = f"accuracy={shares[False]:.3f} low={low:.3f} high={high:.3f} single_frame={shares[True]:.3f}"
    print(f"plait moving shapes: {numbers} majority={majority:.3f} seconds={seconds:.0f}")


if __name__ == "__main__":
    main()
