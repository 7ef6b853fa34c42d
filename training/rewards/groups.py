"""Training by rewards of groups of replies, by TRL's GRPOTrainer and RLOOTrainer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...processing import PlaitProcessor
from ...processing.images import read_image
from ..data.inputs import require_tokenizer
from ..data.media import Row, collect_items
from ..metrics.base import StreamedMetrics
from ..metrics.generation import DEFAULT_NEW_TOKENS
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.reward import RewardRecipe
from ..tasks.collator import PlaitDataCollator
from ..tasks.dialogue import (
    Messages,
    build_conversations,
    collect_dialogue_rows,
    encode_text,
    render_text,
    select_prompt_messages,
)
from ..tasks.inline_images import count_row_images, find_image_token, place_images, repeat_image_tokens
from ..trainer.callbacks import build_early_stopping
from ..trainer.trainer import PlaitTrainer
from .library import LibraryTraining, build_library_arguments, build_library_trainer
from .log import CollapseGuard
from .scoring import RewardScorer

if TYPE_CHECKING:
    from datasets import Dataset

LIBRARY_NAMES = {"grpo": "GRPO", "rloo": "RLOO"}  # of an objective
# what TRL logs, by the name that plait has for it
LOGGED = {"entropy": "reward_entropy", "completions/mean_length": "reward_length", "kl": "reward_kl"}


class ReplyGroups:
    """The training rows of TRL's trainers, from the rows of the task dialogue: `rows[n]` is the prompt of row n in chat
    format, its images as PIL, and its number; `score` is TRL's reward function.

    Raises RecipeError for rows with different numbers of images.
    """

    def __init__(self, data: "Dataset", collator: PlaitDataCollator, scorer: RewardScorer) -> None:
        from datasets import Dataset

        token, self.counts = find_image_token(collator.processor), count_row_images(data)
        if len(set(self.counts)) > 1:
            raise RecipeError(
                f"reward.objective: TRL needs the same number of images in every row, and rows have {min(self.counts)} "
                f"to {max(self.counts)}: choose rows of one kind, or the objective policy_gradient"
            )
        self.data, self.scorer, self.token = data, scorer, token
        rows = list(collect_dialogue_rows(data, collator.settings, token))
        self.references = [[talk[-1]["content"] for talk in build_conversations(row)] for row in rows]
        self.prompts = [self.split_images(select_prompt_messages(row), n) for n, row in enumerate(rows)]
        self.rows = Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(self.build_rows)

    def split_images(self, messages: Messages, number: int) -> list[dict[str, Any]]:
        """Returns messages whose image tokens are parts of their own; as they are without an image token."""
        if self.token is None:
            return [dict(message) for message in messages]
        found = []
        for message in place_images(messages, self.counts[number], self.token, f"row {number} of 'train'"):
            first, *rest = message["content"].split(self.token.text)
            parts = [{"type": "text", "text": first}] if first else []
            for text in rest:
                parts += [{"type": "image"}, *([{"type": "text", "text": text}] if text else [])]
            found.append({**message, "content": parts})
        return found

    def build_rows(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Returns rows by their numbers."""
        numbers = batch["row"]
        made: dict[str, list[Any]] = {"row": numbers, "prompt": [self.prompts[number] for number in numbers]}
        if self.token is not None and self.counts[0]:
            made["images"] = [self.read_images(self.data[number]) for number in numbers]
        return made

    def read_images(self, row: Row) -> list[Any]:
        """Returns the images of a row."""
        return [read_image(content) for _, content in collect_items(row, "image")]

    def score(
        self, completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], row: Sequence[int], **given: Any
    ) -> list[float]:
        """Scores replies, each to the row of its number, and logs each reward by name."""
        texts = [(reply[0]["content"] or "").strip() for reply in completions]
        rows = {number: {**self.data[number], "references": self.references[number]} for number in set(row)}
        found = self.scorer.score(texts, [len(ids) for ids in completion_ids], [rows[number] for number in row])
        for name, values in found.parts.items():
            given["log_metric"](f"reward_{name}", float(values.mean()))
        return found.total.tolist()


class InlineTemplates(PlaitProcessor):
    """A processor that renders conversations as the task dialogue does: by the tokenizer's template, with every message
    as one text."""

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Renders one conversation, or several; with `tokenize` returns their token ids and pixels."""
        several = [conversation] if isinstance(conversation[0], Mapping) else conversation
        tokenizer, token = require_tokenizer(self), find_image_token(self)
        begin = bool(kwargs.get("add_generation_prompt"))
        texts = [render_text(tokenizer, self.join_parts(messages), begin) for messages in several]
        if not kwargs.get("tokenize"):
            return texts[0] if several is not conversation else texts
        ids = [repeat_image_tokens(encode_text(tokenizer, text), token) for text in texts]
        images = [
            [part["image"] for part in list_content_parts(messages) if part["type"] == "image"] for messages in several
        ]
        pixels = self(images=images, return_tensors="pt") if any(images) else {}
        return {"input_ids": ids, **pixels}

    def join_parts(self, messages: Messages) -> list[dict[str, Any]]:
        """Returns messages with their parts joined, in which the image token stands for an image."""
        shown = {"image": str(self.image_token)}
        return [
            {
                **message,
                "content": "".join(shown.get(part["type"]) or part["text"] for part in list_content_parts([message])),
            }
            for message in messages
        ]


def list_content_parts(messages: Messages) -> list[Mapping[str, Any]]:
    """Returns the parts of the messages' contents; a text is one."""
    contents = [message["content"] for message in messages]
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in contents]
    return [part for own in parts for part in own]


class GroupTraining(LibraryTraining):
    """The first base of TRL's GRPOTrainer and RLOOTrainer in a run of plait."""

    scorer: RewardScorer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as TRL does, and ends the processes that compute rewards."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.scorer.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as TRL does, what plait logs too by plait's names."""
        found: Any = self
        values = {name: found._metrics["train"].get(theirs) for theirs, name in LOGGED.items()}
        if "learning_rate" in logs:
            logs = {**logs, **{name: sum(each) / len(each) for name, each in values.items() if each}}
        super().log(logs, start_time)


def build_group_trainer(
    reward: RewardRecipe,
    rows: "Dataset",
    guard: CollapseGuard,
    *,
    model: Any,
    args: PlaitTrainingArguments,
    data_collator: PlaitDataCollator,
    train_dataset: Any,
    eval_dataset: Any,
    compute_metrics: StreamedMetrics,
    callbacks: Sequence[Any],
    processing_class: PlaitProcessor,
) -> Any:
    """Builds TRL's GRPOTrainer or RLOOTrainer. rows: the training rows of the task dialogue before they are prepared.
    A batch has `per_device_train_batch_size` rows with `samples` replies each.

    Raises RecipeError without TRL, or for what it refuses.
    """
    kind, inline = LIBRARY_NAMES[reward.objective], find_image_token(processing_class) is not None
    replies = args.per_device_train_batch_size * reward.samples
    own = {"per_device_train_batch_size": replies, "per_device_eval_batch_size": replies}
    own |= {"num_generations": reward.samples, "temperature": float(reward.temperature), "beta": float(reward.kl)}
    own |= {"max_completion_length": model.generation_config.max_new_tokens or DEFAULT_NEW_TOKENS}
    made = build_library_arguments(kind, args, **own, disable_dropout=True)
    scorer = RewardScorer(reward, lambda: groups.references)
    groups = ReplyGroups(rows, data_collator, scorer)
    evaluator = PlaitTrainer(
        model, args, data_collator, None, eval_dataset, compute_metrics, processing_class=processing_class
    )
    trainer = build_library_trainer(
        kind,
        evaluator,
        processing_class,
        (GroupTraining,),
        model=model,
        reward_funcs=groups.score,
        args=made,
        train_dataset=groups.rows,
        eval_dataset=eval_dataset,
        processing_class=add_templates(processing_class) if inline else require_tokenizer(processing_class),
        callbacks=[*callbacks, *build_early_stopping(args), *([guard] if reward.stop_on_collapse else [])],
    )
    trainer.scorer = scorer
    return trainer


def add_templates(processor: PlaitProcessor) -> InlineTemplates:
    """Returns a processor with the same parts that renders conversations as the task dialogue does."""
    made = InlineTemplates.__new__(InlineTemplates)
    made.__dict__.update(processor.__dict__)
    return made
