"""What is found in the Hub's cache."""

import json
from pathlib import Path

import huggingface_hub.utils._cache_manager
import pytest

from plait.training.proposals.towers import list_cached_models


def test_a_sentence_encoder_is_known_by_the_config_of_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules have a config.json in folders of their own, which say nothing of the model."""
    repository = tmp_path / "models--someone--encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in ("", *(f"{number}_Module" for number in range(1, 9))):
        (snapshot / folder).mkdir(parents=True, exist_ok=True)
        content = {"a": 1} if folder else {"model_type": "bert"}
        (snapshot / folder / "config.json").write_text(json.dumps(content))
    for name in ("model.safetensors", "modules.json"):
        (snapshot / name).write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.utils._cache_manager, "HF_HUB_CACHE", str(tmp_path))
    list_cached_models.cache_clear()
    try:
        assert {name: tuple(model) for name, model in list_cached_models().items()} == {
            "someone/encoder": ("bert", True)
        }
    finally:
        list_cached_models.cache_clear()
