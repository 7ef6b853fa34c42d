"""The composition matrix: the cells that it and a sample hold, a pairwise covering part, and that a fault is seen."""

import importlib.util
import os
import subprocess
import sys
from itertools import chain, combinations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from plait.modeling.checkpoints.families.registry import FAMILIES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    specification = importlib.util.spec_from_file_location("matrix", BENCHMARKS / "matrix.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def cells(matrix: ModuleType) -> ModuleType:
    return sys.modules["cells"]


def pairs(found: list[Any]) -> set[frozenset[tuple[str, str]]]:
    """Every two parts of every cell, by place and name."""
    return {frozenset(pair) for cell in found for pair in combinations(cell.parts, 2)}


def every_pair(*lists: list[tuple[str, str]]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for one, other in combinations(lists, 2) for pair in product(one, other)}


def named(cells: ModuleType, *modalities: str) -> list[tuple[str, str]]:
    return [(modality, family.name) for modality in modalities for family in cells.FAMILIES[modality]]


def test_the_full_matrix_holds_every_cell_once(cells: ModuleType) -> None:
    found = cells.cells_of(None)
    assert len({str(cell) for cell in found}) == len(found)
    texts, images = named(cells, "text"), named(cells, "image")
    whole = {(*pair, fusion) for *pair, fusion in product(texts, images, cells.FIRST)}
    assert whole <= {(*parts, fusion) for *parts, (_, fusion) in (cell.parts for cell in found)}


def test_the_full_matrix_holds_every_tower_in_every_fusion(cells: ModuleType) -> None:
    """With one other tower, beside those with two and three."""
    fusions = [("fusion", name) for name in cells.FUSIONS]
    two = [cell for cell in cells.cells_of(None) if len(cell.towers) == 2]
    assert every_pair(named(cells, *cells.FAMILIES), fusions) <= pairs(two)
    many = {(fusion, tuple(place for place, _ in parts)) for *parts, (_, fusion) in (c.parts for c in cells.of_many())}
    chosen = [*combinations(cells.FAMILIES, 3), tuple(cells.FAMILIES)]
    assert many == set(product(cells.FUSIONS, chosen))


def test_a_full_sample_covers_every_pair(cells: ModuleType) -> None:
    sample = cells.cells_of(len(cells.IMAGES))
    fusions = [("fusion", name) for name in cells.FUSIONS]
    texts, images = named(cells, "text"), named(cells, "image")
    assert every_pair(texts, images, fusions) <= pairs(sample)
    assert every_pair(named(cells, "audio", "video"), fusions) <= pairs(sample)
    assert len(sample) == len(texts) * len(images)  # no fewer can
    assert {len(cell.towers) for cell in sample} == {2, 3, 4}


def test_every_text_meets_every_image_in_one_space(matrix: ModuleType) -> None:
    """And each audio and video family is there; a sample holds each family at least once."""
    whole, sample = matrix.comparisons_of(None), matrix.comparisons_of(1)
    found = {(cell.towers[0][1].name, cell.towers[1][1].name) for cell in whole}
    texts, images = ([family.name for family in matrix.FAMILIES[modality]] for modality in ("text", "image"))
    assert found == set(product(texts, images)) and len(whole) == len(found)
    names = {family.name for family in chain(*matrix.FAMILIES.values())}
    assert {family.name for cell in sample for _, family in cell.towers} == names


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_that_is_none_is_an_error(matrix: ModuleType, text: str) -> None:
    with pytest.raises(ValueError):
        matrix.shard(text)


def test_every_family_of_the_core_is_in_the_zoo(matrix: ModuleType) -> None:
    """A new family comes with its tiny config, or the matrix does not see it."""
    native = {family.model_type for family in chain(*matrix.FAMILIES.values()) if family.native}
    native |= {"clip_vision_model", "siglip_text_model", "efficientnet_lite"}  # inside clip, siglip and plait_cnn
    native |= {"voice_encoder"}  # a plait_rnn
    assert [family.model_types for family in FAMILIES.values() if native.isdisjoint(family.model_types)] == []


def test_a_fault_is_seen(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A parameter that no forward pass reads, a weight that a reload changes: the cell fails, the others run on."""
    cells = matrix.cells_of(1)[-2:]
    assert matrix.run(cells, tmp_path / "sound")[1] == []
    check_step = matrix.check_step

    def unread(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
        model.model.fusion.register_parameter("unread", torch.nn.Parameter(torch.ones(1)))
        check_step(model, inputs)

    monkeypatch.setattr(matrix, "check_step", unread)
    assert matrix.run(cells, tmp_path / "unread")[1] == cells
    load = matrix.hf.AutoModelForSequenceClassification.from_pretrained

    def changed(folder: Path) -> torch.nn.Module:
        model = load(folder)
        with torch.no_grad():
            model.classifier.weight[0, 0] += 1e-6
        return model

    monkeypatch.setattr(matrix, "check_step", check_step)
    monkeypatch.setattr(matrix.hf.AutoModelForSequenceClassification, "from_pretrained", changed)
    assert matrix.run(cells, tmp_path / "changed")[1] == cells


@pytest.mark.slow
def test_a_pairwise_covering_part_of_the_matrix_passes(matrix: ModuleType) -> None:
    """Every pair of a text, an image and a fusion, every audio and video family in every fusion; `make matrix` runs all
    the cells."""
    sample = len(matrix.FAMILIES["image"])
    command = [sys.executable, str(BENCHMARKS / "matrix.py"), "--sample", str(sample)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    cells = len(matrix.cells_of(sample)) + len(matrix.writings_of(2)) + len(matrix.comparisons_of(1))
    assert result.stdout.strip().splitlines()[-1] == f"plait matrix: cells={cells} failed=0"
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
