"""The names of `plait.training`, each loaded when first asked for."""

import pytest

import plait.training


@pytest.mark.parametrize("name", plait.training.__all__)
def test_every_name_is_found(name: str) -> None:
    assert getattr(plait.training, name) is not None
