"""A saved model of the questions about squares, and rows for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.processing import PlaitProcessor


@pytest.fixture(scope="package")
def saved(tmp_path_factory: pytest.TempPathFactory, processor: PlaitProcessor) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture
def folder(saved: Path, make_model: Callable[..., PlaitPreTrainedModel], processor: PlaitProcessor) -> str:
    if not (saved / "config.json").exists():
        make_model().save_pretrained(saved)
        processor.save_pretrained(saved)
    return str(saved)


@pytest.fixture
def given(rows: list[dict[str, str]], pictures: dict[str, Path]) -> list[dict[str, Any]]:
    """Rows with an id, a label of their own, and cells that are easily spoilt; images by their paths in the folder."""
    return [
        {"id": f"{n:03d}", "said": row["text"], "picture": Path(row["image"]).name, "label": f'"{n}",\n x', "NA": "NA"}
        for n, row in enumerate(rows)
    ]
