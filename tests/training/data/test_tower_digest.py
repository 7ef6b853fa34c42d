"""What the digest of a tower is made of, part by part."""

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from plait import PlaitProcessor
from plait.training.data.tower_digest import (
    collect_processing_settings,
    combine_digest,
    compute_weights_digest,
    describe_module,
    drop_volatile,
    find_version,
    is_simple_value,
)


@pytest.mark.parametrize(
    ("value", "simple"),
    [(None, True), (1, True), (1.5, True), ("a", True), (False, True), ([1, ("a", [])], True), ([], True),
     ({"a": [1]}, True), ({}, False), ({1: 2}, False), ({"a": object()}, False), ([object()], False),
     (torch.ones(1), False), (object(), False)],
)  # fmt: skip
def test_simple_values(value: Any, simple: bool) -> None:
    assert is_simple_value(value) is simple


def build_tower() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.BatchNorm1d(3)))


def test_weights_and_buffers_are_seen_in_any_order() -> None:
    before = compute_weights_digest(build_tower())
    assert compute_weights_digest(build_tower()) == before and len(before) == 64
    changes = [
        lambda tower: tower.a.weight.data[0, 0].add_(1e-6),
        lambda tower: tower.b.running_mean[2].add_(1),
        lambda tower: tower.a.to(torch.float64),
        lambda tower: setattr(tower.a, "weight", nn.Parameter(tower.a.weight.data.view(2, 3))),
    ]
    digests = {before}
    for change in changes:
        tower = build_tower()
        change(tower)
        digests.add(compute_weights_digest(tower))
    assert len(digests) == 5
    with pytest.raises(ValueError, match="the weight a.bias is offloaded"):
        compute_weights_digest(build_tower().to("meta"))
    assert len({combine_digest(*parts) for parts in (("a", "b"), ("b", "a"), ("a", "c"))}) == 3


def test_a_module_is_known_by_its_class_its_settings_and_its_hooks() -> None:
    linear = nn.Linear(2, 3)
    name, kind, settings, hooks = describe_module("x", linear)
    assert (name, kind, hooks) == ("x", "Linear", []) and settings["in_features"] == 2
    assert "training" not in settings and "_parameters" not in settings
    linear.scale = 2
    assert describe_module("x", linear)[2]["scale"] == 2
    handle = linear.register_forward_hook(lambda *_: None)
    assert describe_module("x", linear)[3][1:] == [handle.id]
    handle.remove()
    before = linear.register_forward_pre_hook(lambda *_: None)
    assert describe_module("x", linear)[3][1:] == [before.id]


def test_settings_without_where_they_came_from() -> None:
    assert drop_volatile(
        {"size": 3, "cache_dir": "x", "subfolder": "y", "_commit_hash": "z", "training": True, "dtype": "float32"}
    ) == {"size": 3}
    assert find_version("torch") == torch.__version__.partition("+")[0] or find_version("torch") == torch.__version__
    assert find_version("there-is-no-such-package") is None


def test_a_processors_part_of_a_modality(processor: PlaitProcessor) -> None:
    images = collect_processing_settings(processor, "image")
    assert images == drop_volatile(processor.image_processor.to_dict()) and "num_frames" not in images
    part = SimpleNamespace(to_dict=lambda: {"size": 4, "cache_dir": "x"})
    own = SimpleNamespace(to_dict=lambda: {"size": 5})
    given: Any = {"image_processor": part}
    frames: Any = SimpleNamespace(find_part=given.get, num_frames=3, fps=None)
    assert collect_processing_settings(frames, "video") == {"size": 4, "num_frames": 3, "fps": None}
    given["frame_processor"] = own
    assert collect_processing_settings(frames, "video") == {"size": 5, "num_frames": 3, "fps": None}
    with pytest.raises(ValueError, match="the processor has no feature_extractor, but the data have audio"):
        collect_processing_settings(frames, "audio")
    words = collect_processing_settings(processor, "text")
    processor.tokenizer(["is it red ?"], padding="max_length", truncation=True, max_length=7)
    assert collect_processing_settings(processor, "text") == words
