"""Every text family x every image family x every fusion, and every encoder family x every decoder family, at tiny
size: `python benchmarks/matrix.py [--sample K]`.

Each cell composes two checkpoints from disk, runs a batch in which one row has no text and another no picture, takes a
training step in which every trainable parameter must get a finite gradient, saves, reloads, and compares weights and
outputs bit by bit; with a decoder it generates too, with and without a cache. `--sample K` lets each text family meet K
image families, the fusions taking turns, and each encoder two decoders: from K = 4 on every text-fusion and
image-fusion pair is covered, with K = the number of image families every text-image pair too.
Last line: `plait matrix: cells=N failed=0`; the exit status is 1 if a cell failed.
"""

import argparse
import sys
import tempfile
import traceback
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor
from tqdm import tqdm
from writing import (
    DECODERS,
    GREEDY,
    Writing,
    check_generation,
    composed,
    decoder_source,
    inputs_of,
    labelled,
    writings_of,
)
from zoo import IMAGES, PIXELS, TEXTS, VOCABULARY, Family, source_of

from plait import PlaitForClassification
from plait.modeling.composition_table import Row
from plait.modeling.fusion import FUSIONS

PARTS = ("model.towers.text", "model.towers.image", "model.connectors", "model.fusion", "model.decoder")
FUSION_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


class Cell(NamedTuple):
    """What is composed."""

    text: Family
    image: Family
    fusion: str

    def __str__(self) -> str:
        return f"{self.text.name} x {self.image.name} x {self.fusion}"


def cells_of(sample: int | None) -> list[Cell]:
    """All cells, or a sample: each family of the longer list meets its K successors in the other."""
    if sample is None:
        return [Cell(*cell) for cell in product(TEXTS, IMAGES, FUSIONS)]
    fusions, rows = list(FUSIONS), range(max(len(TEXTS), len(IMAGES)))
    cells = (
        Cell(TEXTS[row % len(TEXTS)], IMAGES[(row + step) % len(IMAGES)], fusions[step % len(fusions)])
        for step, row in product(range(sample), rows)
    )
    return list({str(cell): cell for cell in cells}.values())


def batch() -> dict[str, Tensor]:
    """Four rows: a padded text and a picture, a picture alone, a text alone, both."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, VOCABULARY - 1, (4, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 6:] = 0
    attention_mask[1] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(4, 1, 3, PIXELS, PIXELS, generator=generator),
        "image_present": torch.tensor([[True], [True], [False], [True]]),
        "labels": torch.tensor([0, 1, 2, 1]),
    }


def check(cell: Cell, sources: dict[str, Any], folder: Path) -> list[Row]:
    """Run one cell; returns the rows of its composition table. Raises AssertionError for what does not hold."""
    torch.manual_seed(0)
    model = PlaitForClassification.compose(
        text=sources[cell.text.name],
        image=sources[cell.image.name],
        fusion=cell.fusion,
        query="text" if cell.fusion == "cross_attention" else None,
        fusion_config=FUSION_SIZES,
        labels=3,
        verbose=False,
    )
    rows = model.composition().rows
    check_kinds(cell, rows)
    check_step(model)
    check_reload(model, folder)
    return rows


def check_kinds(cell: Cell, rows: list[Row]) -> None:
    """The table says which towers are wrapped."""
    kinds = {row.part: row.kind for row in rows}
    for family, part in ((cell.text, "text"), (cell.image, "image")):
        assert kinds[part].endswith("(wrapped)") != family.native, f"{family.name} is called {kinds[part]!r}"


def check_writing(cell: Writing, sources: dict[str, Any], decoders: dict[str, str], folder: Path) -> None:
    """Run one cell with a decoder. Raises AssertionError for what does not hold."""
    torch.manual_seed(0)
    model = composed(cell, sources, decoders)
    inputs = inputs_of(cell, model)
    check_step(model, labelled(cell, model, inputs))
    text = check_generation(model, inputs)
    again = check_reload(model, folder, labelled(cell, model, inputs), type(model))
    assert torch.equal(again.generate(**inputs, **GREEDY), text), "another text after reloading"


def check_step(model: Any, inputs: dict[str, Tensor] | None = None) -> None:
    """One training step: every trainable parameter gets a finite gradient, every part some that is not zero."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = model(**(inputs or batch())).loss
    assert loss.isfinite(), f"the loss is {loss}"
    loss.backward()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in trainable.items() if weight.grad is not None}
    without = trainable.keys() - gradients.keys()
    assert not without, f"no gradient: {', '.join(sorted(without))}"
    infinite = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    assert not infinite, f"a gradient that is not finite: {', '.join(infinite)}"
    for part in (*PARTS, "classifier", "lm_head"):
        own = [gradient for name, gradient in gradients.items() if name.startswith(part)]
        assert not own or any(gradient.any() for gradient in own), f"{part} learns nothing"
    optimizer.step()


def check_reload(model: Any, folder: Path, inputs: dict[str, Tensor] | None = None, loader: Any = None) -> Any:
    """Saved and read again: the same names, bits, frozen weights and outputs. Returns what was read."""
    model.eval().save_pretrained(folder)
    loader = loader or hf.AutoModelForSequenceClassification
    again = loader.from_pretrained(folder).eval()
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys(), f"other names: {', '.join(sorted(ours.keys() ^ theirs.keys()))}"
    changed = [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])]
    assert not changed, f"other weights: {', '.join(changed)}"
    thawed = [name for name, weight in again.named_parameters() if weight.requires_grad != grad_of(model, name)]
    assert not thawed, f"frozen and no longer so, or the other way: {', '.join(thawed)}"
    for tensor in chain(again.parameters(), again.buffers()):
        tensor.data = tensor.data.clone()  # a convolution rounds differently where a file puts its weights off a line
    with torch.no_grad():
        expected, found = (side(**(inputs or batch())).logits for side in (model, again))
    assert torch.equal(expected, found), f"other outputs, by {(expected - found).abs().max():.1e}"
    return again


def grad_of(model: Any, name: str) -> bool:
    return model.get_parameter(name).requires_grad


def run(cells: list[Cell], folder: Path) -> tuple[dict[str, Row], list[Cell]]:
    """Check every cell; returns the towers' rows by family, and the cells that failed."""
    families = {family.name: family for cell in cells for family in (cell.text, cell.image)}
    torch.manual_seed(0)
    sources = {name: source_of(family, folder / name) for name, family in families.items()}
    towers, failed = {}, []
    for cell in tqdm(cells, unit="cell", disable=not sys.stderr.isatty(), leave=False):
        try:
            rows = {row.part: row for row in check(cell, sources, folder / "composed")}
        except Exception:  # whatever it is, the other cells are run, and the exit status says that one failed
            failed.append(cell)
            print(f"failed: {cell}\n{traceback.format_exc()}")
            continue
        towers |= {cell.text.name: rows["text"], cell.image.name: rows["image"]}
    return towers, failed


def run_writings(cells: list[Writing], folder: Path) -> list[Writing]:
    """Check every cell with a decoder; returns those that failed."""
    torch.manual_seed(0)
    encoders, writers = ({cell[place].name: cell[place] for cell in cells} for place in (0, 1))
    sources = {name: source_of(family, folder / "encoders" / name) for name, family in encoders.items()}
    decoders = {name: decoder_source(family, folder / "decoders" / name) for name, family in writers.items()}
    failed = []
    for cell in tqdm(cells, unit="cell", disable=not sys.stderr.isatty(), leave=False):
        try:
            check_writing(cell, sources, decoders, folder / "written")
        except Exception:  # as above
            failed.append(cell)
            print(f"failed: {cell}\n{traceback.format_exc()}")
    return failed


def show(towers: dict[str, Row], cells: list[Cell], failed: list[Cell]) -> None:
    """The table, a family a line."""
    print(f"{'tower':20s} {'made of':34s} {'parameters':>10s} {'frozen':>8s} {'cells':>6s} {'failed':>7s}")
    for family in (*TEXTS, *IMAGES):
        count = sum(family in (cell.text, cell.image) for cell in cells)
        if family.name in towers:
            row = towers[family.name]
            numbers = f"{row.parameters:10,d} {row.parameters - row.trainable:8,d}"
            bad = sum(family in (cell.text, cell.image) for cell in failed)
            print(f"{family.name:20s} {row.kind:34s} {numbers} {count:6d} {bad:7d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="K", help="how many image families each text family meets")
    sample = parser.parse_args().sample
    cells, writings = cells_of(sample), writings_of(sample and 2)
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    torch.set_num_threads(1)  # more of them only wait for each other at these sizes
    with tempfile.TemporaryDirectory() as folder:
        towers, failed = run(cells, Path(folder))
        unwritten = run_writings(writings, Path(folder))
    show(towers, cells, failed)
    print(f"{len(DECODERS)} decoder families: {', '.join(family.name for family in DECODERS)}")
    print(f"with a decoder: cells={len(writings)} failed={len(unwritten)}")
    print(f"plait matrix: cells={len(cells) + len(writings)} failed={len(failed) + len(unwritten)}")
    sys.exit(bool(failed or unwritten))


if __name__ == "__main__":
    main()
