"""The model of several tasks: one shared body and a head for each task."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from ...configuration import PlaitConfig
from ...modeling.backbone.model import PlaitModel
from ...modeling.backbone.pretrained import PlaitPreTrainedModel


@dataclass
class MultiTaskOutput(ModelOutput):
    """loss: scalar, the task's loss times its weight; losses: the loss without that weight by the task's name, and its
    parts by "task/objective"."""

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None


class MultiTaskModel(PlaitPreTrainedModel):
    """The models of several tasks, which share their towers, connectors, fusion and decoder: `model`. Their other
    modules are in `heads`, by task.

    Args:
        body: the shared part.
        heads: by task a model of its class, whose config differs only in what its head needs; its own body is dropped.
        weights: of the tasks' losses.
    """

    accepts_loss_kwargs = False

    def __init__(
        self, body: PlaitModel, heads: Mapping[str, PlaitPreTrainedModel], weights: Mapping[str, float]
    ) -> None:
        super().__init__(body.config)
        self.model = body
        self._tied_weights_keys = {}
        for name, head in heads.items():
            share_body(head, body)
            tied = head._tied_weights_keys or {}
            self._tied_weights_keys |= {f"heads.{name}.{key}": source for key, source in tied.items()}
        self.heads = nn.ModuleDict(heads)
        self.weights = dict(weights)
        single = {name: [f"{name}/{part}" for part in head.loss_names] for name, head in heads.items()}
        self.loss_names = [name for task, parts in single.items() for name in (task, *parts)]
        self.origins = dict(body.origins)
        self.post_init()

    def forward(self, task: str, **inputs: Any) -> MultiTaskOutput:
        """Computes the loss of one task on one batch; `inputs` are those of the task's model, with its targets."""
        outputs = self.heads[task](**inputs)
        parts = {f"{task}/{name}": loss for name, loss in (outputs.get("losses") or {}).items()}
        return MultiTaskOutput(self.weights[task] * outputs.loss, {task: outputs.loss, **parts})

    def save_tasks(self, folder: Path, processor: Any) -> None:
        """Saves a folder for each task, with its whole model and the processor, as `from_pretrained` loads them."""
        for name in self.heads:
            with self.attach_body(name) as model:
                model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)

    @contextmanager
    def attach_body(self, task: str) -> Any:
        """Yields the model of one task with the body among its modules, for as long as the context lasts."""
        head: Any = self.heads[task]
        body = head.__dict__.pop("model")
        head.model = body
        try:
            yield head
        finally:
            del head._modules["model"]
            head.__dict__["model"] = body


def share_body(head: PlaitPreTrainedModel, body: PlaitModel) -> None:
    """Replaces a head's own body by the shared one, without making it a module of the head: its weights are counted,
    moved, saved and trained as those of the whole model."""
    view = body
    if body.decoder is not None and cast("Any", head.config).decoder_config is None:
        view = PlaitModel(cast("PlaitConfig", head.config))
        view.towers, view.connectors, view.fusion = body.towers, body.connectors, body.fusion
    del head._modules["model"]
    head.__dict__["model"] = view


def build_head(
    model_class: type[PlaitPreTrainedModel], config: PlaitConfig, fields: Mapping[str, Any]
) -> PlaitPreTrainedModel:
    """Builds a model of a task's class for a body of this config; `fields` are the task's own: labels, objectives.

    Raises ValueError for a class that this body does not fit.
    """
    own = copy.copy(config)  # the parts' configs stay the same objects
    if model_class.decoder_kind is None:
        own.decoder_config, own.is_encoder_decoder, own.tie_encoder_embeddings = None, False, False
    for name, value in fields.items():
        setattr(own, name, value)
    head = model_class(own)
    return head.eval()


def find_body_class(classes: Sequence[type[PlaitPreTrainedModel]]) -> type[PlaitPreTrainedModel]:
    """Returns the class whose body has all parts that the tasks need: one with a decoder if a task generates text."""
    return next((kind for kind in classes if kind.decoder_kind is not None and kind.can_generate()), PlaitModel)


def copy_head(source: PlaitPreTrainedModel, heads: Iterable[PlaitPreTrainedModel]) -> None:
    """Copies the weights that a checkpoint has for its head into the heads of the same class."""
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("model.")}
    for head in heads:
        if type(head) is type(source) and weights:
            head.load_state_dict(weights, strict=False)
