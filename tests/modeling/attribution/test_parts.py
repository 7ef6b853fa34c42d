"""Features, baselines and the places of tokens."""

import pytest
import torch

from plait.configuration import PlaitTubeletConfig
from plait.modeling.attribution.baselines import build_media_baseline, check_baseline
from plait.modeling.attribution.features import (
    build_grid_groups,
    build_time_groups,
    drop_channels,
    element_shape,
    number_features,
    split_evenly,
)
from plait.modeling.attribution.methods import MethodSettings
from plait.modeling.attribution.token_places import number_tokens, spread_tokens

PRESENT = torch.tensor([True, False])


def test_features_are_numbered_over_all_inputs() -> None:
    groups = {"input_ids": torch.tensor([-1, 0, 0, 2, -1])[:, None]}
    groups["pixel_values"] = build_grid_groups((2, 6, 4), PRESENT, cells=2)
    features = number_features(groups)
    assert features.groups["input_ids"][:, 0].tolist() == [-1, 0, 0, 1, -1]
    assert features.count == 6 and features.groups["pixel_values"][0].unique().tolist() == [2, 3, 4, 5]
    assert bool((features.groups["pixel_values"][1] == -1).all())
    assert features.groups["pixel_values"].shape == (2, 1, 6, 4)


def test_amounts_are_spread_without_loss() -> None:
    features = number_features({"pixel_values": build_grid_groups((2, 5, 7), PRESENT, cells=3)})
    amounts = torch.arange(1.0, features.count + 1)
    spread = features.spread("pixel_values", amounts, (2, 5, 7))
    assert spread.sum().item() == pytest.approx(amounts.sum().item()) and not spread[1].any()


def test_segments_leave_padding_out() -> None:
    present = torch.arange(10)[None] < torch.tensor([[6], [10]])
    groups = build_time_groups(present, 3)
    assert groups[0].tolist() == [0, 0, 1, 1, 2, 2, -1, -1, -1, -1]
    assert groups[1].unique().tolist() == [3, 4, 5]
    assert split_evenly(2, 5).tolist() == [0, 1]


def test_shapes_of_elements() -> None:
    assert element_shape("input_ids", torch.empty(1, 5, 8)) == (5,)
    assert element_shape("pixel_values_videos", torch.empty(1, 2, 4, 3, 6, 7)) == (2, 4, 6, 7)
    assert element_shape("document_input_features", torch.empty(1, 2, 4, 9)) == (2, 4, 9)
    assert drop_channels("pixel_values", torch.ones(2, 3, 4, 4)).unique().tolist() == [3]


@pytest.mark.parametrize("name", ["noise", "blur", "mean", "zero", "rows"])
@pytest.mark.parametrize("shape", [(1, 2, 3, 8, 8), (1, 1, 4, 12), (1, 1, 40)])
def test_media_baselines(name: str, shape: tuple[int, ...]) -> None:
    value, generator = torch.rand(shape) + 3, torch.Generator().manual_seed(0)
    others = [torch.rand(shape), torch.rand(*shape[:-1], 5)]
    found = build_media_baseline(name, value, others, 6, generator)
    assert found.shape[1:] == value.shape[1:] and len(found) == (6 if name in ("noise", "rows") else 1)
    if name in ("blur", "mean"):
        assert found.mean().item() == pytest.approx(value.mean().item(), abs=0.05) and found.std() < value.std()
    if name == "noise":
        assert found.std().item() == pytest.approx(value.std().item(), rel=0.3)
    if name == "rows":
        assert found.max() <= 1


def test_errors_name_the_choices() -> None:
    with pytest.raises(ValueError, match="no baseline 'blurr' for image: choose noise, blur, .*did you mean 'blur'"):
        check_baseline("image", "blurr")
    with pytest.raises(ValueError, match="choose mask, unk, pad"):
        check_baseline("text", "blur")
    with pytest.raises(ValueError, match="two rows or more"):
        build_media_baseline("rows", torch.rand(1, 1, 3, 4, 4), [], 2, torch.Generator())
    with pytest.raises(ValueError, match="num_steps is 0"):
        MethodSettings(num_steps=0)
    with pytest.raises(ValueError, match="kernel is 'rbf'"):
        MethodSettings(kernel="rbf")  # pyright: ignore[reportArgumentType]


def test_tokens_of_images_stand_for_patches() -> None:
    """A class token and a grid of 2 x 3 patches."""
    places = number_tokens("pixel_values", "image", 7, (8, 12))
    assert places.min() == 1 and places[0, 0] == 1 and places[-1, -1] == 6 and places[0, 4] == 2 and places[4, 0] == 4
    amounts = torch.tensor([100.0, 1, 2, 3, 4, 5, 6])
    spread = spread_tokens("pixel_values", "image", amounts, (1, 8, 12))
    assert spread.sum().item() == pytest.approx(21) and spread[0, 0, 0].item() == pytest.approx(1 / 16)


def test_tokens_of_videos_stand_for_frames_and_tubelets() -> None:
    config = PlaitTubeletConfig(num_frames=4, image_size=8, patch_size=4, class_tokens=1)  # two times, 2 x 2 patches
    tubelets = number_tokens("pixel_values_videos", "video", 9, (4, 8, 8), config)
    assert tubelets[0, 0, 0] == 1 and tubelets[1, 0, 0] == 1 and tubelets[2, 0, 0] == 5 and tubelets[3, -1, -1] == 8
    frames = number_tokens("pixel_values_videos", "video", 20, (4, 8, 8))  # each frame with its own class token
    assert frames[0, 0, 0] == 1 and frames[1, 0, 0] == 6 and frames[3, -1, -1] == 19


def test_tokens_of_clips_stand_for_time() -> None:
    assert number_tokens("input_values", "audio", 4, (8,)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert number_tokens("input_features", "audio", 3, (2, 6)).tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    patches = number_tokens("input_values", "audio", 6, (12, 8))  # two tokens, then 2 frequencies x 2 times
    assert patches[0, 0] == 2 and patches[-1, 0] == 3 and patches[0, -1] == 4


def test_tokens_without_a_grid_are_an_error() -> None:
    with pytest.raises(ValueError, match="no grid of patches over 8 x 8"):
        number_tokens("pixel_values", "image", 3, (8, 80))
