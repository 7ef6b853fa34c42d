"""The composition matrix: which cells a sample holds, a pairwise covering part of it, and that a fault is seen."""

import importlib.util
import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from types import ModuleType

import pytest
import torch

from plait.modeling.checkpoints import FAMILIES

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


def pairs(cells: list[tuple[object, ...]]) -> set[tuple[int, int, str, str]]:
    """Every two coordinates of every cell, by name."""
    named = [[getattr(part, "name", part) for part in cell] for cell in cells]
    return {(a, b, cell[a], cell[b]) for cell in named for a, b in combinations(range(3), 2)}


def test_the_full_matrix_holds_every_cell_once(matrix: ModuleType) -> None:
    cells = [str(cell) for cell in matrix.cells_of(None)]
    assert len(set(cells)) == len(cells) == len(matrix.TEXTS) * len(matrix.IMAGES) * len(matrix.FUSIONS)


def test_a_full_sample_covers_every_pair(matrix: ModuleType) -> None:
    sample = matrix.cells_of(len(matrix.IMAGES))
    assert pairs(sample) == pairs(list(product(matrix.TEXTS, matrix.IMAGES, matrix.FUSIONS)))
    assert len(sample) == len(matrix.TEXTS) * len(matrix.IMAGES)  # no fewer can


def test_a_sample_of_four_covers_every_family_with_every_fusion(matrix: ModuleType) -> None:
    everything = pairs(matrix.cells_of(None))
    covered = pairs(matrix.cells_of(4))
    assert {pair for pair in everything if pair[1] == 2} <= covered


def test_every_family_of_the_core_is_in_the_zoo(matrix: ModuleType) -> None:
    """A new family comes with its tiny config, or the matrix does not see it."""
    native = {family.model_type for family in (*matrix.TEXTS, *matrix.IMAGES) if family.native}
    native |= {"clip_vision_model", "siglip_text_model", "efficientnet_lite"}  # inside clip, siglip and plait_cnn
    native |= {"whisper"}  # reads sound: no cell has any
    assert [family.model_types for family in FAMILIES.values() if native.isdisjoint(family.model_types)] == []


def test_a_fault_is_seen(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A parameter that no forward pass reads, a weight that a reload changes: the cell fails, the others run on."""
    cells = matrix.cells_of(1)[:2]
    assert matrix.run(cells, tmp_path / "sound")[1] == []
    check_step = matrix.check_step

    def unread(model: torch.nn.Module) -> None:
        model.model.fusion.register_parameter("unread", torch.nn.Parameter(torch.ones(1)))
        check_step(model)

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
    """Every text-image, text-fusion and image-fusion pair; `make matrix` runs all the cells."""
    sample = len(matrix.IMAGES)
    command = [sys.executable, str(BENCHMARKS / "matrix.py"), "--sample", str(sample)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    cells = len(matrix.cells_of(sample)) + len(matrix.writings_of(2))
    assert result.stdout.strip().splitlines()[-1] == f"plait matrix: cells={cells} failed=0"
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
