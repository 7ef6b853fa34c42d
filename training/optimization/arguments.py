"""The arguments of PlaitTrainer: those of the Trainer, and what a model of several parts needs besides."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ...modeling.backbone.parts import check_parts
from ..metrics.classification import is_greater_better
from ..parameters import check_rate


@dataclass
class PlaitTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and:

    Raises:
        ValueError: an unknown part; a part both frozen and given a learning rate; early stopping without what it
            needs; two ways of choosing the rows of a batch.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "learning_rates", "class_weights"]

    learning_rates: dict | str | None = field(
        default=None,
        metadata={
            "help": "Learning rate by part (text, image, audio, video, fusion, decoder, head), as a dict or as JSON; "
            "the others use learning_rate. 0 freezes the part."
        },
    )
    frozen: list[str] = field(default_factory=list, metadata={"help": "Parts that are not trained."})
    class_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": "What the loss of a row is multiplied by, by the name of its class (others: 1), as a dict or as "
            'JSON; "balanced": rows / (classes * rows of the class).'
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better the metric must be to count as better."}
    )
    share_images: bool = field(
        default=False,
        metadata={"help": "Fill batches picture by picture, so that rows which share a picture encode it once."},
    )
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Batches of rows of like length with so many tokens (read and written ones, padding too) a device, "
            "in the place of per_device_train_batch_size rows."
        },
    )
    gradient_cache_rows: int | None = field(
        default=None,
        metadata={
            "help": "Of a contrastive batch, run so many rows at a time through the towers: a batch of any size in the "
            "memory of so many rows, each run twice. None: all at once."
        },
    )
    average_decay: float | None = field(
        default=None,
        metadata={
            "help": "Measure and save a moving average of the weights, a step counting so many times as much as the "
            "next: 0.999 averages about the last 1000 steps. None: the weights themselves."
        },
    )
    log_gradient_share: bool = field(
        default=False, metadata={"help": "Log each tower's share in the norm of the towers' gradients."}
    )
    ogm_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Let the tower of the modality that answers best alone learn less (OGM-GE, Peng et al. 2022); more "
            "for a stronger effect, the paper has 0.1 to 1. None: no balancing."
        },
    )
    ogm_noise: bool = field(
        default=True, metadata={"help": "With ogm_alpha: add noise as wide as the gradient (generalisation, GE)."}
    )
    single_modality_weight: float = field(
        default=0.0,
        metadata={
            "help": "Add so many times the mean of the losses of every modality read alone, so that none is learned "
            "less because another is easier, and rows that lack some are answered as well as they can be."
        },
    )
    eval_modality_patterns: bool = field(
        default=False,
        metadata={
            "help": "Evaluate on every set of present modalities as well, each row cut down to it: metrics named "
            "eval_text_accuracy, eval_text+image_accuracy, ... One more pass each."
        },
    )
    probe_products: bool = field(
        default=True,
        metadata={
            "help": "On a CPU, time the products of the linear layers once before training and use the faster kernels, "
            "torch's or oneDNN's, which differ by rounding. full_determinism, torch_compile, fsdp leave torch's own."
        },
    )
    image_cache: float = field(
        default=0.0, metadata={"help": "GiB of processed pictures that the command line's collator keeps in memory."}
    )
    cache_features: list[str] = field(
        default_factory=list,
        metadata={"help": "Modalities whose frozen tower is run once per distinct input, its outputs kept on disk."},
    )
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "Where those outputs are kept; default: the folder plait in HF_HOME."}
    )
    feature_cache_limit: float = field(
        default=50.0, metadata={"help": "Refuse to write more than so many GiB of tower outputs."}
    )
    # the collator needs columns that forward() does not name (the picture, the question)
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Remove columns that the model's forward does not name."}
    )

    def __post_init__(self) -> None:
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = is_greater_better(self.metric_for_best_model)
        super().__post_init__()
        if self.use_cpu or not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin it for, and torch warns
        if self.ddp_find_unused_parameters is None:
            # a batch without pictures leaves the image tower without gradients: the others must not wait for them
            self.ddp_find_unused_parameters = True
        self._check_rates()
        self._check_weights()
        self._check_early_stopping()
        self._check_sampling()
        if self.gradient_cache_rows is not None and self.gradient_cache_rows < 1:
            raise ValueError(f"gradient_cache_rows is {self.gradient_cache_rows}: expected at least 1")
        if not 0 <= self.single_modality_weight < float("inf"):
            raise ValueError(f"single_modality_weight is {self.single_modality_weight}: expected 0 or more")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}: expected more than 0 and less than 1")

    @property
    def part_rates(self) -> dict[str, float]:
        """The learning rates by part, those of frozen parts left out."""
        rates = self.learning_rates if isinstance(self.learning_rates, dict) else {}
        return {part: rate for part, rate in rates.items() if rate != 0}

    @property
    def probes_products(self) -> bool:
        """Whether training begins with that probe."""
        left = self.full_determinism or self.torch_compile or self.fsdp or self.deepspeed
        return self.probe_products and self.device.type == "cpu" and not left

    def _check_rates(self) -> None:
        if isinstance(self.learning_rates, str):
            raise ValueError(f'learning_rates is {self.learning_rates!r}: expected JSON such as {{"text": 1e-5}}')
        rates = {part: float(rate) for part, rate in (self.learning_rates or {}).items()}
        check_parts([*rates, *self.frozen])
        for part, rate in rates.items():
            check_rate(part, rate, trainable=part not in self.frozen)
        self.learning_rates = rates or None
        self.frozen = sorted({*self.frozen, *(part for part, rate in rates.items() if rate == 0)})

    def _check_weights(self) -> None:
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            raise ValueError(f"class_weights is {self.class_weights!r}: expected 'balanced', or a weight by class")
        if isinstance(self.class_weights, dict):
            for name, weight in self.class_weights.items():
                if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                    raise ValueError(f"class_weights: the weight of {name!r} is {weight!r}: expected 0 or more")

    def _check_sampling(self) -> None:
        chosen = {
            "share_images": self.share_images,
            "tokens_per_batch": self.tokens_per_batch is not None,
            f"train_sampling_strategy={self.train_sampling_strategy!r}": self.train_sampling_strategy != "random",
        }
        several = [name for name, asked in chosen.items() if asked]
        if len(several) > 1:
            raise ValueError(f"{several[0]} cannot be used with {several[1]}: each chooses the rows of a batch")
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch is {self.tokens_per_batch}: expected at least 1")

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            return
        if not self.load_best_model_at_end or self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs load_best_model_at_end=True and a metric_for_best_model")
