"""Every tower x every fusion, every encoder family x every decoder family, and every text family x every image family
in one space, at tiny size: `python benchmarks/matrix.py [--sample K] [--shard I/N]`.

Each cell composes checkpoints from disk, runs a batch in which each modality is missing from some row, takes a training
step in which every trainable parameter must get a finite gradient, saves, reloads, and compares weights and outputs bit
by bit; with a decoder it generates too, with and without a cache; in one space (`PlaitForRetrieval`) the step is one of
the contrastive loss. The cells (see `cells.py`, `writing.py` and `comparing.py`):

- every text family x every image family, in the first four fusions; every text and every image family in the others;
- every audio and video family in every fusion, beside a text or an image;
- every fusion over every three modalities and over all four, the families taking turns.

`--sample K` lets each text family meet K image families, the fusions taking turns, sound and video joining some of
them, each encoder two decoders, and each text one image in a space. With K = the number of image families every pair of
a text, an image and a fusion is covered, and every audio and video family in every fusion. `--shard I/N` runs every
N-th cell from the I-th on.
Last line: `plait matrix: cells=N failed=0`; the exit status is 1 if a cell failed.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers as hf
from cells import Cell, cells_of
from comparing import LOADER, Comparison, brought_together, check_vectors, comparisons_of, rows_of, sources_of
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
from zoo import FAMILIES, Family, example, source_of, without

from plait import PlaitForClassification
from plait.modeling.composition.summary import ComponentSummary
from plait.modeling.core.layers import TanhGate

TOWERS = tuple(f"model.towers.{modality}" for modality in FAMILIES)
PARTS = (
    *TOWERS,
    "model.connectors",
    "model.fusion",
    "model.decoder",
    "classifier",
    "lm_head",
    "projections",
    "similarity",
)
FUSION_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "tensor_size": 3}
Work = TypeVar("Work")


def batch_of(cell: Cell) -> dict[str, Tensor]:
    """A row that has everything, one without each modality in turn, and another with everything."""
    inputs: dict[str, Tensor] = {}
    rows = len(cell.towers) + 2
    for number, (modality, family) in enumerate(cell.towers, start=1):
        inputs |= without(example(modality, family, rows), modality, number)
    return {**inputs, "labels": torch.arange(rows) % 3}


def check(cell: Cell, sources: dict[str, Any], folder: Path) -> list[ComponentSummary]:
    """Run one cell; returns the rows of its composition table. Raises AssertionError for what does not hold."""
    torch.manual_seed(0)
    model = PlaitForClassification.compose(
        **{modality: sources[family.name] for modality, family in cell.towers},
        fusion=cell.fusion,
        fusion_config=FUSION_SIZES,
        labels=3,
        verbose=False,
    )
    rows, inputs = model.composition().rows, batch_of(cell)
    check_kinds(cell, rows)
    open_gates(model)
    check_step(model, inputs)
    check_reload(model, folder, inputs)
    return rows


def open_gates(model: torch.nn.Module) -> None:
    """Gates that start closed let nothing through to learn from, until they have made a step."""
    for module in model.modules():
        if isinstance(module, TanhGate):
            torch.nn.init.constant_(module.gate, 0.5)


def check_kinds(cell: Cell | Comparison, rows: list[ComponentSummary]) -> None:
    """The table says which towers are wrapped."""
    kinds = {row.part: row.kind for row in rows}
    for part, family in cell.towers:
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


def check_comparison(cell: Comparison, sources: dict[str, Any], folder: Path) -> None:
    """Run one cell in one space. Raises AssertionError for what does not hold."""
    torch.manual_seed(0)
    model, inputs = brought_together(cell, sources), rows_of(cell)
    check_kinds(cell, model.composition().rows)
    check_step(model, inputs)
    check_vectors(model, inputs)
    again = check_reload(model, folder, inputs, LOADER)
    expected, found = (side(**inputs, return_loss=True).loss for side in (model, again))
    assert torch.equal(expected, found), f"another loss after reloading, by {(expected - found).abs():.1e}"


def check_step(model: Any, inputs: dict[str, Tensor]) -> None:
    """One training step: every trainable parameter gets a finite gradient, every part some that is not zero."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = model(**inputs).loss
    assert loss.isfinite(), f"the loss is {loss}"
    loss.backward()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    gradients = {name: weight.grad for name, weight in trainable.items() if weight.grad is not None}
    without = trainable.keys() - gradients.keys()
    assert not without, f"no gradient: {', '.join(sorted(without))}"
    infinite = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    assert not infinite, f"a gradient that is not finite: {', '.join(infinite)}"
    for part in PARTS:
        own = [gradient for name, gradient in gradients.items() if name.startswith(part)]
        assert not own or any(gradient.any() for gradient in own), f"{part} learns nothing"
    optimizer.step()


def check_reload(model: Any, folder: Path, inputs: dict[str, Tensor], loader: Any = None) -> Any:
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
        expected, found = (side(**inputs).logits for side in (model, again))
    assert torch.equal(expected, found), f"other outputs, by {(expected - found).abs().max():.1e}"
    return again


def grad_of(model: Any, name: str) -> bool:
    return model.get_parameter(name).requires_grad


def run(cells: list[Cell], folder: Path) -> tuple[dict[str, ComponentSummary], list[Cell]]:
    """Check every cell; returns the towers' rows by family, and the cells that failed."""
    families = {family.name: family for cell in cells for _, family in cell.towers}
    torch.manual_seed(0)
    sources = {name: source_of(family, folder / name) for name, family in families.items()}
    towers, failed = {}, []
    for cell in shown(cells):
        try:
            rows = {row.part: row for row in check(cell, sources, folder / "composed")}
        except Exception:  # whatever it is, the other cells are run, and the exit status says that one failed
            failed.append(cell)
            print(f"failed: {cell}\n{traceback.format_exc()}")
            continue
        towers |= {family.name: rows[modality] for modality, family in cell.towers}
    return towers, failed


def run_writings(cells: list[Writing], folder: Path) -> list[Writing]:
    """Check every cell with a decoder; returns those that failed."""
    torch.manual_seed(0)
    encoders, writers = ({cell[place].name: cell[place] for cell in cells} for place in (0, 1))
    sources = {name: source_of(family, folder / "encoders" / name) for name, family in encoders.items()}
    decoders = {name: decoder_source(family, folder / "decoders" / name) for name, family in writers.items()}
    return failures(cells, lambda cell: check_writing(cell, sources, decoders, folder / "written"))


def run_comparisons(cells: list[Comparison], folder: Path) -> list[Comparison]:
    """Check every cell in one space; returns those that failed."""
    torch.manual_seed(0)
    sources = sources_of(cells, folder / "towers")
    return failures(cells, lambda cell: check_comparison(cell, sources, folder / "compared"))


def failures(cells: list[Work], check_cell: Callable[[Work], None]) -> list[Work]:
    """The cells for which the check raises."""
    failed = []
    for cell in shown(cells):
        try:
            check_cell(cell)
        except Exception:  # as above
            failed.append(cell)
            print(f"failed: {cell}\n{traceback.format_exc()}")
    return failed


def shown(cells: Iterable[Work]) -> Iterator[Work]:
    """The cells, with a bar on a terminal, and a line now and then elsewhere."""
    terminal = sys.stderr.isatty()
    yield from tqdm(cells, unit="cell", leave=False, mininterval=0.1 if terminal else 30, ncols=80)


def show(towers: dict[str, ComponentSummary], cells: list[Cell], failed: list[Cell]) -> None:
    """The table, a family a line."""
    print(f"{'tower':20s} {'made of':34s} {'parameters':>10s} {'frozen':>8s} {'cells':>6s} {'failed':>7s}")
    for family in chain.from_iterable(FAMILIES.values()):
        if family.name in towers:
            row = towers[family.name]
            numbers = f"{row.parameters:10,d} {row.parameters - row.trainable:8,d}"
            print(
                f"{family.name:20s} {row.kind:34s} {numbers} {holding(cells, family):6d} {holding(failed, family):7d}"
            )


def holding(cells: list[Cell], family: Family) -> int:
    """How many cells have a tower of this family."""
    return sum(family is other for cell in cells for _, other in cell.towers)


def shard(text: str) -> tuple[int, int]:
    """`I/N` as numbers. Raises ValueError unless 1 <= I <= N."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise ValueError(f"a shard is I/N with I from 1 to N, not {text}")
    return number, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="K", help="how many image families each text family meets")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="every N-th cell from the I-th on")
    given = parser.parse_args()
    number, count = given.shard
    cells = cells_of(given.sample)[number - 1 :: count]
    writings = writings_of(given.sample and 2)[number - 1 :: count]
    comparisons = comparisons_of(given.sample and 1)[number - 1 :: count]
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    torch.set_num_threads(1)  # more of them only wait for each other at these sizes
    with tempfile.TemporaryDirectory() as folder:
        towers, failed = run(cells, Path(folder))
        unwritten = run_writings(writings, Path(folder))
        apart = run_comparisons(comparisons, Path(folder))
    show(towers, cells, failed)
    print(f"{len(DECODERS)} decoder families: {', '.join(family.name for family in DECODERS)}")
    print(f"with a decoder: cells={len(writings)} failed={len(unwritten)}")
    print(f"in one space: cells={len(comparisons)} failed={len(apart)}")
    every, faults = (sum(map(len, lists)) for lists in ((cells, writings, comparisons), (failed, unwritten, apart)))
    print(f"plait matrix: cells={every} failed={faults}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
