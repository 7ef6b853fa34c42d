"""From a recipe to a processor and a model."""

from collections.abc import Iterable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..configuration import OWN_CONFIGS, PlaitConfig, PlaitTextConfig, PlaitVisionConfig
from ..configuration.tower import MODALITIES
from ..modeling.classification import PlaitForClassification
from ..modeling.connectors import CONNECTORS
from ..modeling.fusion import FUSIONS
from ..modeling.masked_lm import PlaitForMaskedLM
from ..modeling.pretrained import PlaitPreTrainedModel
from ..processing import PlaitProcessor
from .inputs import tokenizer_in
from .labels import Labels
from .metrics import REGRESSION
from .parameters import part_of
from .recipe import ModelRecipe, Recipe, RecipeError, check_choice, check_keys

MODELS: dict[str, type[PlaitPreTrainedModel]] = {
    "classification": PlaitForClassification,
    "masked_lm": PlaitForMaskedLM,
}
FRESH = {"text": PlaitTextConfig, "image": PlaitVisionConfig}
SPECIAL_TOKENS = {name: f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask")}


def build_processor(recipe: Recipe, texts: Iterable[str | None]) -> PlaitProcessor:
    """The processor of the recipe's towers; `texts` are what a fresh tokenizer is trained on."""
    model = recipe.model
    if model.from_pretrained is not None:
        return PlaitProcessor.from_pretrained(resolve(model.from_pretrained))
    sources = {name: fresh_config(name, value) or resolve(value) for name, value in towers_of(model).items()}
    if "text" in sources:
        sources["text"] = build_tokenizer(recipe, sources["text"], texts)
    check_keys(recipe.processor, tuple(sources), "processor")
    return PlaitProcessor.compose(**{**sources, **{name: resolve(value) for name, value in recipe.processor.items()}})


def build_tokenizer(recipe: Recipe, tower: Any, texts: Iterable[str | None]) -> Any:
    """The recipe's tokenizer, trained or loaded, cut to the tower's positions; without one, the tower's own source."""
    chosen = recipe.tokenizer
    if chosen is not None and chosen.train is not None:
        check_keys(chosen.train, ("vocab_size", "lowercase", "min_frequency"), "tokenizer.train")
        limit = tower.max_position_embeddings if isinstance(tower, PlaitTextConfig) else 512
        return train_tokenizer((text for text in texts if text), limit, **chosen.train)
    if chosen is not None and chosen.from_pretrained is not None:
        return resolve(chosen.from_pretrained)
    if isinstance(tower, PlaitTextConfig):
        raise RecipeError("a fresh text tower needs a tokenizer: {train: {vocab_size: ...}} or {from_pretrained: ...}")
    return tower


def build_model(
    recipe: Recipe, labels: Labels | None, processor: PlaitProcessor, verbose: bool
) -> PlaitPreTrainedModel:
    """Compose the recipe's towers, or load its pretrained plait with a head for these labels."""
    model_class, model = MODELS[recipe.task], recipe.model
    if model.from_pretrained is not None:
        return load_pretrained(model_class, resolve(model.from_pretrained), labels, model.options)
    check_choice("model.fusion", model.fusion, FUSIONS)
    check_choice("model.connector", model.connector, CONNECTORS)
    towers = {name: fresh_config(name, value, processor) or resolve(value) for name, value in towers_of(model).items()}
    names = {"labels": labels.names or 1, "problem_type": labels.problem_type} if labels is not None else {}
    return model_class.compose(
        **towers,
        fusion=model.fusion,
        query=model.query,
        connector=model.connector,
        fusion_config=model.fusion_config,
        freeze=model.freeze,
        verbose=verbose,
        **names,
        **model.options,
    )


def load_pretrained(
    model_class: type[PlaitPreTrainedModel], name: str, labels: Labels | None, options: dict[str, Any]
) -> PlaitPreTrainedModel:
    """A plait (or a published checkpoint), with a fresh head where the labels are others than its own."""
    fields = {} if labels is None else label_fields(labels)
    model, info = model_class.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=bool(fields), **fields, **options
    )
    wrong = sorted(key for key, *_ in info["mismatched_keys"] if part_of(key) != "head")
    if wrong:
        raise RecipeError(f"model.from_pretrained: {name} holds {wrong[0]} in another size than its config says")
    return model


def label_fields(labels: Labels) -> dict[str, Any]:
    """What a config says of labels."""
    if labels.problem_type == REGRESSION:
        return {"num_labels": 1, "problem_type": REGRESSION}
    ids = {name: number for number, name in enumerate(labels.names)}
    return {"id2label": dict(enumerate(labels.names)), "label2id": ids, "problem_type": labels.problem_type}


def label_names_of(reference: str) -> tuple[str, ...]:
    """The class names that a saved plait was trained with; nothing for other checkpoints."""
    config, _ = PlaitConfig.get_config_dict(resolve(reference))
    if config.get("model_type") != PlaitConfig.model_type:
        return ()
    return tuple(name for _, name in sorted((int(number), name) for number, name in config.get("id2label", {}).items()))


def towers_of(model: ModelRecipe) -> dict[str, str | dict[str, Any]]:
    """The towers that the recipe names, in the order of the modalities."""
    towers = {name: getattr(model, name) for name in MODALITIES if getattr(model, name) is not None}
    if not towers:
        raise RecipeError(f"model names no tower ({', '.join(MODALITIES)}) and no from_pretrained")
    return towers


def fresh_config(
    modality: str, tower: str | dict[str, Any], processor: PlaitProcessor | None = None
) -> PreTrainedConfig | None:
    """The config of a tower with fresh weights (its `model_type` names a kind of ours other than the modality's usual
    one, such as plait_cnn); None for a reference. The vocabulary is the processor's."""
    if isinstance(tower, str):
        return None
    check_keys(tower, ("config",), f"model.{modality}")
    if modality not in FRESH:
        raise RecipeError(f"model.{modality}: fresh towers are made for {', '.join(FRESH)}")
    fields = dict(tower.get("config") or {})
    if modality == "text" and processor is not None:
        tokenizer = tokenizer_in(processor)
        fields = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **fields}
    model_type = fields.pop("model_type", FRESH[modality].model_type)
    if model_type not in OWN_CONFIGS:
        raise RecipeError(f"model.{modality}: model_type is one of {', '.join(OWN_CONFIGS)}, not {model_type!r}")
    return OWN_CONFIGS[model_type](**fields)


def resolve(reference: Any) -> Any:
    """`package:NAME/FOLDER` as the path of that folder inside an installed package; anything else as it is."""
    if not isinstance(reference, str) or not reference.startswith("package:"):
        return reference
    name, _, folder = reference.removeprefix("package:").partition("/")
    try:
        import_module(name)
    except ImportError as error:
        raise RecipeError(f"{reference}: no package {name} here; pip install {name.replace('_', '-')}") from error
    path = Path(str(files(name).joinpath(folder)))
    if not path.is_dir():
        raise RecipeError(f"{reference}: the package {name} has no folder {folder!r}")
    return str(path)


def train_tokenizer(
    texts: Iterable[str],
    max_length: int = 512,
    *,
    vocab_size: int = 8000,
    lowercase: bool = True,
    min_frequency: int = 2,
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer for these texts that wraps them as BERT's does: [CLS] text [SEP].

    Bytes leave no character unknown, and unlike WordPiece's, this training gives the same tokens every time.

    Raises:
        RecipeError: a vocabulary that cannot hold the 256 bytes and the special tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = [AddedToken(token, lstrip=token == "[MASK]", special=True) for token in SPECIAL_TOKENS.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(special):
        raise RecipeError(f"tokenizer.train.vocab_size is {vocab_size}: at least {len(alphabet) + len(special)}")
    tokenizer = Tokenizer(models.BPE())
    cases = [normalizers.Lowercase()] if lowercase else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *cases])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    settings = {"vocab_size": vocab_size, "min_frequency": min_frequency, "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(special_tokens=special, show_progress=False, **settings)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (SPECIAL_TOKENS["cls"], SPECIAL_TOKENS["sep"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokens = {f"{name}_token": token for name, token in zip(SPECIAL_TOKENS, special, strict=True)}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, model_input_names=names, **tokens
    )
