"""Shows rows as the model reads them: texts from their tokens, images after processing, labels without what is
ignored."""

from collections.abc import Iterator, Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...modeling.losses.labels import IGNORE_INDEX
from ..data.labels import MULTI, REGRESSION
from ..data.media import list_present
from ..reports.inputs import to_url
from ..reports.page import section, wrap_page
from .findings import Diagnosis, Finding, format_finding
from .media_rows import measure_clip
from .memory import build_rows_batch, choose_batch
from .subject import BuiltSubject

SAMPLES_CHECK = "sample"
SHOWN_ROWS = 4
PRINTED = 300  # characters of a text that are printed
IGNORED_MARK = "·"  # stands for a label that the loss leaves out


class ShownRow(dict[str, Any]):
    """A row as it is read: `row` its number, `inputs` {name: text}, `images` {name: Pillow image}, `labels` a text."""


def collect_samples(subject: BuiltSubject) -> list[ShownRow]:
    """Returns the first rows of a training batch as the model reads them."""
    numbers = choose_batch(subject)[:SHOWN_ROWS]
    batch = build_rows_batch(subject, numbers)
    rows: Any = subject.rows.train
    return [show_read_row(subject, batch, place, number, rows[number]) for place, number in enumerate(numbers)]


def show_read_row(subject: BuiltSubject, batch: Mapping[str, Any], place: int, number: int, row: Any) -> ShownRow:
    """Returns one row of a batch as the model reads it."""
    texts = {name: decode_tokens(subject, name, batch, place) for name in batch if name.endswith("input_ids")}
    texts |= {f"audio {n + 1}": f"{measure_clip(clip)[0]:.2f} s" for n, clip in enumerate(list_present(row, "audio"))}
    return ShownRow(
        row=number,
        inputs=texts,
        images=collect_images(subject, batch, place),
        labels=show_labels(subject, batch, place),
    )


def decode_tokens(subject: BuiltSubject, name: str, batch: Mapping[str, Any], place: int) -> str:
    """Returns the text of a row's tokens with the special ones, without padding."""
    tokenizer: Any = subject.processor.find_part("tokenizer")
    if name.startswith("decoder") or tokenizer is None:
        tokenizer = subject.processor.target_tokenizer
    ids, mask = batch[name][place], batch.get(name.replace("input_ids", "attention_mask"))
    kept = ids if mask is None or mask.shape != batch[name].shape else ids[mask[place].bool()]
    return tokenizer.decode(kept, skip_special_tokens=False)


def show_labels(subject: BuiltSubject, batch: Mapping[str, Any], place: int) -> str:
    """Returns a row's labels as text: class names, a number, or tokens (IGNORED_MARK: left out)."""
    labels, spec = batch.get("labels"), subject.data.labels
    if labels is None:
        return "none: the loss compares the rows of a batch" if "return_loss" in batch else "none"
    value = labels[place]
    if spec is not None and spec.problem_type == REGRESSION:
        return f"{float(value):g}"
    if spec is not None and spec.problem_type == MULTI:
        return ", ".join(name for name, on in zip(spec.names, value.tolist(), strict=True) if on == 1) or "(none)"
    if spec is not None:
        return "not known" if int(value) < 0 else spec.names[int(value)]
    return decode_labels(subject, value.reshape(-1))


def decode_labels(subject: BuiltSubject, ids: Tensor) -> str:
    """Returns labels of tokens as text, each run of ignored ones as IGNORED_MARK with their number."""
    tokenizer: Any = subject.processor.target_tokenizer
    parts: list[str] = []
    start = 0
    values = ids.tolist()
    while start < len(values):
        end = start
        while end < len(values) and (values[end] == IGNORE_INDEX) == (values[start] == IGNORE_INDEX):
            end += 1
        run = values[start:end]
        parts.append(f"[{IGNORED_MARK} x {len(run)}]" if run[0] == IGNORE_INDEX else tokenizer.decode(run))
        start = end
    return " ".join(parts)


def collect_images(subject: BuiltSubject, batch: Mapping[str, Any], place: int) -> dict[str, Image.Image]:
    """Returns the images of a row after processing."""
    pixels, indices = batch.get("pixel_values"), batch.get("image_indices")
    images: dict[str, Image.Image] = {}
    if pixels is not None:
        chosen = range(1) if indices is None else indices[place].tolist()
        if indices is None:
            items = [pixels[place].reshape(-1, *pixels.shape[-3:])[0]] if len(pixels) > place else []
        else:
            items = [pixels[n] for n in chosen if n >= 0]
        part = subject.processor.find_part("image_processor")
        images |= {f"image {n + 1}": restore_image(item, part) for n, item in enumerate(items)}
    target = batch.get("target_pixel_values")
    if target is not None:
        images["target image"] = restore_image(target[place], subject.processor.find_part("target_image_processor"))
    return images


def restore_image(pixels: Tensor, processor: Any) -> Image.Image:
    """Returns processed pixels (channels, height, width) as an image, with the processor's normalisation undone."""
    values = pixels.detach().float().cpu().reshape(-1, *pixels.shape[-2:])
    mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
    if getattr(processor, "do_normalize", False) and mean is not None and std is not None:
        shape = (-1, 1, 1)
        values = values * torch.tensor(std).reshape(shape) + torch.tensor(mean).reshape(shape)
    elif values.min() < 0:
        values = (values + 1) / 2
    array = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else np.ascontiguousarray(array[..., :3]))


def check_samples(subject: BuiltSubject, facts: dict[str, Any], shown: list[ShownRow]) -> Iterator[Finding]:
    """Yields the first row as text; keeps all of them for the page."""
    shown += collect_samples(subject)
    facts["samples"] = [{key: value for key, value in row.items() if key != "images"} for row in shown]
    row = shown[0]
    lines = [f"row {row['row']} as the model reads it:"]
    lines += [f"{name}: {cut(text)}" for name, text in row["inputs"].items()]
    lines += [f"{name}: {image.width} x {image.height} pixels" for name, image in row["images"].items()]
    yield Finding(SAMPLES_CHECK, "ok", "\n".join([*lines, f"labels: {cut(row['labels'])}"]))


def cut(text: str) -> str:
    """Returns the beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= PRINTED else f"{line[:PRINTED]}..."


def write_page(folder: Path, diagnosis: Diagnosis, shown: Mapping[str, list[ShownRow]], name: str) -> None:
    """Writes FOLDER/doctor.html with all findings and rows, and their processed images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [section("Findings", f"<pre>{escape(chr(10).join(map(format_finding, diagnosis.findings)))}</pre>")]
    for task, rows in shown.items():
        cards = "\n".join(render_shown_row(folder, task, row) for row in rows)
        parts.append(section(f"Rows as the model reads them {escape(task)}", f'<div class="grid">{cards}</div>'))
    page = wrap_page(f"plait doctor: {name}", escape(diagnosis.format_summary()), "\n".join(parts))
    (folder / "doctor.html").write_text(page, encoding="utf-8")


def render_shown_row(folder: Path, task: str, row: ShownRow) -> str:
    """Returns the card of a row, and writes its images beside the page."""
    parts = [f'<p class="name">row {row["row"]}</p>']
    for name, image in row["images"].items():
        file = BytesIO()
        image.save(file, "PNG")
        place = "-".join([*([task] if task else []), f"row-{row['row']}", *name.split()])
        (folder / f"{place}.png").write_bytes(file.getvalue())
        parts.append(f'<img src="{to_url(file.getvalue(), "image/png")}" alt="{escape(name)}">')
    texts = {**row["inputs"], "labels": row["labels"]}
    parts += [f'<p><span class="name">{escape(name)}</span><br>{escape(text)}</p>' for name, text in texts.items()]
    return f'<div class="card">{"".join(parts)}</div>'
