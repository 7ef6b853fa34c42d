"""Questions about videos in which shapes move: `python examples/moving_shapes.py`.

Draws its own data: one or two shapes in colours, each still or moving left, right, up or down at one of two speeds,
half of them changing colour on their way; and questions about each, called by its first colour: "which way does the red
cross move", which no single frame shows, "does the blue square change its colour", "which colour has the blue square at
the end", "what shape is green".

A small convolutional image tower reads every frame, a temporal transformer joins them, and text asks by
cross-attention. The baselines: the same model trained and tested on the middle frame alone; the commonest answer to
each question, blind to the video; and the commonest answer of all. Intervals are bootstrapped over the test videos, of
which each is asked several questions. The last line is `plait moving shapes: accuracy=0.xxx low=0.xxx high=0.xxx
single_frame=0.xxx gain_low=0.xxx blind=0.xxx majority=0.xxx seconds=nnn`, where gain_low is the lower end of the paired
difference.
"""

import argparse
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig
from plait.training.metrics.bootstrap import BootstrapValues, Resamples

SIDE, FRAMES = 32, 4
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (230, 200, 40)}
SHAPES = ("cross", "square", "bar")
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "nowhere": (0, 0)}
WORDS = "[PAD] [UNK] which way does the move change its colour is has at end what shape".split()
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
    move, speed = chance.choice(list(MOVES)), chance.choice((2, 5))
    down, across = MOVES[move]
    speed = 2 if down else speed  # half a picture has no room for more
    way = speed * (FRAMES - 1)
    rows = (half * SIDE // 2 + 5, (half + 1) * SIDE // 2 - 5)
    row = chance.randint(*rows) if not down else rows[0 if down > 0 else 1]
    low, high = 5 + way * (across < 0), SIDE - 6 - way * (across > 0)
    start = (row, chance.randint(low, high))
    colour = colours.pop()
    later = colours.pop() if chance.random() < 0.5 else colour
    return Thing(chance.choice(SHAPES), colour, later, start, move, 0 if move == "nowhere" else speed)


def draw(things: list[Thing], chance: random.Random) -> np.ndarray:
    frames = np.full((FRAMES, SIDE, SIDE, 3), chance.randint(0, 40), dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number in range(FRAMES):
        for each in things:
            down, across = (step * each.speed * number for step in MOVES[each.move])
            y, x = np.abs(rows - each.start[0] - down), np.abs(columns - each.start[1] - across)
            near = (x <= 4) & (y <= 4)
            inside = {"cross": near & (np.minimum(x, y) <= 1), "square": near, "bar": near & (y <= 1)}
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
        asked.append((f"does the {name} change its colour", "no" if each.colour == each.later else "yes"))
        asked.append((f"which colour has the {name} at the end", each.later))
        asked.append((f"what shape is {each.colour}", each.shape))
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
            frames = frames[:, FRAMES // 2 : FRAMES // 2 + 1]
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
        text=text,
        video=video,
        fusion="cross_attention",
        query="text",
        fusion_config=fusion,
        labels=labels,
        initializer_range=0.1,  # 0.02 is made for wide models: in one of 64 it takes long until attention attends
        verbose=False,
    )
    return Model(model, processor, {label: number for number, label in enumerate(labels)})


def train(model: Model, rows: Rows, epochs: int, seed: int, still: bool, at_once: int = 16) -> None:
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
        kind = "single frame" if still else "video"
        print(f"{kind}, epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", flush=True)


@torch.no_grad()
def predictions(model: Model, rows: Rows, still: bool) -> np.ndarray:
    """The answers to all questions, in their order."""
    model.model.eval()
    names, found = list(model.labels), [""] * len(rows.texts)
    for videos, asked in batches(rows, 64, None):
        chosen = model.logits(rows, videos, asked, still).argmax(-1).tolist()
        for question, label in zip([number for group in asked for number in group], chosen, strict=True):
            found[question] = names[label]
    return np.array(found)


def blind_answers(rows: Rows, texts: list[str]) -> np.ndarray:
    """The commonest answer of `rows` to each question; one that was never asked gets the commonest of all."""
    by_text: dict[str, Counter[str]] = {}
    for text, answer in zip(rows.texts, rows.answers, strict=True):
        by_text.setdefault(text, Counter())[answer] += 1
    commonest = {text: counts.most_common(1)[0][0] for text, counts in by_text.items()}
    fallback = Counter(rows.answers).most_common(1)[0][0]
    return np.array([commonest.get(text, fallback) for text in texts])


def accuracy(truth: np.ndarray, answers: np.ndarray) -> float:
    return float((truth == answers).mean())


def report(test: Rows, systems: dict[str, np.ndarray]) -> dict[str, BootstrapValues]:
    """Prints the accuracy of each system, with its interval and by the kind of question; returns the draws."""
    truth, draws = np.array(test.answers), Resamples(np.array(test.of), seeds=1, count=2000, seed=0)
    kinds = np.array([" ".join(text.split()[:2]) for text in test.texts])
    values = {}
    for name, answers in systems.items():
        values[name] = draws.compute_values(accuracy, truth, [answers])
        interval = values[name].interval
        parts = [f"{kind} {accuracy(truth[kinds == kind], answers[kinds == kind]):.3f}" for kind in sorted(set(kinds))]
        print(f"{name}: {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}] ({', '.join(parts)})")
    return values


def trained(arguments: argparse.Namespace, processor: PlaitProcessor, rows: Rows, still: bool) -> Model:
    """A model of all frames, or of the middle one; that of all frames is saved, and read back, where so asked."""
    torch.manual_seed(arguments.seed)
    model = new_model(processor, sorted(set(rows.answers)))
    train(model, rows, arguments.epochs, arguments.seed, still)
    if arguments.output is None or still:
        return model
    for part in (model.model, processor):
        part.save_pretrained(arguments.output)
    return model._replace(model=PlaitForClassification.from_pretrained(arguments.output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=4000)
    parser.add_argument("--test-videos", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the model and its processor are saved")
    arguments = parser.parse_args()
    started = time.process_time()
    reader = PlaitProcessor.compose(video=PlaitVisionConfig(image_size=SIDE), num_frames=FRAMES)
    processor = PlaitProcessor(tokenizer=tokenizer(), frame_processor=reader.frame_processor, num_frames=FRAMES)
    rows = make_rows(arguments.videos, 1 + arguments.seed, processor)
    test = make_rows(arguments.test_videos, 10_000 + arguments.seed, processor)
    systems = {
        name: predictions(trained(arguments, processor, rows, still), test, still)
        for name, still in (("video", False), ("single frame", True))
    }
    systems["blind"] = blind_answers(rows, test.texts)
    systems["majority"] = np.full(len(test.texts), Counter(rows.answers).most_common(1)[0][0])
    values = report(test, systems)
    whole, gain = values["video"].interval, values["video"].subtract(values["single frame"]).interval
    print(f"video - single frame: {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    others = [f"{name.replace(' ', '_')}={values[name].estimate:.3f}" for name in ("single frame", "blind", "majority")]
    numbers = (
        f"accuracy={whole.value:.3f} low={whole.low:.3f} high={whole.high:.3f} {others[0]} gain_low={gain.low:.3f}"
    )
    print(f"plait moving shapes: {numbers} {' '.join(others[1:])} seconds={time.process_time() - started:.0f}")


if __name__ == "__main__":
    main()
