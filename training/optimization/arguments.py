"""The arguments of PlaitTrainer: those of the Trainer, and arguments for models with several parts."""

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from ...modeling.backbone.parts import check_parts
from ..metrics.direction import is_greater_better
from ..parameters import check_rate

MUON = "muon"  # the optimizer that transformers does not know


@dataclass
class PlaitTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments`, and arguments for learning rates, freezing, losses, batches, evaluation and
    caches of models with several parts (each described in its field's help). `optim` may also be "muon": Muon for the
    matrices of the layers, AdamW for the other parameters (see `MuonWithAdamW`).

    Raises:
        ValueError: an unknown part; a part both frozen and given a learning rate; early stopping without
            load_best_model_at_end or metric_for_best_model; two ways of choosing the rows of a batch; Muon with sharded
            parameters; a number out of its range.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "learning_rates", "class_weights", "unfreeze"]

    learning_rates: dict | str | None = field(
        default=None,
        metadata={
            "help": "Learning rate by part (text, image, audio, video, fusion, decoder, denoiser, head), as a dict or "
            "as JSON; other parts use learning_rate. 0 freezes the part."
        },
    )
    frozen: list[str] = field(default_factory=list, metadata={"help": "Parts whose weights are not trained."})
    unfreeze: dict | str | None = field(
        default=None,
        metadata={
            "help": "Share of the training steps after which a part is trained, by part, as a dict or as JSON: "
            '{"text": 0.5} freezes the text tower for the first half.'
        },
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Factor of the learning rate from each layer of a tower or decoder to the one below it, such as "
            "0.8: the lower, the less a layer changes. None: one rate for all."
        },
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "With optim: muon, the learning rate of the matrices that Muon updates. None: that of their part."
        },
    )
    muon_steps: int | None = field(
        default=None,
        metadata={
            "help": "With optim: muon, orthogonalize by this many steps of Polar Express, matrices of one shape at a "
            "time: 4 are as good as torch's 5 steps, 3 faster. None: torch's own Muon."
        },
    )
    class_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": "Weight of a row's loss by the name of its class (others: 1), as a dict or as JSON; "
            '"balanced": rows / (classes * rows of the class).'
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this number of evaluations without a better metric_for_best_model."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "Minimum improvement of the metric that counts as better."}
    )
    share_images: bool = field(
        default=False,
        metadata={"help": "Put rows that share an image into the same batch, where the image is encoded once."},
    )
    tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Tokens in a batch of each device (of inputs and targets, with padding), filled with rows of "
            "similar length, instead of per_device_train_batch_size rows."
        },
    )
    gradient_cache_rows: int | None = field(
        default=None,
        metadata={
            "help": "Rows of a contrastive batch that the towers process at a time, so that a batch of any size needs "
            "the memory of this number of rows; every row is run twice. None: all rows at once."
        },
    )
    average_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of an exponential moving average of the weights, which is measured and saved: 0.999 "
            "averages about the last 1000 steps. None: the weights themselves."
        },
    )
    average_warmup: bool = field(
        default=True,
        metadata={
            "help": "With average_decay: the decay after step n is at most (1 + n) / (10 + n), so that the average "
            "forgets the first weights. False: average_decay from the first step."
        },
    )
    log_gradient_share: bool = field(
        default=False, metadata={"help": "Log each tower's share of the towers' gradient norms."}
    )
    ogm_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Strength of gradient modulation (OGM-GE, Peng et al. 2022), which scales down the gradients of "
            "the towers whose modality alone predicts best; 0.1 to 1 in the paper. None: no modulation."
        },
    )
    ogm_noise: bool = field(
        default=True, metadata={"help": "With ogm_alpha: add noise with the gradient's standard deviation (GE)."}
    )
    single_modality_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the mean of the losses from each modality alone, added to the loss, so that every "
            "modality is learned and rows with missing modalities are predicted better."
        },
    )
    eval_modality_patterns: bool = field(
        default=False,
        metadata={
            "help": "Also evaluate with every subset of the modalities present and the others removed from the rows: "
            "metrics named eval_text_accuracy, eval_text+image_accuracy, ... One more pass for each subset."
        },
    )
    probe_products: bool = field(
        default=True,
        metadata={
            "help": "On a CPU, time the matrix products of the linear layers before training and use the faster "
            "kernels, torch's or oneDNN's, which differ by rounding. Not done with full_determinism, torch_compile, "
            "fsdp or deepspeed."
        },
    )
    image_cache: float = field(
        default=0.0, metadata={"help": "GiB of processed images that the command line's collator keeps in memory."}
    )
    cache_features: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Modalities whose frozen tower is run once per distinct input, with its outputs cached on disk."
        },
    )
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the cached tower outputs; default: the folder plait in HF_HOME."}
    )
    feature_cache_limit: float = field(
        default=50.0, metadata={"help": "Largest size of the cached tower outputs in GiB; more is refused."}
    )
    # the collator needs columns that are no arguments of forward() (the image, the question)
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Remove columns that are no arguments of the model's forward."}
    )

    def __post_init__(self) -> None:
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = is_greater_better(self.metric_for_best_model)
        self._initialize_library_arguments()
        if self.use_cpu or not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # pinned memory needs an accelerator; torch warns without one
        if self.ddp_find_unused_parameters is None:
            # a batch without images leaves the image tower without gradients: other processes must not wait for them
            self.ddp_find_unused_parameters = True
        self._check_rates()
        self._check_muon()
        self._check_schedules()
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
        """The learning rates by part, without frozen parts."""
        rates = self.learning_rates if isinstance(self.learning_rates, dict) else {}
        return {part: rate for part, rate in rates.items() if rate != 0}

    @property
    def uses_fsdp(self) -> bool:
        """Whether the weights are sharded by FSDP: by `fsdp`, or by accelerate's launcher."""
        return bool(self.fsdp) or is_launched_with("ACCELERATE_USE_FSDP")

    @property
    def shards_parameters(self) -> bool:
        """Whether processes may hold parts of parameters, by FSDP or DeepSpeed."""
        return self.uses_fsdp or bool(self.deepspeed) or is_launched_with("ACCELERATE_USE_DEEPSPEED")

    @property
    def probes_products(self) -> bool:
        """Whether training begins with timing the matrix products (see `probe_products`)."""
        excluded = self.full_determinism or self.torch_compile or self.shards_parameters
        return self.probe_products and self.device.type == "cpu" and not excluded

    def _initialize_library_arguments(self) -> None:
        """Initializes the arguments of the Trainer, which does not know the optimizer "muon"."""
        chosen = self.optim
        if chosen == MUON:
            self.optim = OptimizerNames.ADAMW_TORCH
        super().__post_init__()
        if chosen == MUON:
            self.optim = MUON

    def _check_muon(self) -> None:
        if self.optim != MUON:
            for name in ("muon_learning_rate", "muon_steps"):
                if getattr(self, name) is not None:
                    chosen = OptimizerNames(self.optim).value
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but optim is {chosen!r}: set optim to {MUON!r}, or leave "
                        f"{name} out"
                    )
            return
        if self.muon_learning_rate is not None and not 0 < self.muon_learning_rate < float("inf"):
            raise ValueError(f"muon_learning_rate is {self.muon_learning_rate}: expected more than 0")
        if self.muon_steps is not None and self.muon_steps < 1:
            raise ValueError(f"muon_steps is {self.muon_steps}: expected at least 1")
        if self.shards_parameters:
            raise ValueError(
                f"optim is {MUON!r}, which needs whole matrices in every process, but fsdp or deepspeed shards them: "
                "leave these out, or choose another optim"
            )

    def _check_rates(self) -> None:
        if isinstance(self.learning_rates, str):
            raise ValueError(f'learning_rates is {self.learning_rates!r}: expected JSON such as {{"text": 1e-5}}')
        rates = {part: float(rate) for part, rate in (self.learning_rates or {}).items()}
        check_parts([*rates, *self.frozen])
        for part, rate in rates.items():
            check_rate(part, rate, trainable=part not in self.frozen)
        self.learning_rates = rates or None
        self.frozen = sorted({*self.frozen, *(part for part, rate in rates.items() if rate == 0)})

    def _check_schedules(self) -> None:
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}: expected more than 0 and at most 1")
        if self.layer_decay is not None and self.optim == MUON:
            raise ValueError(f"layer_decay is {self.layer_decay}, but optim is {MUON!r}: leave one of them out")
        if isinstance(self.unfreeze, str):
            raise ValueError(f'unfreeze is {self.unfreeze!r}: expected JSON such as {{"text": 0.5}}')
        self.unfreeze = {part: float(share) for part, share in (self.unfreeze or {}).items()} or None
        check_parts(self.unfreeze or ())
        for part, share in (self.unfreeze or {}).items():
            if not 0 < share < 1:
                raise ValueError(f"unfreeze: the share of {part!r} is {share}: expected more than 0 and less than 1")
            for name in ("frozen", "cache_features"):
                if part in getattr(self, name):
                    raise ValueError(f"{part!r} is in unfreeze and in {name}, which freezes it throughout: choose one")
        if self.unfreeze and self.shards_parameters:
            raise ValueError("unfreeze needs whole parameters in every process: leave fsdp and deepspeed out")

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
        several = [name for name, is_set in chosen.items() if is_set]
        if len(several) > 1:
            raise ValueError(
                f"{several[0]} cannot be used with {several[1]}: each chooses the rows of a batch, so set only one"
            )
        if self.tokens_per_batch is not None and self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch is {self.tokens_per_batch}: expected at least 1")

    def _check_early_stopping(self) -> None:
        if self.early_stopping_patience is None:
            return
        if not self.load_best_model_at_end or self.metric_for_best_model is None:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}, which needs load_best_model_at_end=True "
                "and a metric_for_best_model: set both"
            )


def is_launched_with(name: str) -> bool:
    """Returns whether accelerate's launcher has switched on what this variable of the environment stands for."""
    return os.environ.get(name, "false").lower() in ("true", "1")
