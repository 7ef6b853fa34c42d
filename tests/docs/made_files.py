"""Makes the files that stand for a reader's own data: small, but of the kind that a page speaks of.

They lie in the folder in which the blocks of a page run. `FILES` lists them for whoever writes a page.
"""

import csv
import json
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

FILES = {
    "data.csv": "24 rows: text, label (good, bad)",
    "products.csv": "24 rows: title, description (empty in some), photo (a path; empty in some), category (3 classes), "
    "tags (several, separated by ;), price",
    "questions.csv": "24 rows: image, text (a question), label (its answer)",
    "captions.csv": "24 rows: image, caption",
    "clips.csv": "16 rows: audio, label (high, low)",
    "videos.csv": "8 rows: video, label (left, right)",
    "translations.csv": "24 rows: text, target",
    "chats.jsonl": "12 rows: image, messages (role, content) with <image>",
    "squad.json": "12 questions in SQuAD's format",
    "book.txt": "40 lines of text",
    "pets": "a folder of pictures for each class: pets/cat/*.png, pets/dog/*.png, 8 each",
    "pictures": "the pictures of the tables",
    "clips": "the sounds of clips.csv",
    "videos": "the videos of videos.csv",
    "photo.jpg": "a picture",
    "recording.wav": "3 seconds of sound, 16 kHz",
    "clip.mp4": "a video of 8 frames",
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
SHAPES = ("circle", "square")
PIXELS, RATE, FRAMES = 48, 16000, 8


def make_files(folder: Path) -> None:
    """Fills the folder with `FILES`."""
    scenes = [(colour, shape, number) for number in range(4) for colour in COLOURS for shape in SHAPES]
    pictures = [draw_picture(folder / "pictures" / f"{n:02}.png", *scene) for n, scene in enumerate(scenes)]
    write_reviews(folder / "data.csv")
    write_products(folder / "products.csv", scenes, pictures)
    write_questions(folder, scenes, pictures)
    write_speech_and_video(folder)
    write_texts(folder)
    for number, kind in enumerate(["cat", "dog"] * 8):
        draw_picture(folder / "pets" / kind / f"{number}.png", list(COLOURS)[number % 2], SHAPES[number % 2], number)
    with Image.open(folder / pictures[0]) as picture:
        picture.convert("RGB").save(folder / "photo.jpg")


def write_reviews(path: Path) -> None:
    words = {"good": ("lovely", "fine", "great"), "bad": ("dull", "poor", "awful")}
    rows = [
        {"text": f"what a {words[label][number % 3]} film, number {number}", "label": label}
        for number in range(12)
        for label in words
    ]
    write_csv(path, rows)


def write_products(path: Path, scenes: Sequence[tuple[str, str, int]], pictures: Sequence[str]) -> None:
    rows = [
        {
            "title": f"{colour} {shape} {number}",
            "description": "" if number == 1 else f"A {shape} that is {colour}.",
            "photo": "" if number == 2 else picture,
            "category": colour,
            "tags": f"{colour};{shape}",
            "price": f"{9.5 + number + 10 * (shape == 'square'):.2f}",
        }
        for (colour, shape, number), picture in zip(scenes, pictures, strict=True)
    ]
    write_csv(path, rows)


def write_questions(folder: Path, scenes: Sequence[tuple[str, str, int]], pictures: Sequence[str]) -> None:
    """Tables about the pictures: questions, captions, dialogues."""
    asked = [
        {"image": picture, "text": f"what colour is picture {place}?", "label": scene[0]}
        for place, (scene, picture) in enumerate(zip(scenes, pictures, strict=True))
    ]
    told = [
        {"image": picture, "caption": f"a {colour} {shape}"}
        for (colour, shape, _), picture in zip(scenes, pictures, strict=True)
    ]
    write_csv(folder / "questions.csv", asked)
    write_csv(folder / "captions.csv", told)
    turns = [
        {
            "image": row["image"],
            "messages": [
                {"role": "user", "content": "<image> What is this?"},
                {"role": "assistant", "content": row["caption"]},
            ],
        }
        for row in told[:12]
    ]
    write_lines(folder / "chats.jsonl", map(json.dumps, turns))


def write_speech_and_video(folder: Path) -> None:
    clips, videos = [], []
    for number, label in enumerate(["high", "low"] * 8):
        name = f"clips/{number:02}.wav"
        write_tone(folder / name, 900 if label == "high" else 200, 0.3 + 0.01 * number)
        clips.append({"audio": name, "label": label})
    for number, label in enumerate(["left", "right"] * 4):
        name = f"videos/{number:02}.mp4"
        write_video(folder / name, label == "right", number)
        videos.append({"video": name, "label": label})
    write_csv(folder / "clips.csv", clips)
    write_csv(folder / "videos.csv", videos)
    write_tone(folder / "recording.wav", 440, 3)
    write_video(folder / "clip.mp4", True, 0)


def write_texts(folder: Path) -> None:
    words = {"red": "rot", "dog": "Hund", "cat": "Katze", "big": "gross"}
    names = list(words)
    pairs = [(names[n % 4], names[(n * 3 + n // 4) % 4]) for n in range(24)]
    rows = [{"text": " ".join(pair), "target": " ".join(words[word] for word in pair)} for pair in pairs]
    write_csv(folder / "translations.csv", rows)
    write_lines(folder / "book.txt", (f"The {a} {b} sleeps, and the {b} runs." for a, b in pairs + pairs[:16]))
    people = {"Anna": "Rome", "Ben": "Paris", "Cara": "Berlin"}
    paragraphs = []
    for number in range(12):
        name, city = list(people.items())[number % 3]
        context = f"This is day {number}. {name} lives in {city} and works there."
        answer = {"text": city, "answer_start": context.index(city)}
        asked = {"id": str(number), "question": f"Where does {name} live?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [asked]})
    content = {"version": "1.1", "data": [{"title": "made", "paragraphs": paragraphs}]}
    (folder / "squad.json").write_text(json.dumps(content))


def draw_picture(path: Path, colour: str, shape: str, number: int) -> str:
    """Returns the path as a table names it: relative to the folder of the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (PIXELS, PIXELS), (240, 240, 240 - 5 * number))
    draw = ImageDraw.Draw(picture)
    box = (6 + number, 8, 30 + number, 32)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=COLOURS[colour])
    picture.save(path)
    return "/".join(path.parts[-2:])


def write_tone(path: Path, frequency: float, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.4 * np.sin(2 * np.pi * frequency * np.arange(round(RATE * seconds)) / RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_video(path: Path, to_the_right: bool, number: int) -> None:
    """A bright square that moves over a dark ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = PIXELS
        for step in range(FRAMES):
            pixels = np.full((PIXELS, PIXELS, 3), 20 + number, dtype=np.uint8)
            left = 4 * (step if to_the_right else FRAMES - step)
            pixels[16:32, left : left + 12] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
