"""The pretraining objectives that a config allows: each checks the parts that it needs."""

from collections.abc import Callable

from ...configuration import PlaitConfig
from ..heads.language_model import check_decoder_config
from ..heads.masked_image import find_patches
from ..heads.masked_lm import check_text_tower


def find_objectives(config: PlaitConfig) -> dict[str, float | int]:
    """Returns the objectives of a config with their weights; if it names none, all that its parts allow, with weight 1.

    Raises ValueError for an objective without a part that it needs, no possible objective, or no weight above 0.
    """
    if config.objectives is None:
        possible = {name: 1.0 for name in OBJECTIVE_CHECKS if is_possible(config, name)}
        if not possible:
            raise ValueError(
                f"no pretraining objective is possible with the towers {', '.join(config.encoders)}: add another"
            )
        return possible
    if config.decoder_config is not None and "captioning" not in config.objectives:
        raise ValueError(
            "nothing trains the decoder of this config: add captioning to its objectives, or leave the decoder out"
        )
    if not any(config.objectives.values()):
        raise ValueError(f"no objective has a weight above 0: {dict(config.objectives)}, set one")
    for name in config.objectives:
        OBJECTIVE_CHECKS[name](config)
    return dict(config.objectives)


def is_possible(config: PlaitConfig, name: str) -> bool:
    """Returns whether the config's parts allow this objective."""
    try:
        OBJECTIVE_CHECKS[name](config)
    except ValueError:
        return False
    return True


def check_two_towers(config: PlaitConfig, name: str) -> None:
    """Raises ValueError unless there are two towers to compare."""
    if len(config.encoders) != 2:
        raise ValueError(
            f"{name} compares two towers, and this config has {', '.join(config.encoders) or 'none'}: use two"
        )


def check_contrastive(config: PlaitConfig) -> None:
    """Raises ValueError unless there are two towers to compare."""
    check_two_towers(config, "contrastive")
    if config.retrieval_config is not None and config.retrieval_config.document is not None:
        raise ValueError("contrastive pretraining compares two towers: leave retrieval_config.document out")


def check_matching(config: PlaitConfig) -> None:
    """Raises ValueError unless there are two towers, and a fusion in which their tokens attend to each other."""
    check_two_towers(config, "matching")
    check_token_interaction(config, "matching")


def check_masked_lm(config: PlaitConfig) -> None:
    """Raises ValueError unless the text tower's tokens are kept, and attend to those of the other towers."""
    check_text_tower(config, "masked_lm")
    check_token_interaction(config, "masked_lm")


def check_masked_image(config: PlaitConfig) -> None:
    """Raises ValueError unless there is an image tower whose tokens are a grid of patches."""
    if config.vision_config is None:
        raise ValueError("masked_image needs an image tower, and this config has none: compose it with image=...")
    find_patches(config.vision_config)


def check_captioning(config: PlaitConfig) -> None:
    """Raises ValueError unless a decoder cross-attends to other modalities than text."""
    check_decoder_config(config, "captioning", reads_context=True)
    check_fused(config, "captioning")
    others = [modality for modality in config.encoders if modality != "text"]
    if not others:
        raise ValueError(
            "captioning describes another modality than text, and this config has no such tower: compose it with one"
        )
    fusion = config.fusion_config
    if (
        fusion is not None
        and fusion.strategy == "cross_attention"
        and (fusion.query or next(iter(config.encoders))) == "text"
    ):
        raise ValueError(
            "captioning reads the fused tokens of an image without its text: with query='text' cross_attention leaves "
            "a single token; name another query or fusion"
        )


def check_token_interaction(config: PlaitConfig, name: str) -> None:
    """Raises ValueError for a fusion in which the towers' tokens do not attend to each other."""
    check_fused(config, name)
    fusion = config.fusion_config
    if fusion is not None and fusion.strategy == "concatenate":
        raise ValueError(
            f"{name} needs a fusion in which text and image attend to each other, which concatenate does not: choose "
            "another strategy, e.g. fusion='early'"
        )


def check_fused(config: PlaitConfig, name: str) -> None:
    """Raises ValueError for several towers without a fusion."""
    if config.fusion_config is None and len(config.encoders) > 1:
        raise ValueError(f"{name} needs a fusion, and this config has none: compose it with fusion=...")


OBJECTIVE_CHECKS: dict[str, Callable[[PlaitConfig], object]] = {
    "contrastive": check_contrastive,
    "matching": check_matching,
    "masked_lm": check_masked_lm,
    "masked_image": check_masked_image,
    "captioning": check_captioning,
}
