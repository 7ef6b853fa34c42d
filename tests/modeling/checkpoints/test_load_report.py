"""What is said to be missing from a checkpoint: by its name, and nothing that starts at a value of the config."""

import logging
import math
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from plait import PlaitForClassification, PlaitForRetrieval
from plait.configuration import PlaitRetrievalConfig
from plait.modeling.checkpoints.load_report import REPORT_LOGGER


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The records of transformers' loading, whose loggers do not propagate."""
    logger = logging.getLogger(REPORT_LOGGER)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    return caplog


def test_a_temperature_that_is_fresh_by_design_is_no_warning(bert: str, reports: pytest.LogCaptureFixture) -> None:
    for bias in (None, -2.0):
        config = PlaitRetrievalConfig(projection_dim=None, logit_bias_init_value=bias)
        loaded: Any = PlaitForRetrieval.from_pretrained(bert, output_loading_info=True, retrieval_config=config)
        model, info = loaded
        assert not info["missing_keys"] and "MISSING" not in reports.text
        expected = model.config.retrieval_config.logit_scale_init_value
        assert torch.allclose(model.similarity.logit_scale, torch.tensor([expected]))
        assert math.isclose(model.similarity.scale, math.exp(expected))


def test_a_head_that_is_missing_is_named_with_the_checkpoint(bert: str, reports: pytest.LogCaptureFixture) -> None:
    PlaitForClassification.from_pretrained(bert, num_labels=2)
    PlaitForRetrieval.from_pretrained(bert, retrieval_config=PlaitRetrievalConfig(projection_dim=8))
    told = list(dict.fromkeys(text for text in reports.messages if "MISSING" in text))
    assert len(told) == 2 and all(f"from: {bert}\n" in text for text in told)
    assert "classifier.weight" in told[0] and "projections.text.weight" in told[1] and "logit" not in told[1]
    assert not logging.getLogger(REPORT_LOGGER).filters  # of this load alone
