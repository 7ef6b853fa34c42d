"""The registry of data sources: functions that return `{split: Dataset}` with their own column names."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .easy_vqa import TEST_CAPTIONS, TRAINING_CAPTIONS, build_captioned_images, derive_scenes

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


def find_easy_vqa(source: str) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Returns, for each split of easy-VQA (https://github.com/vzhou842/easy-VQA), the readers of its questions and of
    its image paths. Raises ImportError, which names the source, without the package."""
    try:
        import easy_vqa as package
    except ImportError as error:
        raise ImportError(f"the data source {source} needs the package easy-vqa: pip install easy-vqa") from error
    return {
        "train": (package.get_train_questions, package.get_train_image_paths),
        "test": (package.get_test_questions, package.get_test_image_paths),
    }


@register_source("easy_vqa_pictures")
def load_easy_vqa_pictures() -> dict[str, "Dataset"]:
    """Loads the images of easy-VQA with captions: training images with each of six wordings, test images with one of
    three other wordings in turn."""
    captions = {"train": TRAINING_CAPTIONS, "test": TEST_CAPTIONS}
    return {
        split: build_captioned_images(derive_scenes(*questions()), paths(), captions[split], each=split == "train")
        for split, (questions, paths) in find_easy_vqa("easy_vqa_pictures").items()
    }


@register_source("easy_vqa")
def load_easy_vqa() -> dict[str, "Dataset"]:
    """Loads easy-VQA: questions about images of a coloured shape, 13 answers."""
    from datasets import Dataset

    splits = {}
    for split, (read_questions, read_paths) in find_easy_vqa("easy_vqa").items():
        (questions, answers, images), paths = read_questions(), read_paths()
        columns = {"text": questions, "image": [paths[image] for image in images], "label": answers}
        splits[split] = Dataset.from_dict({**columns, "image_id": [f"{split}-{image}" for image in images]})
    return splits
