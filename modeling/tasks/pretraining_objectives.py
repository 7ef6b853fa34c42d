"""Which objectives a plait can be pretrained for: what each needs of its parts."""

from collections.abc import Callable

from ...configuration import PlaitConfig
from ..heads.language_model import check_decoder_config
from ..heads.masked_image import find_patches
from ..heads.masked_lm import check_text_tower


def find_objectives(config: PlaitConfig) -> dict[str, float | int]:
    """The objectives of a config with their weights; where it names none, all that its parts allow, alike.

    Raises ValueError where a part is missing that an objective needs, where no objective is possible, or none counts.
    """
    if config.objectives is None:
        possible = {name: 1.0 for name in OBJECTIVE_CHECKS if is_possible(config, name)}
        if not possible:
            raise ValueError(f"a plait of these parts can be pretrained for nothing: {', '.join(config.encoders)}")
        return possible
    if config.decoder_config is not None and "captioning" not in config.objectives:
        raise ValueError("nothing trains the decoder of this config: add captioning to its objectives, or leave it out")
    if not any(config.objectives.values()):
        raise ValueError(f"no objective has a weight above 0: {dict(config.objectives)}")
    for name in config.objectives:
        OBJECTIVE_CHECKS[name](config)
    return dict(config.objectives)


def is_possible(config: PlaitConfig, name: str) -> bool:
    """Whether the config's parts allow this objective."""
    try:
        OBJECTIVE_CHECKS[name](config)
    except ValueError:
        return False
    return True


def check_two_towers(config: PlaitConfig, name: str) -> None:
    """Raises ValueError unless there are two towers to compare."""
    if len(config.encoders) != 2:
        raise ValueError(f"{name} compares two towers, and this config has {', '.join(config.encoders) or 'none'}")


def check_contrastive(config: PlaitConfig) -> None:
    """Raises ValueError unless there are two towers to compare."""
    check_two_towers(config, "contrastive")
    if config.retrieval_config is not None and config.retrieval_config.document is not None:
        raise ValueError("contrastive pretraining compares two towers: leave retrieval_config.document out")


def check_matching(config: PlaitConfig) -> None:
    """Raises ValueError unless there are two towers, and a fusion that compares them."""
    check_two_towers(config, "matching")
    check_token_interaction(config, "matching")


def check_masked_lm(config: PlaitConfig) -> None:
    """Raises ValueError unless there is a text tower whose tokens are kept, and see the other towers'."""
    check_text_tower(config, "masked_lm")
    check_token_interaction(config, "masked_lm")


def check_masked_image(config: PlaitConfig) -> None:
    """Raises ValueError unless there is an image tower whose tokens are a grid over the picture."""
    if config.vision_config is None:
        raise ValueError("masked_image needs an image tower, and this config has none: compose it with image=...")
    find_patches(config.vision_config)


def check_captioning(config: PlaitConfig) -> None:
    """Raises ValueError unless a decoder reads what there is beside text."""
    check_decoder_config(config, "captioning", reads_context=True)
    check_fused(config, "captioning")
    others = [modality for modality in config.encoders if modality != "text"]
    if not others:
        raise ValueError("captioning writes of another modality than text, and this config has no such tower")
    fusion = config.fusion_config
    if (
        fusion is not None
        and fusion.strategy == "cross_attention"
        and (fusion.query or next(iter(config.encoders))) == "text"
    ):
        raise ValueError(
            "captioning reads the fused tokens of a picture without its text: with query='text' cross_attention leaves "
            "a single one; name another query or fusion"
        )


def check_token_interaction(config: PlaitConfig, name: str) -> None:
    """Raises ValueError for a fusion in which the towers' tokens do not see each other."""
    check_fused(config, name)
    fusion = config.fusion_config
    if fusion is not None and fusion.strategy == "concatenate":
        raise ValueError(f"{name} needs a fusion in which text and picture see each other, and concatenate does not")


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
