"""Secrets are neither written nor printed."""

import pytest

from plait.training.storage.secret_values import drop_secrets, find_secrets, hide_secret_arguments, is_secret_key


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("training.hub_token", True),
        ("model.options.token", True),
        ("push-to-hub-token", True),
        ("db_password", True),
        ("api_key", True),
        ("processor.image_token", False),
        ("pad_token", False),
        ("include_num_input_tokens_seen", False),
        ("query", False),
    ],
)
def test_keys(key: str, secret: bool) -> None:
    assert is_secret_key(key) == secret


def test_secrets_are_dropped_at_any_depth() -> None:
    content = {"training": {"hub_token": "hf_a", "seed": 1}, "data": {"source": "https://me:word@host/x.csv"}}
    assert drop_secrets(content) == {
        "training": {"hub_token": None, "seed": 1},
        "data": {"source": "https://host/x.csv"},
    }
    assert find_secrets(content) == ["hf_a"]


def test_command_lines_hide_them() -> None:
    line = "train r.yaml --training.hub_token hf_a --training.hub-token=hf_a --model.image_token <i> --seed 3"
    hidden = hide_secret_arguments(line.split())
    assert " ".join(hidden) == line.replace("hf_a", "(hidden)")
