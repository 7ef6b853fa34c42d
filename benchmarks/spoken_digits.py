"""A spoken digit becomes a drawn one: image generation with audio as its condition.

    python benchmarks/spoken_digits.py DATA --work work/digits [--seed 0] [--run FOLDER]

DATA holds train.parquet and test.parquet with the columns `audio` (undecoded: {"bytes", "path"}) and `label`: the Free
Spoken Digit Dataset. A recurrent audio tower learns the digits as a classifier; frozen, it is the condition of a
`PlaitForImageGeneration`, which learns to draw a random digit image (scikit-learn's `load_digits`, 28 pixels) of the
spoken digit and never sees a label. The model is saved, and with `--run` read again instead of trained. It then draws a
digit for every test clip; a small convolutional classifier, trained on the same real training images, reads it. Last
line, with the 95 % Wilson interval over the clips, the same for shuffled clips, the audio classifier's own accuracy
(the upper bound) and the reader's on real test images:

    plait spoken digits drawn: clips=N agreement=0.xxx low=0.xxx high=0.xxx shuffled=0.xxx heard=0.xxx read=0.xxx seconds=N
"""  # noqa: E501

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from image_judge import (
    ImageJudge,
    add_arguments,
    as_candidates,
    as_tensor,
    generate,
    load_or_train,
    standardize,
    write_report,
)
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from plait import (
    PlaitForClassification,
    PlaitForImageGeneration,
    PlaitProcessor,
    PlaitTrainer,
    PlaitTrainingArguments,
)
from plait.configuration import PlaitRNNConfig
from plait.processing import PlaitMelFeatureExtractor
from plait.training.data.image_grid import draw_grid
from plait.training.metrics.images.agreement import measure_agreement
from plait.training.metrics.images.copies import measure_diversity, measure_near_copies
from plait.training.metrics.images.distribution import estimate_kid
from plait.training.metrics.images.report import ImageMeasure, ImageReport

MEL_BINS, RATE, SIDE, DIGITS = 64, 8000, 28, 10
TOWER = PlaitRNNConfig(
    num_mel_bins=MEL_BINS, rnn_type="gru", rnn_size=128, num_hidden_layers=2, hidden_dropout_prob=0.2
)
COMMON = {
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "lr_scheduler_type": "cosine",
    "logging_steps": 50,
}
COMMON |= {"remove_unused_columns": False, "disable_tqdm": True, "warmup_steps": 30, "max_grad_norm": 1.0}


class Clips(NamedTuple):
    """frames: (mel bins, frames) a clip; labels: (clips,)."""

    frames: list[Tensor]
    labels: np.ndarray


class DigitImages(NamedTuple):
    """images: (images, 1, 28, 28) in -1..1; labels: (images,)."""

    images: Tensor
    labels: np.ndarray


class Pairs(Dataset):
    """Each clip with its label or, with images, a random image of its digit; the clip at another speed each time."""

    def __init__(self, clips: Clips, digits: DigitImages | None = None) -> None:
        self.clips, self.digits = clips, digits

    def __len__(self) -> int:
        return len(self.clips.frames)

    def __getitem__(self, row: int) -> dict[str, Any]:
        frames, label = change_speed(self.clips.frames[row]), int(self.clips.labels[row])
        if self.digits is None:
            return {"frames": frames, "labels": label}
        places = np.flatnonzero(self.digits.labels == label)
        place = int(places[int(torch.randint(len(places), ()))])
        return {"frames": frames, "target_pixel_values": self.digits.images[place]}


def change_speed(clip: Tensor) -> Tensor:
    """The clip at 85 to 115 % of its length."""
    length = max(4, round(clip.shape[1] * (0.85 + 0.3 * float(torch.rand(())))))
    return torch.nn.functional.interpolate(clip[None], size=length, mode="linear")[0]


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Clips padded to the longest, with their mask, and labels or images."""
    batch = pad([row["frames"] for row in rows])
    if "labels" in rows[0]:
        return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}
    return {**batch, "target_pixel_values": torch.stack([row["target_pixel_values"] for row in rows])}


def pad(clips: list[Tensor]) -> dict[str, Tensor]:
    lengths = torch.tensor([clip.shape[1] for clip in clips])
    values = torch.stack([torch.nn.functional.pad(clip, (0, int(lengths.max()) - clip.shape[1])) for clip in clips])
    return {"input_features": values, "input_features_mask": torch.arange(values.shape[2]) < lengths[:, None]}


def read_clips(file: Path, processor: PlaitProcessor) -> Clips:
    """The features of all clips, computed once."""
    from datasets import Audio
    from datasets import Dataset as Table

    table: Any = Table.from_parquet(str(file)).cast_column("audio", Audio(decode=False))
    frames = [processor(audio=[clip], return_tensors="pt")["input_features"][0, 0] for clip in table["audio"]]
    return Clips(frames, np.array(table["label"]))


def read_digits(test_share: float = 0.25) -> tuple[DigitImages, DigitImages]:
    """Training and test images: 8 pixels a side of 0..16, resized to 28."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    pixels = np.round(data.images * 255 / 16).astype(np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in pixels]
    )
    order = np.random.default_rng(0).permutation(len(large))
    rows = np.split(order, [round(len(order) * (1 - test_share))])
    train, test = (DigitImages(as_tensor(large[part][..., None]), data.target[part]) for part in rows)
    return train, test


def fit(model: Any, data: Pairs, work: Path, seed: int, **options: Any) -> None:
    """Trains the model with PlaitTrainer."""
    arguments = PlaitTrainingArguments(output_dir=str(work / "trainer"), seed=seed, **{**COMMON, **options})
    PlaitTrainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()


def train_models(clips: Clips, digits: DigitImages, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The audio classifier, and the model that draws under its frozen tower."""
    torch.manual_seed(arguments.seed)
    labels = [str(label) for label in range(DIGITS)]
    listener: Any = PlaitForClassification.compose(audio=TOWER, labels=labels, verbose=False)
    options = {"per_device_train_batch_size": 32, "learning_rate": 1.5e-3, "weight_decay": 0.05}
    fit(listener, Pairs(clips), arguments.work, arguments.seed, num_train_epochs=arguments.audio_epochs, **options)
    sizes = {"image_size": SIDE, "patch_size": 4, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    model: Any = PlaitForImageGeneration.compose(
        audio=listener, **sizes, denoiser_config={"num_channels": 1}, freeze="audio", verbose=False
    )
    model.fit_condition_scale([pad(clips.frames[start : start + 100]) for start in range(0, len(clips.frames), 100)])
    options = {"per_device_train_batch_size": 32, "learning_rate": 2e-3, "optim": "muon", "average_decay": 0.995}
    fit(model, Pairs(clips, digits), arguments.work, arguments.seed, max_steps=arguments.train_steps, **options)
    return listener.eval(), model.eval()


def measure(
    images: Tensor, spoken: np.ndarray, judge: ImageJudge, real: tuple[DigitImages, DigitImages]
) -> ImageReport:
    """The report of images drawn for the spoken digits."""
    (train, test), answers, report = real, judge.judge(images), ImageReport(len(images))
    truth = measure_agreement(judge.judge(test.images).logits[0], test.labels)
    agreement = measure_agreement(answers.logits[0], spoken)
    report.measures["digit"] = ImageMeasure.from_agreement(agreement, truth.own, 1 / DIGITS)
    known = judge.judge(train.images).features
    sets = [
        standardize(part, known) for part in (answers.features, known[: len(images)], judge.judge(test.images).features)
    ]
    report.measures["KID"] = ImageMeasure(*(estimate_kid(part, sets[2], 200) for part in sets[:2]))
    copies = measure_near_copies(images, test.images, train.images, mirrored=False)
    report.measures["near copies"] = ImageMeasure(copies.share, chance=0.01)
    report.measures["distance to training"] = ImageMeasure(copies.distance, copies.real_distance)
    diversity = measure_diversity(images, spoken), measure_diversity(test.images, test.labels)
    report.measures["diversity"] = ImageMeasure(*diversity)
    return report


@torch.inference_mode()
def listen(model: Any, clips: Clips) -> float:
    """The accuracy of the audio classifier."""
    starts = range(0, len(clips.frames), 100)
    found = [model(**pad(clips.frames[start : start + 100])).logits.argmax(dim=1) for start in starts]
    return float((torch.cat(found).numpy() == clips.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--run", type=Path, help="folder of a trained model; default: train one, saved in work/run-SEED"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--audio-epochs", type=int, default=8)
    parser.add_argument("--train-steps", type=int, default=900)
    add_arguments(parser)
    arguments = parser.parse_args()
    started, heard = time.process_time(), float("nan")
    extractor = PlaitMelFeatureExtractor(MEL_BINS, RATE)
    processor = PlaitProcessor.compose(audio=extractor, target_image_size=SIDE, target_channels=1)
    test, digits = read_clips(arguments.data / "test.parquet", processor), read_digits()
    folder = arguments.run or arguments.work / f"run-{arguments.seed}"
    if arguments.run is None:
        listener, model = train_models(read_clips(arguments.data / "train.parquet", processor), digits[0], arguments)
        heard = listen(listener, test)
        for part in (model, processor):
            part.save_pretrained(folder)
    candidates = as_candidates(digits[0].labels, DIGITS)
    judge = load_or_train(arguments.work / "digit_judge.pt", digits[0].images, [candidates], epochs=15, mirror=False)

    def encode(_: Any, rows: range) -> Any:
        clips = test.frames[rows.start : rows.stop]
        return pad(clips) if clips else None

    images = generate(str(folder), encode, arguments)
    report = measure(images, test.labels, judge, digits)
    shown = [int(np.flatnonzero(test.labels == digit)[number]) for number in range(6) for digit in range(DIGITS)]
    grid = draw_grid(images[shown], DIGITS, [str(digit) for digit in range(DIGITS)] * 6)
    content = {**report.to_dict(), "heard": heard}
    write_report(arguments.output or arguments.work, "spoken_digits", content, report.format_table(), grid)
    print(summarize(report, heard, time.process_time() - started))


def summarize(report: ImageReport, heard: float, seconds: float) -> str:
    """The last line."""
    found = report.measures["digit"]
    assert found.shuffled and found.real
    own, shuffled = found.generated, found.shuffled.value
    scores = f"agreement={own.value:.3f} low={own.low:.3f} high={own.high:.3f} shuffled={shuffled:.3f}"
    others = f"heard={heard:.3f} read={found.real.value:.3f} seconds={seconds:.0f}"
    return f"plait spoken digits drawn: clips={report.count} {scores} {others}"


if __name__ == "__main__":
    main()
