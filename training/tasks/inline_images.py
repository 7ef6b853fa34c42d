"""Images inside conversations (LLaVA, Liu et al. 2023, https://arxiv.org/abs/2304.08485): image tokens in their texts,
and the images as a model's inputs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...processing import PlaitProcessor
from ...processing.inline import ImageToken
from ..data.media import Row, find_columns
from ..data.row_encoder import RowEncoder
from ..recipes.errors import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_PROMPT = "Describe this image."  # of a row with images and without a prompt
ROLES = {"human": "user", "gpt": "assistant"}  # the names of roles in LLaVA's files, in which texts are `value`


def find_image_token(processor: PlaitProcessor) -> ImageToken | None:
    """Returns the processor's image token with its number of tokens in the model; None if it has none."""
    if processor.image_token is None or processor.image_token_id is None:
        return None
    return ImageToken(processor.image_token, processor.image_token_id, processor.num_image_tokens)


def list_image_columns(names: Sequence[str]) -> list[str]:
    """Returns the columns that hold images."""
    return [name for name in find_columns(names, "image") if not name.startswith("image_id")]


def count_row_images(data: "Dataset") -> list[int]:
    """Returns the number of images of each row."""
    counts = [0] * len(data)
    for name in list_image_columns(data.column_names):
        counts = [count + count_images_in(value) for count, value in zip(counts, data[name], strict=True)]
    return counts


def count_images_in(value: Any) -> int:
    """Returns the number of images in the cell of a row."""
    if isinstance(value, list):
        return sum(item is not None for item in value)
    return int(value is not None)


def read_message(message: Mapping[str, Any], token: ImageToken | None) -> Mapping[str, Any]:
    """Returns a message {role, content} with one text: LLaVA's {from, value} is read too, and parts of a content are
    joined, in which an image is its token."""
    if message.get("role") is None and message.get("from") is not None:
        message = {"role": ROLES.get(message["from"], message["from"]), "content": message.get("value")}
    content = message.get("content")
    if not isinstance(content, list):
        return message
    shown = "" if token is None else token.text
    texts = [shown if part.get("type") == "image" else part.get("text") or "" for part in content]
    return {**message, "content": "\n".join(text for text in texts if text)}


def place_images(messages: Sequence[Mapping[str, Any]], images: int, token: ImageToken, where: str) -> list[dict]:
    """Returns the messages with one image token for each image; if there is none yet, they begin the first message of
    the user.

    Raises RecipeError for image tokens of another number than images.
    """
    read = [dict(message) for message in messages]
    found = sum((message["content"] or "").count(token.text) for message in read)
    if images and not found:
        first = next((number for number, message in enumerate(read) if message["role"] == "user"), 0)
        lines = [*[token.text] * images, read[first]["content"] or ""]
        read[first] = {**read[first], "content": "\n".join(lines).strip()}
    elif found != images:
        raise RecipeError(
            f"data: in {where} the text has {found} image tokens {token.text!r}, but there are {images} images: write "
            "one for each image, or none, and the images come first"
        )
    return read


def repeat_image_tokens(ids: Sequence[int], token: ImageToken | None) -> list[int]:
    """Returns the ids with every image token as often as an image has tokens in the model."""
    if token is None:
        return list(ids)
    return [copy for number in ids for copy in [number] * ((token.tokens_per_image or 1) if number == token.id else 1)]


def repeat_image_labels(ids: Sequence[int], labels: Sequence[int], token: ImageToken | None) -> list[int]:
    """Returns the labels of the ids, each as often as `repeat_image_tokens` repeats its id."""
    if token is None:
        return list(labels)
    counts = [(token.tokens_per_image or 1) if number == token.id else 1 for number in ids]
    return [label for label, count in zip(labels, counts, strict=True) for _ in range(count)]


def check_images_kept(ids: Sequence[int], images: int, token: ImageToken | None, where: str, limit: int) -> None:
    """Raises RecipeError if tokens of images were cut off with the beginning of a conversation."""
    wanted = 0 if token is None else images * (token.tokens_per_image or 1)
    if token is not None and ids.count(token.id) < wanted:
        raise RecipeError(
            f"data: {where} is cut at {limit} tokens, which do not hold the {wanted} tokens of its {images} images: "
            "raise max_length, lower generation.max_new_tokens, or make the images smaller (processor.image)"
        )


def attach_images(made: "Dataset", data: "Dataset", numbers: Sequence[int]) -> "Dataset":
    """Returns the made rows with the image columns of the rows of `data` that they were made from, by number."""
    from datasets import concatenate_datasets

    names = find_columns(data.column_names, "image")
    return made if not names else concatenate_datasets([made, data.select_columns(names).select(numbers)], axis=1)


def encode_row_images(collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the model's inputs for the images of the rows, or cached outputs of the image tower; empty without."""
    found = collator.encode_images(rows)
    return {"encoder_outputs": {"image": found}} if "last_hidden_state" in found else dict(found)
