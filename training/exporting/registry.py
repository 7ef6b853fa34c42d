"""Which graphs a model of each class has."""

from collections.abc import Callable
from typing import Any

from ..recipes.errors import RecipeError
from .decoders import build_causal_graphs, build_seq2seq_graphs
from .encoders import (
    build_classification_graphs,
    build_feature_graphs,
    build_masked_lm_graphs,
    build_question_graphs,
    build_retrieval_graphs,
)
from .graphs import Graph
from .images import build_autoencoding_graphs, build_image_generation_graphs

BUILDERS: dict[str, Callable[[Any], list[Graph]]] = {
    "PlaitModel": build_feature_graphs,
    "PlaitForCausalLM": build_causal_graphs,
    "PlaitForClassification": build_classification_graphs,
    "PlaitForConditionalGeneration": build_seq2seq_graphs,
    "PlaitForImageAutoencoding": build_autoencoding_graphs,
    "PlaitForImageGeneration": build_image_generation_graphs,
    "PlaitForMaskedLM": build_masked_lm_graphs,
    "PlaitForQuestionAnswering": build_question_graphs,
    "PlaitForRetrieval": build_retrieval_graphs,
}
REFUSED = {
    "PlaitForPreTraining": "it computes training objectives and answers nothing: load its folder as the class of a "
    "task (PlaitForClassification.from_pretrained(FOLDER), fine-tune it), or as PlaitModel, and export that",
}


def build_graphs(model: Any) -> list[Graph]:
    """Builds the graphs of a model, of a public class or one derived from it.

    Raises RecipeError for a class that cannot be exported, with the reason.
    """
    names = [kind.__name__ for kind in type(model).__mro__]
    for name in names:
        if name in REFUSED:
            raise RecipeError(f"{name} cannot be exported: {REFUSED[name]}")
        if name in BUILDERS:
            return BUILDERS[name](model)
    raise RecipeError(f"{names[0]} cannot be exported: it is none of {', '.join(BUILDERS)}")
