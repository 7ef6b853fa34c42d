"""The task of pretraining on pairs of text and image, without labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from transformers import DataCollatorForLanguageModeling, TrainerCallback

from ...configuration.objectives import CAPTIONING, CONTRASTIVE, MASKED_IMAGE, MASKED_LM, MATCHING
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.tasks.pretraining import PlaitForPreTraining
from ...processing import PlaitProcessor
from ..data.inputs import encode_target_labels, require_tokenizer
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.row_encoder import RowEncoder
from ..metrics.pretraining import ObjectiveMetrics
from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.objective_schedule import ObjectiveSchedule, parse_objective_weights, select_final_weights
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from .base import Scores, Settings, Task, move_to_device
from .generation import list_references
from .masked_lm import mask_tokens

if TYPE_CHECKING:
    from datasets import Dataset

OBJECTIVES_NEEDING_TEXT = {CONTRASTIVE, MATCHING, MASKED_LM, CAPTIONING}
OBJECTIVES_NEEDING_IMAGE = {CONTRASTIVE, MATCHING, MASKED_IMAGE, CAPTIONING}


@strict
@dataclass
class PreTrainingSettings(Settings):
    """`objectives`: for each name a weight, or points [[progress 0..1, weight], ...] between which the weight changes
    linearly over the run; the final weights are measured and saved. `image_mask_ratio`: share, 0..1, of an image's
    patches that masked_image masks; `mlm_probability`: share of a text's tokens that masked_lm selects.
    `max_target_length`: tokens of a caption as target at most, with its end token."""

    objectives: dict[str, Any] = field(default_factory=lambda: {CONTRASTIVE: 1.0, MATCHING: 1.0, MASKED_LM: 1.0})
    image_mask_ratio: float = 0.6
    mlm_probability: float = 0.15
    max_target_length: int | None = None


class PreTraining(Task):
    """Pretraining on pairs of the columns `text` and `image`. Either may be absent in a row; a list of texts makes a
    pair of each text. The objective captioning generates the text."""

    name: ClassVar[str] = "pretraining"
    model_class: ClassVar[type[PlaitPreTrainedModel]] = PlaitForPreTraining
    auto_class: ClassVar[str] = "AutoModelForPreTraining"
    roles: ClassVar[tuple[str, ...]] = ("text", "image", "image_id")
    settings: ClassVar[type[Settings]] = PreTrainingSettings

    def is_cacheable(self, modality: str, settings: PreTrainingSettings) -> bool:
        """Returns whether the modality's inputs are not masked anew in every batch."""
        return {"text": MASKED_LM, "image": MASKED_IMAGE}.get(modality) not in settings.objectives

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises RecipeError for wrong settings, or an objective whose part of the model is missing."""
        super().check_recipe(recipe)
        names = set(parse_objective_weights(self.build_settings(recipe.settings).objectives))
        model = recipe.model
        if model.from_pretrained is not None:
            return
        needed = {
            "text": names & {MATCHING, CONTRASTIVE, MASKED_LM} and "text",
            "image": names & OBJECTIVES_NEEDING_IMAGE and "image",
            "decoder": CAPTIONING in names and "decoder",
        }
        for part in filter(None, needed.values()):
            if getattr(model, part) is None and not (part != "decoder" and model.audio is not None):
                raise RecipeError(
                    f"model.{part} is missing, which settings.objectives ({', '.join(sorted(names))}) need: add it"
                )

    def build_model_fields(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the config's `objectives` with their final weights, and `image_mask_ratio`."""
        settings = self.build_settings(recipe.settings)
        weights = select_final_weights(parse_objective_weights(settings.objectives))
        return {"objectives": weights, "image_mask_ratio": settings.image_mask_ratio}

    def build_callbacks(self, recipe: Recipe, model: PlaitPreTrainedModel) -> list[TrainerCallback]:
        """Builds the schedule of the objective weights."""
        return [ObjectiveSchedule(model, parse_objective_weights(self.build_settings(recipe.settings).objectives))]

    def check_columns(self, names: Sequence[str], split: str, needs_targets: bool = True) -> None:
        """Raises RecipeError for data without a column for text or image."""
        if not {name.partition(".")[0] for name in names} & {"text", "image"}:
            raise RecipeError(
                f"data.columns: pretraining needs a column for text or image, but {split!r} has {', '.join(names)}: "
                "map one of the columns to text or image"
            )

    def check_inputs(self, names: Sequence[str], model: PlaitPreTrainedModel) -> None:
        """Raises RecipeError for a column without a tower; texts may also be captions that a decoder generates."""
        super().check_inputs([name for name in names if name != "text" or model.config.decoder_config is None], model)

    def check_training(self, data: "Dataset", args: PlaitTrainingArguments, recipe: Recipe) -> None:
        """Raises RecipeError if a batch would hold a single pair, or if a column is missing."""
        names = set(parse_objective_weights(self.build_settings(recipe.settings).objectives))
        columns = {name.partition(".")[0] for name in data.column_names}
        for column, readers in (("text", OBJECTIVES_NEEDING_TEXT), ("image", OBJECTIVES_NEEDING_IMAGE)):
            if column not in columns and names & readers:
                raise RecipeError(
                    f"data.columns has no {column}, which {', '.join(sorted(names & readers))} need: map a column to it"
                )
        if not names & {CONTRASTIVE, MATCHING} or args.tokens_per_batch is not None:
            return
        size, last = args.train_batch_size, len(data) % (args.train_batch_size * args.world_size)
        if size < 2 or (last == 1 and not args.dataloader_drop_last):
            raise RecipeError(
                f"training: {len(data)} pairs in batches of {size} leave one alone in a batch, but contrastive and "
                "matching compare pairs: change per_device_train_batch_size, or set dataloader_drop_last"
            )

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Makes a row of each text of a row with several."""
        from datasets import Dataset

        if "text" not in data.column_names or not any(isinstance(text, list) for text in data["text"]):
            return data
        texts = [[None] if not text else list_references(text) for text in data["text"]]
        rows = [row for row, several in enumerate(texts) for _ in several]
        flat = [text for several in texts for text in several]
        if data.column_names == ["text"]:
            return Dataset.from_dict({"text": flat})
        return data.remove_columns("text").select(rows).add_column("text", flat)

    def build_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the model's inputs, and for the objectives in the settings masked texts and caption labels."""
        names = set(collator.settings.objectives)
        batch = collator.encode_inputs(rows)
        if MASKED_LM in names and "input_ids" in batch:
            masking = DataCollatorForLanguageModeling(
                require_tokenizer(collator.processor), mlm_probability=collator.settings.mlm_probability
            )
            masked = mask_tokens(masking, batch["input_ids"].clone(), collator.seed)  # masks in place: a copy
            batch |= {"input_ids_masked": masked["input_ids"], "mlm_labels": masked["labels"]}
        if CAPTIONING in names:
            batch |= build_caption_labels(collator, rows)
        # tensors with a row for each row of the batch come first: the Trainer counts rows in the first
        last = {name: batch.pop(name) for name in ("pixel_values", "encoder_outputs") if name in batch}
        return {**batch, **last, "return_loss": True}

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds `inputs` of the model."""
        return {"inputs": self.build_batch(collator, rows)}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> ObjectiveMetrics:
        """Builds the metrics: the losses of the objectives, weighted as at the end of the run."""
        return ObjectiveMetrics(
            names, select_final_weights(parse_objective_weights(self.build_settings(recipe.settings).objectives))
        )

    def measure_baselines(self, metrics: ObjectiveMetrics, data: DataSplits, split: "Dataset") -> Scores:
        """Returns the accuracy of matching that always predicts "no match", as two of its three pairs do not match."""
        return {"always_no": {"matching_accuracy": 2 / 3}} if MATCHING in metrics.weights else {}

    def predict_rows(
        self, model: PlaitPreTrainedModel, collator: RowEncoder, rows: Sequence[Row]
    ) -> Iterator[dict[str, Any]]:
        """Yields for each row whether text and image match: `match`, a probability, and `similarity`, a cosine, each if
        the model has this objective."""
        with torch.no_grad():
            outputs = model(**move_to_device(collator.encode_inputs(rows), model), return_loss=False)
        found: dict[str, list[float]] = {}
        if outputs.matching_logits is not None:
            found["match"] = outputs.matching_logits.float().softmax(-1)[:, 1].tolist()
        if outputs.embeds is not None and len(outputs.embeds) == 2:
            first, second = outputs.embeds.values()
            found["similarity"] = (first.float() * second.float()).sum(-1).tolist()
        yield from ({name: round(values[row], 6) for name, values in found.items()} for row in range(len(rows)))

    def find_hub_task(self, modalities: tuple[str, ...]) -> str:
        """Returns "feature-extraction"."""
        return "feature-extraction"


def build_caption_labels(collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
    """Builds `labels` (batch, length) from the rows' texts; a row without a text has only -100."""
    texts = [row.get("text") for row in rows]
    given = [text for text in texts if text]
    if not given:
        return {"labels": torch.full((len(rows), 1), -100)}
    made = encode_target_labels(collator.processor, given, collator.settings.max_target_length)["labels"]
    labels = made.new_full((len(rows), made.shape[1]), -100)
    labels[torch.tensor([bool(text) for text in texts])] = made
    return {"labels": labels}
