"""What the tests over several classes share; each names its `case`, a class and a shape."""

import pytest

from plait.modeling import PlaitPreTrainedModel

from .zoo import build


@pytest.fixture
def model(case: tuple[str, str]) -> PlaitPreTrainedModel:
    return build(*case)
