"""The task of retrieval between texts, images, audio, videos and documents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.utils import logging

from ...configuration import DOCUMENT, NEGATIVE
from ...configuration.modalities import MEDIA, MODALITY_TABLE
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...processing import PlaitProcessor
from ..data.inputs import compute_text_key
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row, collect_batch_items
from ..data.row_encoder import RowEncoder
from ..metrics.retrieval import DEPTHS, RetrievalMetrics
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import MEDIA_ROLES, Scores, Settings, Task, move_to_device

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)
SHARED = "shared"  # as the document tower: the text tower
SIDE_ORDER = ("text", *MEDIA, DOCUMENT)


@strict
@dataclass
class RetrievalSettings(Settings):
    """`negatives`: hard negatives of a row in a training step at most, chosen anew in every epoch; None: all."""

    negatives: int | None = None


class Retrieval(Task):
    """Retrieval between two of the columns `text`, `image`, `audio`, `video` and `document`: the items of a row match.

    `text` is one text, or a list of texts that all match the row's other side; each is a training row and a query. A
    row without a text is not trained on; in evaluation its image is a wrong candidate of every text.

    `negative`, only in training, is a hard negative or a list of them: texts that are similar to the row's matching
    text (or document) but do not match its image (or text). They are negatives of every row of the batch, except of
    rows whose own text they equal.
    """

    name: ClassVar[str] = "retrieval"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForRetrieval
    auto_class: ClassVar[str] = "AutoModelForZeroShotImageClassification"
    has_row_scores: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("text", *MEDIA_ROLES, DOCUMENT, NEGATIVE)
    settings: ClassVar[type[Settings]] = RetrievalSettings
    prompt_columns: ClassVar[dict[str, str]] = {name: name for name in SIDE_ORDER}

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises RecipeError for wrong settings, a batch size of 1, or a fusion."""
        super().check_recipe(recipe)
        count = self.build_settings(recipe.settings).negatives
        if count is not None and count < 1:
            raise RecipeError(f"settings.negatives is {count}: expected at least 1, or no column for negatives")
        size = recipe.training.get("per_device_train_batch_size")
        if size == 1:
            raise RecipeError(
                "training.per_device_train_batch_size is 1, but a pair needs others in its batch as negatives: raise it"
            )
        if recipe.model.fusion is not None:
            raise RecipeError(
                f"model.fusion is {recipe.model.fusion!r}, but retrieval keeps its towers apart: leave it out"
            )

    def check_columns(self, names: Sequence[str], split: str, needs_targets: bool = True) -> None:
        """Raises RecipeError if training data do not have exactly two sides."""
        present = find_sides(names)
        if needs_targets and len(present) != 2:
            raise RecipeError(
                f"data.columns: retrieval needs two of text, image, audio, video and document, but {split!r} has "
                f"{', '.join(names)}: map columns to exactly two"
            )

    def build_model_fields(self, recipe: Recipe) -> dict[str, Any]:
        """Returns that the text tower reads the documents, if the data have such a column and the recipe names no other
        tower for them."""
        reads = DOCUMENT in recipe.data.columns and recipe.model.from_pretrained is None
        return {DOCUMENT: SHARED} if reads and recipe.model.text is not None else {}

    def check_model(self, model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
        """Raises RecipeError for a model with a single side, or one that does not fit its tokenizer."""
        super().check_model(model, processor)
        if len(model.config.sides) < 2:
            raise RecipeError(
                f"the model has one side ({', '.join(model.config.sides)}): add a tower, or options.document: shared"
            )

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterable[str | None]:
        """Yields the texts of the columns text, document and negative."""
        columns = [name for name in ("text", DOCUMENT, NEGATIVE) if name in data.column_names]
        if NEGATIVE in columns:
            check_negatives(data, "train")
        return (text for name in columns for value in data[name] for text in list_texts(value))

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Makes a training row of each text, and checks the hard negatives.

        Raises RecipeError for hard negatives that are no texts, or texts that are all equal.
        """
        if split == "train" and NEGATIVE in data.column_names:
            check_negatives(data, split)
        return split_texts(data, split) if split == "train" and "text" in data.column_names else data

    def count_tokens(self, collator: RowEncoder, data: "Dataset") -> list[int]:
        """Counts the tokens of each row's text; raises RecipeError for data without texts."""
        if "text" not in data.column_names:
            raise RecipeError("batches by length need a text column: map one in data.columns, or leave them out")
        return super().count_tokens(collator, data)

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the inputs of both sides and of the hard negatives, with the `groups` of equal items."""
        inputs = collator.encode_inputs([drop_document(row) for row in rows])
        if DOCUMENT in rows[0]:
            inputs |= add_prefix(DOCUMENT, encode_uncached_texts(collator, [row[DOCUMENT] for row in rows]))
        found, outputs = encode_negatives(
            collator, [list_texts(row.get(NEGATIVE)) for row in rows], DOCUMENT not in rows[0]
        )
        if outputs:
            inputs["encoder_outputs"] = {**inputs.get("encoder_outputs", {}), NEGATIVE: outputs}
        return {**inputs, **found, "groups": hash_groups(rows), "return_loss": True}

    def sample_rows(self, collator: RowEncoder, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the rows with at most `negatives` of their hard negatives, at random."""
        count = collator.settings.negatives
        if count is None or NEGATIVE not in rows[0]:
            return rows
        return [{**row, NEGATIVE: sample_texts(collator, list_texts(row[NEGATIVE]), count)} for row in rows]

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the items of each side: their `inputs`, the `rows` of the batch that they belong to, and their `keys`.
        The batch's own `rows` are keys of the rows' content, so that a repeated row counts once."""
        sides: dict[str, Any] = {}
        texts = [(row, text) for row, values in enumerate(rows) for text in list_texts(values.get("text"))]
        if texts:
            inputs = collator.encode_inputs([{"text": text} for _, text in texts])
            sides["text"] = {"inputs": inputs, "rows": [row for row, _ in texts], "keys": [text for _, text in texts]}
        media = {modality: join_item_keys(rows, modality) for modality in MEDIA}
        for modality, keys in media.items():
            shown = [row for row, key in enumerate(keys) if key is not None]
            if shown:
                inputs = collator.encode_inputs([select_items(rows[row], modality) for row in shown])
                sides[modality] = {"inputs": inputs, "rows": shown, "keys": [keys[row] for row in shown]}
        held = [row for row, values in enumerate(rows) if values.get(DOCUMENT) is not None]
        if held:
            inputs = add_prefix(DOCUMENT, encode_uncached_texts(collator, [rows[row][DOCUMENT] for row in held]))
            sides[DOCUMENT] = {"inputs": inputs, "rows": held, "keys": [rows[row][DOCUMENT] for row in held]}
        content = [{modality: keys[row] for modality, keys in media.items()} for row in range(len(rows))]
        return {"rows": [compute_row_key(*pair) for pair in zip(rows, content, strict=True)], "sides": sides}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> RetrievalMetrics:
        """Builds the metrics of retrieval between the recipe's two sides, by default all."""
        return RetrievalMetrics(names, find_side_pair(recipe))

    def measure_baselines(self, metrics: RetrievalMetrics, data: DataSplits, split: "Dataset") -> Scores:
        """Computes the expected recalls of a random order of the items ("chance")."""
        first, second = metrics.pair
        counts = {side: count_items(split, side) for side in metrics.pair}
        per_item = max(1.0, counts[first] / max(counts[second], 1))
        scores = compute_chance(f"{first}_to_{second}", counts[second], 1)
        scores |= compute_chance(f"{second}_to_{first}", counts[first], round(per_item))
        recalls = [value for name, value in scores.items() if "recall@" in name]
        scores["mean_recall"] = sum(recalls) / len(recalls)
        return {"chance": {name: scores[name] for name in metrics.metric_names if name in scores}}

    def collect_score_groups(self, metrics: RetrievalMetrics, split: "Dataset") -> list[int]:
        """Returns the groups of rows that share an item of a side."""
        return metrics.collect_groups()

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row the `similarity` of its two sides, a cosine; for a list of texts the `similarities` of
        all and the `best` text; for a single side its `embedding`."""
        retrieval: Any = model
        batch = move_sides_to_device(self.build_evaluation_batch(collator, rows), model)
        vectors: dict[str, list[list[Tensor]]] = {}
        for side, part in batch.items():
            with torch.no_grad():
                found = retrieval.embed(part["inputs"])[side].vectors.float().cpu()
            vectors[side] = [[] for _ in rows]
            for row, vector in zip(part["rows"], found, strict=True):
                vectors[side][row].append(vector)
        for number, row in enumerate(rows):
            yield build_answer(row, {side: found[number] for side, found in vectors.items() if found[number]})

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "zero-shot-image-classification" for a model with an image tower, else "sentence-similarity"."""
        return "zero-shot-image-classification" if "image" in modalities else "sentence-similarity"


def build_answer(row: Row, vectors: dict[str, list[Tensor]]) -> dict[str, Any]:
    """Builds the prediction of a row from the vectors of its sides (see `Retrieval.predict_rows`)."""
    if len(vectors) < 2:
        return {"embedding": [round(value, 6) for side in vectors.values() for value in side[0].tolist()]}
    first, second = list(vectors)[:2]
    scores = (torch.stack(vectors[first]) @ vectors[second][0]).tolist()
    if len(scores) == 1:
        return {"similarity": round(scores[0], 6)}
    best = max(range(len(scores)), key=scores.__getitem__)
    return {"best": list_texts(row["text"])[best], "similarities": [round(score, 6) for score in scores]}


def compute_chance(direction: str, items: int, own: int) -> dict[str, float]:
    """Computes the expected recalls of a query with `own` relevant items among `items` in random order, by name."""
    others = items - own
    scores = {}
    for depth in DEPTHS:
        missed = 1.0
        for place in range(depth):
            missed *= max(0.0, (others - place) / (items - place)) if items > place else 0.0
        scores[f"{direction}_recall@{depth}"] = 1 - missed
    return scores


def count_items(split: "Dataset", side: str) -> int:
    """Counts the items of one side in a split."""
    if side in MEDIA:
        return len(split)
    return sum(len(list_texts(value)) for value in split[side])


def move_sides_to_device(batch: dict[str, Any], model: PlaitPreTrainedModel) -> dict[str, Any]:
    """Returns the sides of an evaluation batch, with their inputs on the device of the model."""
    return {side: {**part, "inputs": move_to_device(part["inputs"], model)} for side, part in batch["sides"].items()}


def find_sides(names: Iterable[str]) -> list[str]:
    """Returns the sides of columns with these names; hard negatives are no side of their own."""
    present = {name.partition(".")[0] for name in names}
    return [side for side in SIDE_ORDER if side in present]


def find_side_pair(recipe: Recipe) -> tuple[str, str]:
    """Returns the two sides of a recipe: those of its columns, or text and image."""
    sides = find_sides(recipe.data.columns)
    return (sides[0], sides[1]) if len(sides) == 2 else ("text", "image")


def list_texts(value: Any) -> list[str]:
    """Returns the texts of a row as a list: none, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else [text for text in value if text is not None]


def split_texts(data: "Dataset", split: str) -> "Dataset":
    """Makes a row of each text of a row; rows without a text are left out, with a warning.

    Raises RecipeError if no row has a text, or all have the same.
    """
    texts = [list_texts(value) for value in data["text"]]
    rows = [row for row, found in enumerate(texts) for _ in found]
    flat = [text for found in texts for text in found]
    if len(set(flat)) < 2:
        what = f"the same text, {flat[0]!r}" if flat else "no text"
        raise RecipeError(f"data: all rows of {split!r} have {what}: retrieval needs at least two different texts")
    empty = sum(not found for found in texts)
    if empty:
        logger.warning(f"retrieval: {empty} of {len(texts)} rows of {split!r} have no text and are left out")
    if not empty and all(len(found) == 1 for found in texts) and isinstance(data[0]["text"], str):
        return data
    return data.remove_columns("text").select(rows).add_column("text", flat)


def drop_document(row: Row) -> Row:
    """Returns a row without its document."""
    return {name: value for name, value in row.items() if name != DOCUMENT}


def select_items(row: Row, modality: str) -> Row:
    """Returns the columns of a modality in a row."""
    columns = MODALITY_TABLE[modality].columns
    return {name: value for name, value in row.items() if name.partition(".")[0] in columns}


def encode_uncached_texts(collator: RowEncoder, texts: Sequence[str | None]) -> dict[str, Tensor]:
    """Encodes texts as inputs of a tower, without the feature cache, which holds outputs of the text side only."""
    options: dict[str, Any] = {}
    if collator.max_length is not None:
        options = {"max_length": collator.max_length, "truncation": True}
    return dict(collator.processor(text=list(texts), return_tensors="pt", **options))


def add_prefix(start: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns inputs with a prefix, `start` and an underscore, before their names."""
    return {f"{start}_{name}": value for name, value in inputs.items()}


def encode_negatives(
    collator: RowEncoder, rows: Sequence[Sequence[str]], captions: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encodes hard negatives as the model's inputs (batch, negatives, length) and their group ids (batch, negatives),
    -1 for the padding of rows with fewer negatives; second, the cached outputs of the text tower, which replace the
    inputs if `captions` (negatives of the text side) and all are cached. Both are empty without hard negatives."""
    most = max(map(len, rows))
    if not most:
        return {}, {}
    filled: list[str | None] = [text for row in rows for text in (*row, *[None] * (most - len(row)))]
    numbers = {f"{NEGATIVE}_groups": torch.tensor([hash_key(text) for text in filled]).view(len(rows), most)}
    store = collator.features.get("text") if captions else None
    keys = [compute_text_key({"text": text}, collator.max_length) for text in filled]
    if store is not None and store.has_keys(keys):
        outputs = store.gather([[] if key is None else [key] for key in keys])
        return numbers, {name: value.unflatten(0, (len(rows), most)) for name, value in outputs.items()}
    inputs = {
        name: value.unflatten(0, (len(rows), most)) for name, value in encode_uncached_texts(collator, filled).items()
    }
    return {**add_prefix(NEGATIVE, inputs), **numbers}, {}


def sample_texts(collator: RowEncoder, texts: Sequence[str], count: int) -> list[str]:
    """Samples `count` of the texts, or all if there are fewer, at random by seed and epoch."""
    left = list(texts)
    return [left.pop(collator.draw(len(left), *texts, str(place))) for place in range(min(count, len(left)))]


def check_negatives(data: "Dataset", split: str) -> None:
    """Raises RecipeError for a row whose hard negatives are no texts, or if no row has any."""
    column = data[NEGATIVE]
    for row, value in enumerate(column):
        texts = value if isinstance(value, list) else [value]
        if any(text is not None and not isinstance(text, str) for text in texts):
            raise RecipeError(
                f"data.columns.{NEGATIVE}: row {row} of {split!r} has {value!r}, neither a text nor a list of texts: "
                "remove or correct it"
            )
    if not any(list_texts(value) for value in column):
        raise RecipeError(f"data.columns.{NEGATIVE}: no row of {split!r} has a hard negative: leave the column out")


def hash_groups(rows: Sequence[Row]) -> Tensor:
    """Computes group ids (batch, sides): a number for the item of each side, the same for the same text or media in
    every process; -1 for an absent item."""
    kinds: list[list[str | None]] = [
        join_item_keys(rows, side) if side in MEDIA else [row[side] for row in rows] for side in find_sides(rows[0])
    ]
    return torch.tensor([[hash_key(key) for key in keys] for keys in kinds]).T


def hash_key(key: str | None) -> int:
    """Returns 63 bits of a digest of a key; -1 for None."""
    return -1 if key is None else int.from_bytes(sha256(key.encode()).digest()[:8], "big") >> 1


def join_item_keys(rows: Sequence[Row], modality: str) -> list[str | None]:
    """Returns a key of the items of a modality in each row, by their content; None for a row without one."""
    return [" ".join(key for key, _ in items) or None for items in collect_batch_items(rows, modality)]


def compute_row_key(row: Row, media: Mapping[str, str | None]) -> str:
    """Returns a key of the content of a row: equal for rows with the same media (their keys by modality), text and
    document."""
    held = [(modality, key) for modality, key in media.items() if key is not None]
    return sha256(repr((held, row.get("text"), row.get(DOCUMENT))).encode()).hexdigest()[:24]
