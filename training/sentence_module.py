"""Wraps a `PlaitForRetrieval` as a module of sentence-transformers (https://sbert.net), for its encoding, training,
evaluation and losses. Only this file of plait imports that library (6.0 or newer)."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from sentence_transformers.base.modality import infer_batch_modality
from sentence_transformers.sentence_transformer.modules import InputModule
from torch import Tensor
from torch.nn import functional as F

from ..configuration import DOCUMENT
from ..configuration.modalities import MODALITY_TABLE
from ..modeling.heads.projection import compute_side_width
from ..modeling.tasks.retrieval import PlaitForRetrieval
from ..modeling.tasks.retrieval_encoding import build_text_options
from ..processing import PlaitProcessor
from ..processing.text import UNLIMITED_LENGTH

SIDE_KEY = "side"  # key of the features that names the side they belong to


class PlaitSentenceModule(InputModule):
    """The first (and usually only) module of a `SentenceTransformer`: turns rows of one modality at a time (texts,
    images, audio, videos) into the model's vectors.

        embedder = SentenceTransformer(modules=[PlaitSentenceModule(model, processor)])
        embedder.encode(["a dog on a beach"]) @ embedder.encode([image]).T

    `embedder.save(FOLDER)` writes a folder that `SentenceTransformer(FOLDER, trust_remote_code=True)` reads (the flag
    lets it import this class), and `PlaitForRetrieval` and `PlaitProcessor` as well. `encode_document` uses the
    documents' tower where the model has that side.

    Args:
        model, processor: a model and its processor.
        normalize: scale vectors to unit length, as `model.encode` does; False: leave them as projected.
    """

    config_file_name = "sentence_module_config.json"
    config_keys = ["normalize"]

    def __init__(self, model: PlaitForRetrieval, processor: PlaitProcessor, normalize: bool = True) -> None:
        super().__init__()
        self.model, self.processor, self.normalize = model, processor, normalize

    @property
    def modalities(self) -> list[Any]:
        """The modalities that the model encodes."""
        return list(dict.fromkeys(self.model.config.sides.values()))

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer; None if it has none."""
        return self.processor.find_part("tokenizer")

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.processor.tokenizer = tokenizer

    @property
    def max_seq_length(self) -> int | None:
        """The largest number of tokens of a text; None without a limit."""
        limit = UNLIMITED_LENGTH if self.tokenizer is None else self.tokenizer.model_max_length
        return limit if limit < UNLIMITED_LENGTH else None

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        self.tokenizer.model_max_length = length

    def get_embedding_dimension(self) -> int:
        """Returns the width of a vector."""
        config: Any = self.model.config
        return config.retrieval_config.projection_dim or compute_side_width(config, next(iter(config.sides)))

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        max_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Turns rows of one modality into the model's inputs.

        Args:
            inputs: texts, images, audio clips or videos, as the processor takes them, bare or as `{"image": image}`.
            prompt: text to put before every text.
            task: "document" for the documents' side, if the model has one of this modality.
            max_length: the largest number of tokens of a text.
            kwargs: further options of sentence-transformers; none is supported.

        Raises:
            TypeError: an option that is not supported.
            ValueError: rows of several modalities, or of one that the model does not encode.
        """
        if kwargs:
            raise TypeError(
                f"no option {', '.join(sorted(kwargs))}: set options of the processor on the processor itself"
            )
        modality: Any = infer_batch_modality(inputs, supported_modalities=self.modalities)
        if modality not in self.modalities:
            raise ValueError(
                f"this model encodes one of {', '.join(self.modalities)} at a time, not {modality}: split the rows"
            )
        rows = [unwrap_row(row, modality) for row in inputs]
        side = self.find_side(modality, task)
        options: dict[str, Any] = build_text_options(self.model, side)
        if modality == "text":
            options |= {} if prompt is None else {"prompt": prompt}
            options |= {} if max_length is None else {"max_length": max_length, "truncation": True}
        values = self.processor(**{MODALITY_TABLE[modality].processor_argument: rows}, return_tensors="pt", **options)
        return {**values, SIDE_KEY: side}

    def find_side(self, modality: str, task: str | None) -> str:
        """Returns the side (a modality, or "document") that rows of a modality belong to."""
        sides = self.model.config.sides
        if task == DOCUMENT and sides.get(DOCUMENT) == modality or modality not in sides:
            return DOCUMENT
        return modality

    def forward(self, features: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds the model's outputs to the features of `preprocess`: `sentence_embedding` (batch, width),
        `token_embeddings` (batch, length, tower's width) and their `attention_mask` (batch, length)."""
        inputs = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        output: Any = self.model.get_features(features[SIDE_KEY], inputs)
        vectors = output.pooler_output
        if self.normalize:
            vectors = F.normalize(vectors, dim=-1)
        tokens = {"token_embeddings": output.last_hidden_state, "attention_mask": output.mask.long()}
        return {**features, **tokens, "sentence_embedding": vectors}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Saves the model, the processor and this module's settings in one folder.

        Raises ValueError for `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("plait writes safetensors alone: leave safe_serialization=False out")
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> Self:
        """Loads a folder written by `save`, or any checkpoint that `PlaitForRetrieval` loads (CLIP, SigLIP, ...).

        `model_kwargs` and `processor_kwargs` go to the `from_pretrained` of each.

        Raises ValueError for a backend other than torch.
        """
        if backend != "torch":
            raise ValueError(f"the backend {backend!r} is not supported: use backend='torch'")
        place: dict[str, Any] = {"subfolder": subfolder, "token": token, "revision": revision}
        place["local_files_only"] = local_files_only
        settings = cls.load_config(model_name_or_path, cache_folder=cache_folder, **place)
        place |= {"cache_dir": cache_folder}
        given = {name: value for name, value in place.items() if value not in (None, "")}
        model = PlaitForRetrieval.from_pretrained(model_name_or_path, **given, **(model_kwargs or {}))
        processor = PlaitProcessor.from_pretrained(model_name_or_path, **given, **(processor_kwargs or {}))
        return cls(model, processor, **{**(init_defaults or {}), **settings})


def unwrap_row(row: Any, modality: str) -> Any:
    """Returns the value of a row given as `{modality: value}`; any other row unchanged."""
    return row[modality] if isinstance(row, Mapping) and set(row) == {modality} else row
