"""Windows of occlusion: the cells of an image that are taken away together."""

import pytest
import torch

from plait.modeling.attribution.features import (
    Features,
    build_grid_groups,
    build_time_groups,
    build_windows,
    number_features,
)
from plait.modeling.attribution.methods import MethodSettings


def build_features(cells: int, images: int = 2, size: tuple[int, int] = (20, 14)) -> Features:
    """Three words, then the cells of some images, of which the first is absent, and the segments of a clip."""
    present = torch.arange(images) > 0
    groups = {
        "input_ids": torch.tensor([0, 0, 1, -1, 2])[:, None],
        "pixel_values": build_grid_groups((images, *size), present, cells),
        "input_values": build_time_groups(torch.ones(1, 9, dtype=torch.bool), 4),
    }
    return number_features(groups)


@pytest.mark.parametrize("cells", [2, 5, 7])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_window_is_a_square_around_its_cell(cells: int, width: int) -> None:
    features = build_features(cells)
    windows = build_windows(features, width)
    assert windows.shape == (features.count, features.count)
    assert bool(windows.diagonal().all()) and torch.equal(windows, windows.T)
    reach = min(width, (cells + 1) // 2) // 2
    plane = features.groups["pixel_values"][1, 0]
    places = {number: torch.nonzero(plane == number)[0] for number in plane.unique().tolist()}
    order = [sorted({int(place[axis]) for place in places.values()}) for axis in (0, 1)]
    for one, first in places.items():
        for other, second in places.items():
            steps = [abs(order[axis].index(int(first[axis])) - order[axis].index(int(second[axis]))) for axis in (0, 1)]
            assert bool(windows[one, other]) == (max(steps) <= reach)
    others = [number for number in range(features.count) if number not in places]
    assert windows[others].sum(dim=1).tolist() == [1] * len(others)  # words and segments stand alone


def test_cells_of_several_images_are_never_taken_away_together() -> None:
    features = build_features(4, images=3)
    windows = build_windows(features, 3)
    first, second = (features.groups["pixel_values"][image].unique() for image in (1, 2))
    assert not windows[first][:, second].any()


@pytest.mark.parametrize("width", [0, 2, -1, 1.5])
def test_a_window_has_a_middle(width: float) -> None:
    with pytest.raises(ValueError, match=f"window is {width}: expected"):
        MethodSettings(window=width)  # pyright: ignore[reportArgumentType]
