"""A small convolutional classifier that judges generated images, trained on real ones inside the benchmarks."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

WIDTHS = (24, 48, 96, 128)
FEATURES = 64


class Answers(NamedTuple):
    """logits: one (images, classes) for each question; features: (images, width), before the last layer."""

    logits: tuple[Tensor, ...]
    features: Tensor

    @property
    def classes(self) -> np.ndarray:
        """The most probable class of each question, (images, questions)."""
        return torch.stack([logits.argmax(dim=1) for logits in self.logits], dim=1).numpy()


class ImageJudge(nn.Module):
    """Answers one or several questions about an image, each with its number of classes.

    Args:
        classes: the number of classes of each question.
        channels, size: of the images, (images, channels, size, size) in -1..1.
    """

    def __init__(self, classes: Sequence[int], channels: int = 3, size: int = 64) -> None:
        super().__init__()
        self.classes, layers = list(classes), []
        depth = max(2, min(len(WIDTHS), int(math.log2(size)) - 2))
        for before, after in zip((channels, *WIDTHS), WIDTHS[:depth], strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            size = -(-size // 2)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTHS[depth - 1] * size**2, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, sum(self.classes))

    def forward(self, images: Tensor) -> Answers:
        features = self.body(images)
        return Answers(self.head(features).split(self.classes, dim=1), features)

    @torch.inference_mode()
    def judge(self, images: Tensor) -> Answers:
        """Answers in evaluation mode, 250 images at a time."""
        self.eval()
        parts = [self(batch) for batch in images.split(250)]
        logits = tuple(torch.cat([part.logits[n] for part in parts]) for n in range(len(self.classes)))
        return Answers(logits, torch.cat([part.features for part in parts]))


def candidates_loss(answers: Answers, candidates: Sequence[Tensor]) -> Tensor:
    """Minus the log probability that the class is among the candidates, (images, classes) bool, of each question."""
    losses = [
        torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~mask, -torch.inf), 1)
        for logits, mask in zip(answers.logits, candidates, strict=True)
    ]
    return torch.stack(losses).sum(dim=0).mean()


def disturb(images: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
    """Moves images by up to a sixteenth, mirrors half of them and adds noise, so that a judge reads generated ones."""
    reach = images.shape[-1] // 16
    moves = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    images = torch.roll(images, moves, (2, 3))
    if mirror and torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
    return images + 0.05 * torch.rand((), generator=generator) * torch.randn(images.shape, generator=generator)


def train_judge(
    images: Tensor,
    candidates: Sequence[Tensor],
    *,
    epochs: int = 10,
    batch_size: int = 100,
    mirror: bool = True,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> ImageJudge:
    """Trains a judge on real images whose class is known to be among candidates, (images, classes) bool a question."""
    torch.manual_seed(seed)
    judge = ImageJudge([mask.shape[1] for mask in candidates], images.shape[1], images.shape[2])
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            if len(rows) < batch_size:
                continue
            answers = judge.train()(disturb(images[rows], generator, mirror))
            candidates_loss(answers, [mask[rows] for mask in candidates]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return judge.eval()


def load_or_train(file: Path, images: Tensor, candidates: Sequence[Tensor], **options: Any) -> ImageJudge:
    """Returns the judge in `file`, trained and saved there by the first call."""
    judge = ImageJudge([mask.shape[1] for mask in candidates], images.shape[1], images.shape[2])
    if file.exists():
        judge.load_state_dict(torch.load(file, weights_only=True))
        return judge.eval()
    judge = train_judge(images, candidates, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(judge.state_dict(), file)
    return judge


def as_candidates(labels: np.ndarray, classes: int) -> Tensor:
    """The candidates of labels that are known: (images, classes) bool."""
    return torch.from_numpy(labels)[:, None] == torch.arange(classes)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """8-bit pixels, (images, height, width, channels), as the images that models generate: (images, channels, height,
    width) in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def standardize(features: Tensor, reference: Tensor) -> Tensor:
    """Features in units of the reference's standard deviation, so that no feature outweighs the others in KID."""
    return (features - reference.mean(dim=0)) / (reference.std(dim=0) + 1e-3)


def generate(folder: str, inputs: Any, arguments: Any, batch_size: int = 60) -> Tensor:
    """Images of the model in a run folder, (rows, channels, height, width) in -1..1.

    inputs: `inputs(processor, rows)` gives the arguments of `generate_images` for a range of rows, and None at the end;
    arguments: steps, guidance and generation_seed of the command line.
    """
    import plait

    model: Any = plait.PlaitForImageGeneration.from_pretrained(folder)
    processor = plait.PlaitProcessor.from_pretrained(folder)
    generator = torch.Generator().manual_seed(arguments.generation_seed)
    options = {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance, "output_type": "pt"}
    options["guidance_interval"] = arguments.guidance_interval
    images, start = [], 0
    while (batch := inputs(processor, range(start, start + batch_size))) is not None:
        images.append(model.generate_images(**batch, generator=generator, **options).float().cpu())
        start += batch_size
    return torch.cat(images)


def add_arguments(parser: Any) -> None:
    """The arguments that the benchmarks of generated images share."""
    parser.add_argument("--work", type=Path, required=True, help="folder of the judge, trained once")
    parser.add_argument("--output", type=Path, help="folder of the report; default: the work folder")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--guidance-interval", type=float, nargs=2, default=(0.0, 1.0))
    parser.add_argument("--generation-seed", type=int, default=0)


def write_report(folder: Path, name: str, content: dict[str, Any], table: str, grid: Any) -> None:
    """Writes NAME.json, NAME.md and NAME.png, and prints the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    grid.save(folder / f"{name}.png")
    print(table)
