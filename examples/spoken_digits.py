"""Spoken digits (or any short words) from scratch: `python examples/spoken_digits.py DATA --tower rnn`.

DATA holds train.parquet and test.parquet with the columns `audio` (a `datasets` Audio, undecoded: {"bytes", "path"})
and `label` (numbers): the Free Spoken Digit Dataset, for example. The tower is a recurrent one (`rnn`) or Whisper's
convolutions with a small transformer (`transformer`), over mel frames as long as the clip. The last line is
`plait spoken digits: tower=... accuracy=0.xxx low=0.xxx high=0.xxx majority=0.xxx seconds=nnn`, with the 95 % Wilson
interval over the test clips.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Audio, Dataset
from torch import Tensor

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitAudioConfig, PlaitRNNConfig
from plait.processing import PlaitMelFeatureExtractor

MEL_BINS, RATE = 64, 8000
TOWERS = {
    "rnn": PlaitRNNConfig(
        num_mel_bins=MEL_BINS, rnn_type="gru", rnn_size=128, num_hidden_layers=2, hidden_dropout_prob=0.2
    ),
    "transformer": PlaitAudioConfig(
        num_mel_bins=MEL_BINS,
        max_source_positions=200,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        hidden_dropout_prob=0.1,
        pooling="mean",
    ),
}


class Clips(NamedTuple):
    """frames: (mel bins, frames) a clip; labels: (clips,)."""

    frames: list[Tensor]
    labels: Tensor


def read(file: Path, processor: PlaitProcessor) -> Clips:
    """The features of all clips, computed once."""
    data: Any = Dataset.from_parquet(str(file))
    data = data.cast_column("audio", Audio(decode=False))
    frames = [processor(audio=[clip], return_tensors="pt")["input_features"][0, 0] for clip in data["audio"]]
    return Clips(frames, torch.tensor(data["label"]))


def batch_of(frames: list[Tensor]) -> dict[str, Tensor]:
    """Clips padded to the longest, with their mask."""
    lengths = torch.tensor([clip.shape[1] for clip in frames])
    values = torch.zeros(len(frames), frames[0].shape[0], int(lengths.max()))
    for row, clip in enumerate(frames):
        values[row, :, : clip.shape[1]] = clip
    mask = torch.arange(values.shape[2])[None] < lengths[:, None]
    return {"input_features": values, "input_features_mask": mask}


def augmented(clip: Tensor, random: np.random.Generator) -> Tensor:
    """Another speed (85 .. 115 %), and one band of time and of frequency blanked (SpecAugment, Park et al. 2019,
    https://arxiv.org/abs/1904.08779)."""
    length = max(4, round(clip.shape[1] * random.uniform(0.85, 1.15)))
    clip = torch.nn.functional.interpolate(clip[None], size=length, mode="linear")[0]
    for size, most in ((0, MEL_BINS // 6), (1, length // 6)):
        width = int(random.integers(0, most + 1))
        start = int(random.integers(0, clip.shape[size] - width + 1))
        clip.narrow(size, start, width).zero_()
    return clip


def train(model: Any, clips: Clips, epochs: int, batch_size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = epochs * (len(clips.frames) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        order, losses = random.permutation(len(clips.frames)), []
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size].tolist()
            inputs = batch_of([augmented(clips.frames[row], random) for row in rows])
            loss = model.train()(**inputs, labels=clips.labels[rows]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}", flush=True)


@torch.no_grad()
def accuracy(model: Any, clips: Clips, batch_size: int = 100) -> float:
    right = 0
    for start in range(0, len(clips.frames), batch_size):
        logits = model.eval()(**batch_of(clips.frames[start : start + batch_size])).logits
        right += int((logits.argmax(-1) == clips.labels[start : start + batch_size]).sum())
    return right / len(clips.frames)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tower", choices=TOWERS, default="rnn")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="where the model and its processor are saved")
    arguments = parser.parse_args()
    started = time.process_time()
    torch.manual_seed(arguments.seed)
    processor = PlaitProcessor(feature_extractor=PlaitMelFeatureExtractor(MEL_BINS, RATE))
    splits = {name: read(arguments.data / f"{name}.parquet", processor) for name in ("train", "test")}
    labels = sorted(set(splits["train"].labels.tolist()))
    model = PlaitForClassification.compose(audio=TOWERS[arguments.tower], labels=[str(label) for label in labels])
    train(model, splits["train"], arguments.epochs, arguments.batch_size, arguments.seed)
    if arguments.output is not None:
        for part in (model, processor):
            part.save_pretrained(arguments.output)
        model = PlaitForClassification.from_pretrained(arguments.output)
    test = splits["test"]
    share, majority = accuracy(model, test), test.labels.bincount().max().item() / len(test.labels)
    low, high = wilson(share, len(test.labels))
    seconds = time.process_time() - started
    numbers = f"accuracy={share:.3f} low={low:.3f} high={high:.3f} majority={majority:.3f} seconds={seconds:.0f}"
    print(f"plait spoken digits: tower={arguments.tower} {numbers}")


if __name__ == "__main__":
    main()
