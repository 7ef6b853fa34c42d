"""The task of preferences: make chosen answers likelier than rejected ones (DPO and its relatives)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from huggingface_hub.dataclasses import strict

from ...processing import PlaitProcessor
from ...processing.inline import ImageToken
from ..data.inputs import collect_rows, pad_token_rows, require_tokenizer
from ..data.labels import LabelSpec
from ..data.loading import DataSplits
from ..data.media import Row, find_columns
from ..data.row_encoder import RowEncoder
from ..metrics.per_row import RowScore, RowValues
from ..metrics.preference import PREFERENCE_ACCURACY, PREFERENCE_MARGIN, PreferenceMetrics
from ..recipes.errors import RecipeError, check_choice
from ..recipes.schema import Recipe
from .base import IMAGE_ROLES, Scores, Settings
from .causal_lm import get_pad_token
from .dialogue import Dialogue, DialogueSettings
from .inline_images import count_row_images, find_image_token, read_message

if TYPE_CHECKING:
    from datasets import Dataset

# those of TRL's DPOTrainer
LOSSES = (
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
)


@strict
@dataclass
class PreferenceSettings(DialogueSettings):
    """`chat_template`, `prompt_template`, `prompt`: as of the task dialogue. `loss`: of TRL's DPOTrainer, or several:
    "sigmoid" (DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290), "ipo", "hinge", "sft" (the cross-entropy of
    the chosen answer), ... `loss_weights`: of several. `beta`: how strongly the model is held to its start.
    `label_smoothing`: the share of pairs, 0 to 0.5, that are taken to be the wrong way round.

    Raises:
        RecipeError: an unknown loss, weights of another number, beta not above 0, or smoothing out of range.
    """

    loss: str | list[str] = "sigmoid"
    loss_weights: list[float | int] | None = None
    beta: float | int = 0.1
    label_smoothing: float | int = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.losses:
            check_choice("settings.loss", name, LOSSES)
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise RecipeError(
                f"settings.loss_weights: {len(self.loss_weights)} for {len(self.losses)} losses: give each"
            )
        if self.beta <= 0:
            raise RecipeError(f"settings.beta is {self.beta}: expected a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise RecipeError(f"settings.label_smoothing is {self.label_smoothing}: expected 0 or more, below 0.5")

    @property
    def losses(self) -> list[str]:
        """The names of the losses."""
        return [self.loss] if isinstance(self.loss, str) else list(self.loss)


class PreferencePair(NamedTuple):
    """A prompt as messages, and the two answers to it."""

    prompt: Sequence[Mapping[str, Any]]
    chosen: str
    rejected: str


class Preference(Dialogue):
    """Preferences between two answers, `chosen` and `rejected`, to `prompt` or `messages`, with the images of a row as
    in dialogue: TRL's DPOTrainer makes the chosen answer likelier than the rejected one, compared with the model at the
    start. An answer is a text, or messages in chat format whose last one it is; without a prompt they begin with it.

    The metrics are the share of rows whose chosen answer is the likelier one, and the difference in nats; metrics of
    texts compare generated answers with the chosen ones."""

    name: ClassVar[str] = "preference"
    roles: ClassVar[tuple[str, ...]] = ("messages", "prompt", "chosen", "rejected", *IMAGE_ROLES)
    target_columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    needed: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen",), ("rejected",))
    metrics: ClassVar[tuple[str, ...]] = (PREFERENCE_ACCURACY, PREFERENCE_MARGIN)
    settings: ClassVar[type[Settings]] = PreferenceSettings

    def collect_tokenizer_texts(self, data: "Dataset", part: str) -> Iterator[str]:
        """Yields all messages as "role: content"."""
        for pair in read_pairs(data, "train", None, PreferenceSettings()):
            yield from (f"{message['role']}: {message['content']}" for message in pair.prompt)
            yield from (f"assistant: {answer}" for answer in (pair.chosen, pair.rejected))

    def prepare(self, data: "Dataset", split: str, processor: PlaitProcessor, recipe: Recipe) -> "Dataset":
        """Tokenizes the prompts with both answers: columns as of dialogue for the chosen one, `rejected_input_ids`,
        `rejected_labels` and `rejected` (its text). Raises RecipeError for a row without two answers."""
        self.check_read_columns(data, split, recipe)
        pairs = read_pairs(data, split, find_image_token(processor), self.build_settings(recipe.settings))
        chosen, rejected = (
            self.tokenize_rows(answer_prompts(pairs, name, data), split, processor, recipe)
            for name in ("chosen", "rejected")
        )
        for name in ("input_ids", "labels"):
            chosen = chosen.add_column(f"rejected_{name}", rejected[name][:])
        return chosen.add_column("rejected", [pair.rejected for pair in pairs])

    def build_evaluation_batch(self, collator: RowEncoder, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds the batch of dialogue for the chosen answers, and `rejected`, the inputs for the others."""
        batch = super().build_evaluation_batch(collator, rows)
        pad = get_pad_token(require_tokenizer(collator.processor))
        ids, mask = pad_token_rows([row["rejected_input_ids"] for row in rows], pad)
        labels = pad_token_rows([row["rejected_labels"] for row in rows], -100).ids
        return {**batch, "rejected": {**batch["inputs"], "input_ids": ids, "attention_mask": mask, "labels": labels}}

    def build_metrics(
        self, names: Sequence[str], labels: LabelSpec | None, processor: PlaitProcessor, recipe: Recipe
    ) -> PreferenceMetrics:
        """Builds the metrics of preferences, and those of generated answers that are named."""
        return PreferenceMetrics(names, processor)

    def measure_baselines(self, metrics: Any, data: DataSplits, split: "Dataset") -> Scores:
        """Computes the metrics of baselines without a model: as of dialogue if texts are generated, and `answer_alone`,
        which prefers the answer that was chosen more often in training, whatever the prompt and the images."""
        found = super().measure_baselines(metrics, data, split) if metrics.metric_names else {}
        scores = prefer_frequent(data, split)
        return {**found, **({} if scores is None else {"answer_alone": {PREFERENCE_ACCURACY: float(scores.mean())}})}

    def score_baseline_rows(self, metrics: Any, data: DataSplits, split: "Dataset") -> Mapping[str, RowValues]:
        """Computes the per-row scores of the same baselines, by name."""
        found = super().score_baseline_rows(metrics, data, split) if metrics.metric_names else {}
        scores = prefer_frequent(data, split)
        alone = (
            {} if scores is None else {"answer_alone": {PREFERENCE_ACCURACY: RowScore(scores, np.ones_like(scores))}}
        )
        return {**found, **alone}


def prefer_frequent(data: DataSplits, split: "Dataset") -> np.ndarray | None:
    """Returns for each row of a split whether its chosen answer was chosen more often in training than its rejected
    one, (rows,), 1, or 0.5 for equal ones; None without training rows."""
    if data.train is None:
        return None
    seen = Counter(texts[0] for texts in data.train["references"])
    seen.subtract(data.train["rejected"])
    pairs = zip(split["references"], split["rejected"], strict=True)
    return np.array([(np.sign(seen[texts[0]] - seen[other]) + 1) / 2 for texts, other in pairs])


def read_pairs(
    data: "Dataset", split: str, token: ImageToken | None, settings: PreferenceSettings
) -> list[PreferencePair]:
    """Reads the pairs of a split. Raises RecipeError for a row without two answers, or with two equal ones."""
    images = find_columns(data.column_names, "image")
    texts = data.select_columns([name for name in data.column_names if name not in images])
    pairs = []
    for number, (row, count) in enumerate(zip(collect_rows(texts), count_row_images(data), strict=True)):
        said = {name: read_answer(row[name]) for name in ("chosen", "rejected")}
        wrong = next((name for name, (_, text) in said.items() if not text.strip()), None)
        if wrong is not None or said["chosen"][1] == said["rejected"][1]:
            found = f"{wrong} is empty" if wrong else "chosen and rejected are the same"
            raise RecipeError(
                f"data: in row {number} of {split!r} {found}: give two different answers, or remove the row"
            )
        before, alone = said["chosen"][0], row.get("messages") is None and row.get("prompt") is None
        row = settings.complete_row({**row, "messages": before} if alone and before else row, count, token)
        messages = row.get("messages")
        prompt = [{"role": "user", "content": row["prompt"]}] if messages is None else list(messages)
        pairs.append(PreferencePair(prompt, said["chosen"][1], said["rejected"][1]))
    return pairs


def read_answer(answer: Any) -> tuple[list[Any], str]:
    """Returns the messages before an answer, and its text: of messages in chat format the last one."""
    if not isinstance(answer, list):
        return [], answer or ""
    return (list(answer[:-1]), read_message(answer[-1], None)["content"] or "") if answer else ([], "")


def answer_prompts(pairs: Sequence[PreferencePair], name: str, data: "Dataset") -> "Dataset":
    """Returns conversations that end with one of the two answers, with the images of the rows."""
    from datasets import Dataset, concatenate_datasets

    replies = [{"role": "assistant", "content": getattr(pair, name)} for pair in pairs]
    talks = [[*map(dict, pair.prompt), reply] for pair, reply in zip(pairs, replies, strict=True)]
    made = Dataset.from_dict({"messages": talks})
    images = find_columns(data.column_names, "image")
    return concatenate_datasets([made, data.select_columns(images)], axis=1) if images else made
