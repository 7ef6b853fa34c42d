"""The registry of data sources: functions that return `{split: Dataset}` with their own column names."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

DataSource = Callable[[], dict[str, "Dataset"]]
SOURCES: dict[str, DataSource] = {}


def register_source(name: str) -> Callable[[DataSource], DataSource]:
    """Returns a decorator that registers a function as a data source, for `data: {source: name}` in a recipe."""

    def register(function: DataSource) -> DataSource:
        SOURCES[name] = function
        return function

    return register


@register_source("easy_vqa")
def load_easy_vqa() -> dict[str, "Dataset"]:
    """Loads easy-VQA (https://github.com/vzhou842/easy-VQA): questions about images of a coloured shape, 13 answers."""
    from datasets import Dataset

    try:
        import easy_vqa as package
    except ImportError as error:
        raise ImportError("the data source easy_vqa needs the package easy-vqa: pip install easy-vqa") from error
    readers = {
        "train": (package.get_train_questions, package.get_train_image_paths),
        "test": (package.get_test_questions, package.get_test_image_paths),
    }
    splits = {}
    for split, (read_questions, read_paths) in readers.items():
        questions, answers, images = read_questions()
        paths = read_paths()
        columns = {"text": questions, "image": [paths[image] for image in images], "label": answers}
        splits[split] = Dataset.from_dict({**columns, "image_id": [f"{split}-{image}" for image in images]})
    return splits
