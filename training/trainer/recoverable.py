"""A Trainer whose runs survive: whole checkpoints, an exact resumption, a stop by signals and before a divergence."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput, unwrap_peft_model
from transformers.utils import logging

from ...configuration import cards
from ...modeling.backbone.sharing import ShareableModel
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError, RunInterrupted
from ..storage.atomic import UNFINISHED, write_json
from ..storage.checkpoints import (
    STATE_FILE,
    find_whole_checkpoint,
    install_checkpoint,
    relocate_best,
    remove_unfinished,
    rotate_checkpoints,
)
from ..streams.rows import PLACE, RowStream
from .absent_inputs import share_modalities
from .card import write_trainer_card
from .checks import check_quantized_gradients
from .divergence import DivergenceGuard, check_weights
from .sharding import allow_sharding_on_cpus, describe_checkpoint, find_sharded_plugin, gather_shards
from .stopping import StopSignals
from .stream_loading import StreamEpochs, build_stream_loader, check_stream, name_place_file, read_place, split_stream

logger = logging.get_logger(__name__)

STAGING = f".checkpoint{UNFINISHED}"  # where a checkpoint is written


class RecoverableTrainer(Trainer):
    """The Trainer of transformers, with checkpoints that are whole or absent.

    A training that resumes from its last checkpoint ends there, also inside an epoch; one that a signal stops saves a
    checkpoint first (`stop_signals`); one with a loss or gradients that are not finite raises Divergence. Secrets of
    the arguments are not saved.
    """

    args: PlaitTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stop_signals: StopSignals | None = None
        self.guard = DivergenceGuard(self)
        self.is_staging = False
        self.saved_step: int | None = None
        self.planned_steps: int | None = None  # of the training resumed from a checkpoint, as it was planned then
        self.stopped_step: int | None = None  # of that checkpoint, if training had ended early there
        super().__init__(*args, **kwargs)
        if isinstance(self.train_dataset, RowStream):
            check_stream(self.args)
            self.train_dataset = split_stream(self, self.train_dataset)
            self.args.ignore_data_skip = True  # a resumed stream is put in its place, and nothing is read twice
            self.add_callback(StreamEpochs())

    def get_train_dataloader(self) -> DataLoader:
        """Returns the Trainer's loader; of a `RowStream` one whose batches are those of this process."""
        if isinstance(self.train_dataset, RowStream):
            return build_stream_loader(self, self.train_dataset)
        return super().get_train_dataloader()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the batches of a step as the Trainer does, and notes the place in the stream behind them."""
        batches, count = super().get_batch_samples(*args, **kwargs)
        if isinstance(self.train_dataset, RowStream):
            for batch in batches:
                self.train_dataset.place = batch.pop(PLACE)
        return batches, count

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: Any = super()._prepare_inputs(inputs)
        if not self.args.shards_parameters or self.args.world_size == 1:
            return prepared
        if isinstance(prepared.get("inputs"), dict):  # a batch of StreamedMetrics
            return {**prepared, "inputs": share_modalities(prepared["inputs"])}
        return share_modalities(prepared)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if isinstance(self.train_dataset, RowStream):
            write_json(name_place_file(Path(output_dir), self.args.process_index), self.train_dataset.state_dict())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as the Trainer does; `resume_from_checkpoint=True` takes the newest whole checkpoint.

        Raises ValueError if a gradient would have to pass through quantized weights that let none through.
        """
        check_quantized_gradients(cast("nn.Module", self.model))
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self.find_checkpoint()
        self.planned_steps = self.stopped_step = None
        if resume_from_checkpoint:
            if self.args.should_save:
                relocate_best(Path(resume_from_checkpoint))
            self.accelerator.wait_for_everyone()
            self.planned_steps, self.stopped_step = read_plan(Path(resume_from_checkpoint))
            if isinstance(self.train_dataset, RowStream):
                self.train_dataset.load_state_dict(read_place(Path(resume_from_checkpoint), self.args.process_index))
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def find_checkpoint(self) -> str:
        """Returns the newest whole checkpoint in `output_dir`. Raises ValueError if there is none."""
        found = find_whole_checkpoint(Path(str(self.args.output_dir)))
        if found is None:
            raise ValueError(f"there is no whole checkpoint in {self.args.output_dir}: train without resuming")
        return str(found)

    def create_accelerator_and_postprocess(self) -> None:
        """Creates the accelerator as the Trainer does; FSDP also over processes on CPUs."""
        allow_sharding_on_cpus(self.args)
        super().create_accelerator_and_postprocess()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as the Trainer does; whole also if the checkpoints are written in shards, into which only
        config and processor are put here."""
        if _internal_call and find_sharded_plugin(self) is not None:
            describe_checkpoint(self, Path(str(output_dir)))
            return
        with gather_shards(self):
            super().save_model(output_dir, _internal_call)

    def name_rows(self, rows: list[int]) -> str:
        """Returns a text that names rows of the training data by their numbers."""
        shown = ", ".join(map(str, rows[:16]))
        return f"rows {shown}{', ...' if len(rows) > 16 else ''} of the training data"

    def check_weights(self) -> None:
        """Raises Divergence if a trained weight is not finite. Sharded weights are not checked."""
        if not self.args.shards_parameters:
            check_weights(unwrap_peft_model(self.accelerator.unwrap_model(self.model)), self.state.global_step)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._init_training_state(*args, **kwargs)
        restore_callbacks(self.state, self.callback_handler.callbacks)
        return found

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.planned_steps not in (None, self.state.max_steps):
            extend_schedule(self, self.planned_steps)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.check_gradients(norm)
        return norm

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps or self.state.global_step == self.stopped_step:
            self.control.should_training_stop = True  # the checkpoint resumed from is the last one
            return
        super()._run_epoch(*args, **kwargs)
        self._stop_if_asked()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        ends = self.control.should_epoch_stop or self.control.should_training_stop
        if not ends and not float(self.state.epoch or 0).is_integer():  # else what the end of an epoch does comes first
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """Saves a checkpoint and raises RunInterrupted, if a signal asks for it."""
        number = None if self.stop_signals is None else self.stop_signals.find_agreed(self.args.device)
        if number is not None:
            if self.saved_step != self.state.global_step:
                model: Any = self.model_wrapped
                self._save_checkpoint(model, None)
            raise RunInterrupted(number, step=self.state.global_step)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, STAGING) if self.is_staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes the checkpoint as the Trainer does, under another name, and renames it once all processes are done."""
        self.check_weights()
        folder, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            remove_unfinished(folder)
        self.accelerator.wait_for_everyone()
        self.is_staging = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.is_staging = False
        staged = folder / STAGING / name
        if self.args.should_save:
            self._find_best(folder)
            self.state.save_to_json(str(staged / STATE_FILE))
        self.accelerator.wait_for_everyone()
        if self.args.should_save or self.args.local_process_index == 0:
            install_checkpoint(staged, folder / name, writes=self.args.should_save)
            with suppress(OSError):  # another machine may have removed it
                staged.parent.rmdir()
        self.accelerator.wait_for_everyone()
        self.saved_step = self.state.global_step
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(folder / name))
        if self.args.should_save:
            rotate_checkpoints(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _find_best(self, folder: Path) -> None:
        """Sets the path of the best checkpoint, among those with their final names."""
        step = self.state.best_global_step
        best = folder / f"checkpoint-{step}"
        if step and (step == self.state.global_step or best.is_dir()):
            self.state.best_model_checkpoint = str(best)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: Any = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: Any = None,
        dataset_tags: Any = None,
        dataset: Any = None,
        dataset_args: Any = None,
    ) -> None:
        """Writes plait's card of a plait model, unless somebody wrote or edited one; of any other, transformers'. What
        else transformers takes (`language`, `license`, ...) is for its own card."""
        model = self.accelerator.unwrap_model(self.model)
        if not isinstance(model, ShareableModel):
            super().create_model_card(
                language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args
            )
        elif self.is_world_process_zero():
            hub, api = self.hub_model_id, HfApi(token=self.args.hub_token)
            known = cards.read_remote_card(api, hub, self.args.hub_revision) if hub else None
            folder = Path(str(self.args.output_dir))
            write_trainer_card(folder, model, self.state, hub or model_name, tags, dataset, known)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_staging:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token


def read_plan(checkpoint: Path) -> tuple[int, int | None]:
    """Returns the number of steps that the training of a checkpoint was planned for, and the step of the checkpoint if
    training was ended early there, else None."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    callbacks: Any = state.stateful_callbacks or {}
    stopped = callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop", False)
    return state.max_steps, state.global_step if stopped and state.global_step < state.max_steps else None


def restore_callbacks(state: TrainerState, callbacks: list[TrainerCallback]) -> None:
    """Gives early stopping the patience that it had in the checkpoint of this state, and the state an entry for every
    callback that keeps one in checkpoints, which those of older versions do not have."""
    saved: Any = state.stateful_callbacks
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            entry = saved.setdefault(type(callback).__name__, callback.state())
            if isinstance(callback, EarlyStoppingCallback) and isinstance(entry, dict):
                callback.early_stopping_patience_counter = entry["attributes"]["early_stopping_patience_counter"]


def extend_schedule(trainer: Any, planned: int) -> None:
    """Lets a resumed training go on by the learning rates of its new number of steps, and logs what that changes.

    Raises RecipeError if the training has done more steps already.
    """
    done, steps = trainer.state.global_step, trainer.state.max_steps
    if done > steps:
        raise RecipeError(
            f"training.num_train_epochs ({trainer.args.num_train_epochs}) or training.max_steps "
            f"({trainer.args.max_steps}) plans {steps} steps, and the run has done {done}: give more, or start anew"
        )
    scheduler, groups = trainer.lr_scheduler, trainer.optimizer.param_groups
    before = groups[0]["lr"]
    if isinstance(scheduler, LambdaLR):
        for group, base, rule in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * rule(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]
    logger.warning(
        f"training now has {steps} steps, not {planned}: the schedule {trainer.args.lr_scheduler_type.value} spans all "
        f"of them, and its learning rate at step {done} is {groups[0]['lr']:.3g}, where it was {before:.3g}"
    )
