"""PlaitRewardTrainer: trains a model that generates on the rewards of its own texts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.cross_entropy import IGNORE_INDEX
from ...processing import PlaitProcessor
from ..data.media import Row
from ..recipes.reward import RewardRecipe, check_reward
from ..tasks.collator import PlaitDataCollator
from ..tasks.generation import list_references
from ..trainer.trainer import PlaitTrainer
from .functions import Reward
from .held_out import check_held_out, find_held_out
from .log import CollapseGuard, RewardLog
from .objective import (
    TokenStatistics,
    compute_advantages,
    compute_divergence,
    measure_tokens,
    minimum_risk_loss,
    policy_gradient_loss,
)
from .sampling import Policy, encode_prompt
from .scoring import RewardScorer, TextScores


class Drawn(NamedTuple):
    """Texts of a batch and their rewards. labels: (texts, length) tokens, -100 behind the end; scores: of the texts;
    rewards, advantages: (rows, samples)."""

    labels: Tensor
    scores: TextScores
    rewards: Tensor
    advantages: Tensor

    def describe(self, tokens: TokenStatistics) -> dict[str, float]:
        """Returns what the log says of a batch."""
        lengths = (self.labels != IGNORE_INDEX).sum(dim=1)
        return {
            "reward": float(self.rewards.mean()),
            **{f"reward_{shorten(name)}": float(values.mean()) for name, values in self.scores.parts.items()},
            "reward_advantage": float(self.advantages.std(correction=0)),
            "reward_entropy": float(tokens.entropies.sum() / lengths.sum().clamp(min=1)),
            "reward_length": float(lengths.float().mean()),
            "reward_distinct": len({tuple(row) for row in self.labels.tolist()}) / len(self.labels),
        }


class PlaitRewardTrainer(PlaitTrainer):
    """A PlaitTrainer for models that generate (PlaitForConditionalGeneration, PlaitForCausalLM): texts are drawn from
    the model for every row of a batch and scored, and the model learns to draw those that score better than the others
    (see `RewardRecipe`). Takes the arguments of PlaitTrainer, and:

    reward: what is rewarded and how it is learned, a RewardRecipe or a mapping of its fields.
    functions: rewards of your own, `function(texts, rows)`, by the names that `reward.metrics` gives them.

    Draws and learns without dropout, so that a text's probability is the one it was drawn with; the cross-entropy that
    may be mixed in has it. Evaluation is that of PlaitTrainer. The log has `reward` (with penalties), each reward as
    `reward_NAME`, `reward_advantage` (its standard deviation), `reward_entropy` (nats a token), `reward_length`
    (tokens), `reward_distinct` (share of different texts), and with kl `reward_kl`.

    Raises:
        ValueError: settings out of range, or a model or a collator whose texts cannot be drawn and compared.
        RecipeError: an unknown reward, or a function that `reward.metrics` does not name.
    """

    def __init__(
        self,
        *args: Any,
        reward: RewardRecipe | Mapping[str, Any],
        functions: Mapping[str, Reward] | None = None,
        **kwargs: Any,
    ) -> None:
        self.reward = reward if isinstance(reward, RewardRecipe) else RewardRecipe(**reward)
        try:
            check_reward(self.reward)
        except ValueError as error:
            raise ValueError(f"reward: {to_one_line(error)}") from error
        self.reward_log = RewardLog()
        super().__init__(*args, **kwargs)
        measured = [] if self.streamed_metrics is None else self.streamed_metrics.names
        check_held_out(self.reward, measured)
        self.collapse = CollapseGuard(find_held_out(self.reward, measured))
        check_generating(self.model, self.data_collator)
        if self.reward.stop_on_collapse:
            self.add_callback(self.collapse)
        self.scorer = RewardScorer(self.reward, self.list_training_references, functions)
        self.start_model = self.copy_start()

    @property
    def writer(self) -> PlaitProcessor:
        """The processor that turns tokens into texts."""
        collator: Any = self.data_collator
        return collator.processor

    def list_training_references(self) -> list[list[str]]:
        """Returns the references of every training row."""
        collator, data = cast("PlaitDataCollator", self.data_collator), cast("Any", self.train_dataset)
        return [list_references(each) for each in data[collator.task.reference_column]]

    def copy_start(self) -> nn.Module | None:
        """Returns the model that the divergence is measured from; None without `kl`, or for adapters, which are taken
        off instead."""
        if not self.reward.kl or hasattr(self.model, "disable_adapter"):
            return None
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as PlaitTrainer does."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.scorer.close()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as PlaitTrainer does, during training also the statistics of the rewards."""
        super().log({**logs, **self.average(self.reward_log.take())} if "learning_rate" in logs else logs, start_time)

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """Returns the means of values over the processes."""
        own = torch.tensor([list(values.values())], dtype=torch.float32, device=self.args.device)
        means: Any = self.accelerator.gather(own) if values else own
        return dict(zip(values, means.mean(dim=0).tolist(), strict=True))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Draws texts, scores them and computes the loss of a training batch; in an evaluation that of PlaitTrainer."""
        if "references" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.compute_reward_loss(model, inputs)
        if self.reward.cross_entropy:
            loss = loss + self.reward.cross_entropy * super().compute_loss(model, inputs["inputs"])
        return (loss, {"loss": loss}) if return_outputs else loss

    def compute_reward_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Computes the loss of the rewards, and of the divergence, for a batch: `inputs` with labels, `references`,
        `rows`, and `prompt` where it is not the inputs without labels."""
        trained: Any = unwrap_peft_model(self.accelerator.unwrap_model(model))
        prompt = batch.get("prompt") or {name: value for name, value in batch["inputs"].items() if name != "labels"}
        with without_dropout(model):
            policy = Policy(trained, prompt, encode_prompt(trained, prompt), self.reward.temperature)
            drawn = self.draw(policy, batch)
            logits = policy.compute_logits(drawn.labels, model)
        tokens = measure_tokens(logits, drawn.labels)
        loss, found = self.compute_objective(tokens, drawn), drawn.describe(tokens)
        if self.reward.kl:
            divergence = compute_divergence(logits, self.compute_start_logits(prompt, drawn.labels), drawn.labels)
            loss, found["reward_kl"] = loss + self.reward.kl * divergence, float(divergence.detach())
        self.reward_log.update(found)
        return loss

    def draw(self, policy: Policy, batch: Mapping[str, Any]) -> Drawn:
        """Draws the texts of a batch (with minimum_risk those of a beam search) and scores them."""
        samples, searches = self.reward.samples, self.reward.objective == "minimum_risk"
        rows = [{**row, "references": own} for row, own in zip(batch["rows"], batch["references"], strict=True)]
        labels = policy.search_beams(samples) if searches else policy.draw(samples)
        scores = self.score(labels, [row for row in rows for _ in range(samples)])
        rewards = torch.as_tensor(scores.total, dtype=torch.float32, device=labels.device).view(-1, samples)
        greedy, baseline = None, "none" if searches else self.reward.baseline
        if baseline == "greedy":
            greedy = rewards.new_tensor(self.score(policy.decode_greedily(), rows).total)
        return Drawn(labels, scores, rewards, compute_advantages(rewards, baseline, greedy))

    def score(self, labels: Tensor, rows: Sequence[Mapping[str, Any]]) -> TextScores:
        """Scores texts, (texts, length) tokens, each with its row."""
        padding = self.model.generation_config.pad_token_id or 0
        filled = labels.masked_fill(labels == IGNORE_INDEX, padding)
        texts = [text.strip() for text in self.writer.batch_decode(filled, skip_special_tokens=True)]
        return self.scorer.score(texts, (labels != IGNORE_INDEX).sum(dim=1).tolist(), rows)

    def compute_objective(self, tokens: TokenStatistics, drawn: Drawn) -> Tensor:
        """Computes the loss of the rewards."""
        log_probs = tokens.log_probs.sum(dim=1).view(drawn.rewards.shape)
        if self.reward.objective == "minimum_risk":
            return minimum_risk_loss(log_probs, drawn.rewards, float(self.reward.sharpness))
        return policy_gradient_loss(log_probs, drawn.advantages)

    @torch.no_grad()
    def compute_start_logits(self, prompt: Mapping[str, Any], labels: Tensor) -> Tensor:
        """Computes the logits of the start for the texts."""
        adapted: Any = self.model
        start: Any = unwrap_peft_model(adapted) if self.start_model is None else self.start_model
        context = adapted.disable_adapter() if self.start_model is None else without_dropout(start)
        with context, without_dropout(start):
            return Policy(start, prompt, encode_prompt(start, prompt), self.reward.temperature).compute_logits(labels)

    def _select_collate_fn(self, training: bool) -> Any:
        chosen = super()._select_collate_fn(training)
        return RewardBatches(self.data_collator) if training else chosen

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Counts nothing: the rewards are averaged over the texts of a batch."""
        return None


def shorten(name: str) -> str:
    """Returns the name of a reward in the log: of a folder or of `module:function` the last part."""
    return Path(name.rpartition(":")[2]).name


class RewardBatches:
    """Builds the training batches of rewards: those of an evaluation, of rows whose random choices are made, and the
    rows themselves."""

    def __init__(self, collator: Any) -> None:
        self.collator: PlaitDataCollator = collator

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Builds a batch of rows."""
        task = self.collator.task
        column = str(task.reference_column)
        batch = self.collator.build_evaluation_batch(task.sample_rows(self.collator, rows))
        references = [list_references(row[column]) for row in rows]
        return {**batch, "references": references, "rows": [dict(row) for row in rows]}


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Puts a model into evaluation mode inside the context, and then each of its modules back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_generating(model: Any, collator: Any) -> None:
    """Raises ValueError for a model that generates no text, a text that begins with a prompt of its own, or a collator
    whose task has no references."""
    inner: Any = unwrap_peft_model(model)
    if not isinstance(inner, PlaitPreTrainedModel) or not inner.can_generate():
        raise ValueError(f"rewards need a model that generates text, not {type(inner).__name__}")
    if any(getattr(inner.generation_config, name, None) for name in ("lang_to_id", "forced_decoder_ids")):
        raise ValueError("rewards cannot train a model whose texts begin with a prompt of its own (language, task)")
    if not isinstance(collator, PlaitDataCollator) or collator.task.reference_column is None:
        raise ValueError(
            "rewards compare texts with references: give a PlaitDataCollator of a task that has them (generation, "
            "dialogue) as data_collator"
        )
