"""Image sizes of several aspect ratios: each training image has the nearest, and a batch has one."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...configuration import ImageShape
from ...processing.errors import name_error
from ...processing.images import read_image_size
from ...processing.target_images import TARGET_IMAGES
from ..data.identity import find_path
from ..data.media import READ_ERRORS, TARGET_IMAGE, Row, iterate_columns
from ..recipes.errors import RecipeError

HeightWidth = tuple[int, int]  # height and width in pixels


def read_buckets(buckets: Sequence[Sequence[int]] | None) -> list[HeightWidth]:
    """Returns the setting `buckets` as sizes; raises RecipeError for an entry that is no height and width."""
    for bucket in buckets or ():
        if len(bucket) != 2 or min(bucket) < 1:
            raise RecipeError(f"settings.buckets has {list(bucket)}: expected [height, width] in pixels")
    return [(height, width) for height, width in buckets or ()]


def check_buckets(buckets: Sequence[HeightWidth], shape: ImageShape) -> None:
    """Raises RecipeError for a size that is no multiple of the patch size of a model's images."""
    wrong = [bucket for bucket in buckets if any(side % shape.multiple for side in bucket)]
    if wrong:
        raise RecipeError(
            f"settings.buckets has {list(wrong[0])}, which is no multiple of {shape.rule}: change one of them"
        )


def choose_bucket(size: HeightWidth, buckets: Sequence[HeightWidth]) -> int:
    """Returns the number of the bucket whose aspect ratio is nearest to that of a size."""
    ratio = math.log(size[0] / size[1])
    return min(range(len(buckets)), key=lambda number: abs(math.log(buckets[number][0] / buckets[number][1]) - ratio))


def iterate_row_buckets(data: Any, buckets: Sequence[HeightWidth]) -> Iterator[int]:
    """Yields the number of each row's bucket; each file is read once.

    Raises OSError or ValueError for an image that cannot be read; the message names its row.
    """
    known: dict[str, int] = {}
    for number, row in enumerate(iterate_columns(data, [TARGET_IMAGE])):
        path = find_path(row[TARGET_IMAGE])
        found = None if path is None else known.get(path)
        if found is None:
            try:
                found = choose_bucket(read_image_size(row[TARGET_IMAGE]), buckets)
            except READ_ERRORS as error:
                raise name_error(error, f"{TARGET_IMAGES}, row {number}") from error
        if path is not None:
            known[path] = found
        yield found


def choose_batch_size(rows: Sequence[Row], buckets: Sequence[HeightWidth]) -> HeightWidth | None:
    """Returns the size of most images of a batch, None without buckets."""
    if not buckets:
        return None
    return buckets[Counter(iterate_row_buckets(list(rows), buckets)).most_common(1)[0][0]]
