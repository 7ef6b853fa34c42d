"""The table of a model's parts: parameters by number, and where the weights came from."""

from dataclasses import dataclass

from ...configuration import OWN_CONFIGS, PlaitConfig
from .composable import ComposableModel
from .parameter_names import is_adapter_weight, part_of

SUMMARY_COLUMNS = ("parameters", "pretrained", "fresh", "adapters", "frozen", "trainable")


@dataclass
class ComponentSummary:
    """A row of the table: one part of a model and its numbers of parameters."""

    part: str
    kind: str
    origin: str
    parameters: int = 0
    trainable: int = 0
    fresh: int = 0
    adapters: int = 0


@dataclass
class ModelSummary:
    """The table of a model's parts: kind, numbers of parameters, and where the weights came from."""

    rows: list[ComponentSummary]

    @classmethod
    def from_model(cls, model: ComposableModel) -> "ModelSummary":
        """Counts the parameters of a model by part."""
        rows: dict[str, ComponentSummary] = {}
        saved = model.name_or_path or "fresh"
        for name, parameter in model.named_parameters():
            if ".original_module." in name:
                continue  # peft's copy of a module that it trains whole, which nothing reads
            part = part_of(name)
            kind = describe_kind(model.config, part)
            row = rows.setdefault(part, ComponentSummary(part, kind, model.origins.get(part, saved)))
            row.parameters += parameter.numel()
            row.trainable += parameter.numel() * parameter.requires_grad
            adapter = is_adapter_weight(name)
            row.adapters += parameter.numel() * adapter
            row.fresh += parameter.numel() * (not adapter and (row.origin == "fresh" or name in model.fresh_names))
        return cls(list(rows.values()))

    def __str__(self) -> str:
        width = max(10, *(len(row.part) for row in self.rows))
        columns = [name for name in SUMMARY_COLUMNS if name != "adapters" or any(row.adapters for row in self.rows)]
        head = " ".join(f"{name:>12s}" for name in columns)
        lines = [f"{'part':{width}s} {'made of':28s} {head}  weights from"]
        for row in self.rows:
            pretrained, frozen = row.parameters - row.fresh - row.adapters, row.parameters - row.trainable
            numbers = (row.parameters, pretrained, row.fresh, row.adapters, frozen, row.trainable)
            cells = " ".join(f"{n:12,d}" for name, n in zip(SUMMARY_COLUMNS, numbers, strict=True) if name in columns)
            lines.append(f"{row.part:{width}s} {row.kind:28s} {cells}  {row.origin}")
        return "\n".join(lines)


def describe_kind(config: PlaitConfig, part: str) -> str:
    """Returns the table's description of a part: its native family, wrapped model type or fusion; "-" for a head."""
    fusion = config.fusion_config
    if part == "fusion" and fusion is not None:
        return f"{fusion.strategy}, {fusion.connector}"
    if part == "denoiser" and config.denoiser_config is not None:
        return f"rectified flow, {config.denoiser_config.prediction}"
    if part == "autoencoder" and config.autoencoder_config is not None:
        content = config.autoencoder_config.diffusers_config
        return "plait_autoencoder" if content is None else f"{content['_class_name']} (diffusers)"
    tower = config.decoder_config if part == "decoder" else config.towers.get(part)
    if tower is None:
        return "-"
    own = type(tower) in OWN_CONFIGS.values()
    return (tower.family or tower.model_type) if own else f"{tower.model_type} (wrapped)"
