"""Builds the processor and the model that a recipe describes."""

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from site import getsitepackages, getusersitepackages
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedConfig

from ...configuration import INLINE, OWN_CONFIGS, SPECIAL_TOKENS, PlaitConfig, PlaitTextConfig
from ...configuration.messages import to_one_line
from ...configuration.modalities import CONFIG_FIELDS, MEDIA, MODALITIES, MODALITY_TABLE
from ...modeling.adaptation.quantization import is_quantized_weight, quantize
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.checkpoints.saved_folder import check_loaded_keys, open_saved_folder
from ...modeling.composition.parameter_names import part_of
from ...modeling.fusion.connectors import CONNECTORS
from ...modeling.fusion.registry import FUSIONS
from ...modeling.tasks.causal_lm import PlaitForCausalLM
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...processing import PlaitProcessor
from ..data.inputs import require_tokenizer
from ..data.labels import REGRESSION, LabelSpec
from ..data.tokenizer import rewrap_tokenizer, train_tokenizer
from ..recipes.errors import RecipeError, check_choice, check_keys
from ..recipes.references import check_reference
from ..recipes.schema import ModelRecipe, Recipe
from ..tasks.base import Task
from .generation_settings import set_generation
from .settling import select_frozen

if TYPE_CHECKING:
    from datasets import Dataset

FRESH_CONFIGS = {
    part: PlaitConfig.sub_configs[field] for part, field in {**CONFIG_FIELDS, "decoder": "decoder_config"}.items()
}
# arguments of PlaitProcessor.compose
PROCESSOR_OPTIONS = ("image_token", "num_image_tokens", "num_frames", "fps", "target_image_size", "target_channels")
IMAGE_TOKEN = "<image>"  # if the recipe names none
TOKENIZER_OPTIONS = ("vocab_size", "lowercase", "min_frequency")


def build_processor(recipe: Recipe, task: Task, data: "Dataset") -> PlaitProcessor:
    """Builds the processor of the recipe's parts; a new tokenizer is trained on the columns of the training split."""
    model = recipe.model
    if model.from_pretrained is not None:
        processor = PlaitProcessor.from_pretrained(resolve_reference(model.from_pretrained))
        task.finish_processor(processor, recipe)
        return processor
    parts = collect_recipe_parts(model, task.model_class)
    if task.generates and "decoder" not in parts:
        raise RecipeError(f"model.decoder is missing: the task {task.name} needs it to generate text")
    sources = {name: build_fresh_config(name, value) or resolve_reference(value) for name, value in parts.items()}
    sources |= build_part_tokenizers(recipe, task, sources, data)
    if sources.get("decoder") is sources.get("text"):
        sources.pop("decoder", None)
    check_keys(recipe.processor, (*sources, *PROCESSOR_OPTIONS), "processor")
    given = {name: value for name, value in recipe.processor.items() if not isinstance(value, dict)}
    given = {name: value if name in PROCESSOR_OPTIONS else resolve_reference(value) for name, value in given.items()}
    if is_inline(recipe, task):
        given.setdefault("image_token", model.image_token or IMAGE_TOKEN)
    processor = PlaitProcessor.compose(**{**sources, **given})
    for name, value in recipe.processor.items():
        if isinstance(value, dict):
            adjust_processor(processor, name, value)
    task.finish_processor(processor, recipe)
    return processor


def is_inline(recipe: Recipe, task: Task) -> bool:
    """Returns whether the recipe composes a decoder with images inside its text."""
    return task.model_class.decoder_kind == INLINE and recipe.model.image is not None


def adjust_processor(processor: PlaitProcessor, name: str, fields: dict[str, Any]) -> None:
    """Changes settings of the part for one modality: `processor: {image: {size: {height: 160, width: 160}}}`."""
    attribute = MODALITY_TABLE[name].processor_part if name in MEDIA else None
    part: Any = None if attribute is None else processor.find_part(attribute)
    if attribute is None or part is None:
        raise RecipeError(f"processor.{name} takes a source; settings are for a tower of the model: {', '.join(MEDIA)}")
    settings = part.to_dict()
    check_keys(fields, list(settings), f"processor.{name}")
    setattr(processor, attribute, type(part).from_dict({**settings, **fields}))


def build_part_tokenizers(recipe: Recipe, task: Task, sources: dict[str, Any], data: "Dataset") -> dict[str, Any]:
    """Returns the source or the tokenizer of each part that reads or generates text. Newly initialized parts share the
    recipe's tokenizer, limited to their positions; a pretrained part keeps its own source."""
    textual = {name: sources[name] for name in ("text", "decoder") if name in sources}
    fresh = [name for name, source in textual.items() if isinstance(source, PlaitTextConfig)]
    chosen = recipe.tokenizer
    if chosen is not None and chosen.train is not None and fresh:
        check_keys(chosen.train, TOKENIZER_OPTIONS, "tokenizer.train")
        texts = chain.from_iterable(task.collect_tokenizer_texts(data, part) for part in fresh)
        limit = min(textual[name].max_position_embeddings for name in fresh)
        trained = train_tokenizer((text for text in texts if text), limit, **chosen.train)
        made = {"text": trained, "decoder": rewrap_tokenizer(trained, task.decoder_template)}
        return textual | {name: made[name] for name in fresh}
    if chosen is not None and chosen.from_pretrained is not None:
        return textual | dict.fromkeys(fresh or textual, resolve_reference(chosen.from_pretrained))
    if fresh:
        raise RecipeError(
            f"a newly initialized {'text tower' if fresh[0] == 'text' else 'decoder'} needs a tokenizer: "
            "set the recipe's top-level key tokenizer to {train: {vocab_size: ...}} or {from_pretrained: ...}"
        )
    return textual


def build_model(
    recipe: Recipe, task: Task, labels: LabelSpec | None, processor: PlaitProcessor, verbose: bool
) -> PlaitPreTrainedModel:
    """Composes the recipe's towers, or loads its pretrained model with a head for these labels."""
    fields = task.build_model_fields(recipe)
    model = build_unchecked_model(recipe.model, task.model_class, fields, labels, processor, verbose)
    if model.config.inline:
        cast("PlaitForCausalLM", model).agree_with(processor)
    model.freeze(*select_frozen(recipe, model))  # a loaded model is not frozen yet
    if task.generates:
        set_generation(model, recipe.generation)
    task.check_model(model, processor)
    quantize_parts(model, recipe.model.quantize)
    return model


def quantize_parts(model: PlaitPreTrainedModel, parts: dict[str, str]) -> None:
    """Quantizes the parts of a model that the recipe names; those of a folder with quantized weights stay as they are.

    Raises RecipeError for parts that cannot be quantized so.
    """
    quantized = {part_of(name) for name, weight in model.named_parameters() if is_quantized_weight(weight)}
    try:
        quantize(model, {part: kind for part, kind in parts.items() if part not in quantized})
    except (ImportError, ValueError) as error:
        raise RecipeError(f"model.{to_one_line(error)}") from error


def build_unchecked_model(
    model: ModelRecipe,
    model_class: type[PlaitPreTrainedModel],
    fields: dict[str, Any],
    labels: LabelSpec | None,
    processor: PlaitProcessor,
    verbose: bool,
) -> PlaitPreTrainedModel:
    """Builds the recipe's model as this class, without the task's checks; `fields` are values of its config that a task
    decides."""
    fields = {**fields, **model.options}
    if model.from_pretrained is not None:
        return load_pretrained(model_class, resolve_reference(model.from_pretrained), labels, fields)
    if not model_class.has_towers:
        return model_class.compose(verbose=verbose, **fields)
    if model.fusion is not None:
        check_choice("model.fusion", model.fusion, (*FUSIONS, INLINE))
    check_choice("model.connector", model.connector, CONNECTORS)
    parts = {
        name: build_fresh_config(name, value, processor) or resolve_reference(value)
        for name, value in collect_recipe_parts(model).items()
    }
    names = {"labels": labels.names or 1, "problem_type": labels.problem_type} if labels is not None else {}
    fusion_fields = ("fusion", "query", "connector", "fusion_config", "decoder_config")
    fusion_arguments = (
        {} if issubclass(model_class, PlaitForRetrieval) else {name: getattr(model, name) for name in fusion_fields}
    )
    if model.fusion == INLINE:  # the class's own
        fusion_arguments["fusion"] = None
    return model_class.compose(**parts, **fusion_arguments, freeze=model.freeze, verbose=verbose, **names, **fields)


def load_pretrained(
    model_class: type[PlaitPreTrainedModel], name: str, labels: LabelSpec | None, options: dict[str, Any]
) -> PlaitPreTrainedModel:
    """Loads a plait model or a pretrained checkpoint, with a newly initialized head if its labels differ from these.

    The weights are float32 unless the options name a dtype: small steps are lost on the bfloat16 weights that many
    checkpoints have.
    """
    fields = {} if labels is None else build_label_config(labels)
    options = {"dtype": "float32", **fields, **options}
    model, info = model_class.from_pretrained(
        name, output_loading_info=True, ignore_mismatched_sizes=bool(fields), **options
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        check_loaded_keys(model, open_saved_folder(name, model.config.architectures, options), info)
    wrong = sorted(key for key, *_ in info["mismatched_keys"] if part_of(key) != "head")
    if wrong:
        raise RecipeError(f"model.from_pretrained: in {name} the weight {wrong[0]} has another size than in its config")
    return model


def build_label_config(labels: LabelSpec) -> dict[str, Any]:
    """Returns the config fields that describe labels."""
    if labels.problem_type == REGRESSION:
        return {"num_labels": 1, "problem_type": REGRESSION}
    ids = {name: number for number, name in enumerate(labels.names)}
    return {"id2label": dict(enumerate(labels.names)), "label2id": ids, "problem_type": labels.problem_type}


def read_label_names(reference: str) -> tuple[str, ...]:
    """Returns the class names that a saved plait model was trained with; none for other checkpoints."""
    config, _ = PlaitConfig.get_config_dict(resolve_reference(reference))
    if config.get("model_type") != PlaitConfig.model_type:
        return ()
    return tuple(name for _, name in sorted((int(number), name) for number, name in config.get("id2label", {}).items()))


def collect_recipe_parts(
    model: ModelRecipe, model_class: type[PlaitPreTrainedModel] = PlaitPreTrainedModel
) -> dict[str, str | dict[str, Any]]:
    """Returns the towers that the recipe names, in the order of the modalities, and its decoder.

    Raises RecipeError for none, or for any if the model's class has none.
    """
    parts = {name: getattr(model, name) for name in (*MODALITIES, "decoder")}
    parts = {name: part for name, part in parts.items() if part is not None}
    if parts and not model_class.has_towers:
        raise RecipeError(f"model.{next(iter(parts))}: a {model_class.__name__} has no towers: leave it out")
    if not parts and model_class.has_towers:
        raise RecipeError(f"model names no tower ({', '.join(MODALITIES)}) and no from_pretrained: give one of them")
    return parts


def build_fresh_config(
    part: str, tower: str | dict[str, Any], processor: PlaitProcessor | None = None
) -> PreTrainedConfig | None:
    """Returns the config of a newly initialized part, with the processor's vocabulary; None for a reference.

    Its `model_type` chooses a kind of part other than plait's usual one, such as plait_cnn.
    """
    if isinstance(tower, str):
        return None
    check_keys(tower, ("config",), f"model.{part}")
    if part not in FRESH_CONFIGS:
        raise RecipeError(
            f"model.{part}: a config can be given for {', '.join(FRESH_CONFIGS)} alone: name a checkpoint"
        )
    fields = {**build_vocabulary_fields(part, processor), **(tower.get("config") or {})}
    model_type = fields.pop("model_type", FRESH_CONFIGS[part].model_type)
    if model_type not in OWN_CONFIGS:
        raise RecipeError(
            f"model.{part}.config.model_type: expected one of {', '.join(OWN_CONFIGS)}, not {model_type!r}"
        )
    return OWN_CONFIGS[model_type](**fields)


def build_vocabulary_fields(part: str, processor: PlaitProcessor | None) -> dict[str, Any]:
    """Returns the vocabulary size and the special tokens of a text tower or decoder; nothing for other parts."""
    if processor is None or part not in ("text", "decoder"):
        return {}
    tokenizer = require_tokenizer(processor) if part == "text" else processor.target_tokenizer
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}}


def resolve_reference(reference: Any) -> Any:
    """Returns the path of `package:NAME/FOLDER`, a folder in an installed package; anything else unchanged.

    Raises RecipeError for a folder that does not exist, and for a Hub id without a connection.
    """
    if not isinstance(reference, str):
        return reference
    if not reference.startswith("package:"):
        return check_reference(reference)
    name, _, folder = reference.removeprefix("package:").partition("/")
    root = find_package_folder(name) if name.isidentifier() else None
    if root is None:
        raise RecipeError(f"{reference}: the package {name} is not installed: pip install {name.replace('_', '-')}")
    path = root / folder
    if not path.resolve().is_relative_to(root.resolve()) or not path.is_dir():
        raise RecipeError(f"{reference}: the package {name} has no folder {folder!r}")
    return str(path)


def find_package_folder(name: str) -> Path | None:
    """Returns the folder of an installed package, without importing it; None if there is none. A folder of this name
    that is merely found, as in the working directory, is no installed package."""
    spec = find_spec(name)
    folder = None if spec is None else next(map(Path, spec.submodule_search_locations or ()), None)
    if folder is None:
        return None
    installed = {Path(place).resolve() for place in (*getsitepackages(), getusersitepackages())}
    return folder if folder.parent.resolve() in installed or name in packages_distributions() else None
