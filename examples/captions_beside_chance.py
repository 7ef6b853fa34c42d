"""Does a captioner look? `python examples/captions_beside_chance.py RUN DATA`.

RUN is a folder that `plait train captioning` saved, DATA a folder with train.parquet and test.parquet (columns `image`
and `captions`). Every test photo is captioned from itself, from another photo of the test set (a fixed shuffle in which
none keeps its own), and by the caption of its nearest training photo (cosine of the image tower's pooled tokens).
CIDEr-D of the three stands beside each other, with the paired bootstrap 95 % interval of the first against the second
and the third; RUN/captions.png shows photos and captions, RUN/captions.json holds all figures.
"""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

BATCH = 20


def rows_of(folder: Path, split: str) -> tuple[list[Any], list[list[str]]]:
    """Photos and their captions."""
    from datasets import load_dataset

    rows: Any = load_dataset("parquet", data_files={split: str(folder / f"{split}.parquet")}, split=split)
    return [image.convert("RGB") for image in rows["image"]], [list(captions) for captions in rows["captions"]]


def captions(model: Any, processor: Any, photos: list[Any], beams: int) -> list[str]:
    written = []
    for start in tqdm(range(0, len(photos), BATCH), desc="captions"):
        inputs = processor(images=photos[start : start + BATCH], return_tensors="pt")
        tokens = model.generate(**inputs, num_beams=beams, max_new_tokens=40)
        written += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    return written


def features(model: Any, processor: Any, photos: list[Any]) -> torch.Tensor:
    """(photos, width): the mean of the image tower's tokens, of length 1."""
    found = []
    for start in tqdm(range(0, len(photos), BATCH), desc="photos"):
        inputs = processor(images=photos[start : start + BATCH], return_tensors="pt")
        with torch.inference_mode():
            found.append(model.model.encode("image", **inputs).last_hidden_state.mean(dim=1))
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


def shuffled(count: int, seed: int = 0) -> list[int]:
    """An order in which nothing stays in its place: one cycle through a random permutation."""
    order = np.random.default_rng(seed).permutation(count)
    place = np.empty(count, dtype=int)
    place[order] = np.roll(order, 1)
    return place.tolist()


def draw(path: Path, photos: list[Any], written: dict[str, list[str]], references: list[list[str]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 4, figsize=(18, 15))
    for row, axis in zip(range(0, len(photos), max(1, len(photos) // 12)), axes.flat, strict=False):
        lines = {**{name: texts[row] for name, texts in written.items()}, "a person": references[row][0]}
        title = "\n".join(textwrap.fill(f"{name}: {text}", 46) for name, text in lines.items())
        axis.imshow(photos[row])
        axis.set_title(title, fontsize=9, loc="left")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    from transformers import AutoProcessor

    from plait import PlaitForConditionalGeneration
    from plait.training.metrics.bootstrap import paired_bootstrap
    from plait.training.metrics.cider import cider_d

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--beams", type=int, default=3)
    options = parser.parse_args()
    model = PlaitForConditionalGeneration.from_pretrained(options.run).eval()
    processor = AutoProcessor.from_pretrained(options.run)
    photos, references = rows_of(options.data, "test")
    known, known_captions = rows_of(options.data, "train")
    nearest = (features(model, processor, photos) @ features(model, processor, known).T).argmax(dim=1).tolist()
    others = [photos[row] for row in shuffled(len(photos))]
    written = {
        "model": captions(model, processor, photos, options.beams),
        "shuffled": captions(model, processor, others, options.beams),
        "nearest": [known_captions[row][0] for row in nearest],
    }
    scores = {name: cider_d(texts, references) for name, texts in written.items()}
    result: dict[str, Any] = {"cider": {name: round(float(values.mean()), 4) for name, values in scores.items()}}
    result["distinct"] = {name: round(len(set(texts)) / len(texts), 3) for name, texts in written.items()}
    for other in ("shuffled", "nearest"):
        interval = paired_bootstrap(scores["model"], scores[other])
        result[f"model - {other}"] = [round(value, 4) for value in interval]
    (options.run / "captions.json").write_text(json.dumps({**result, "captions": written}, indent=2) + "\n")
    draw(options.run / "captions.png", photos, written, references)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
