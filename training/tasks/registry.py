"""Tasks: what each reads, how its batches are made and measured, and what it answers. One row and one file each."""

from ..recipes.errors import check_choice
from .base import Task
from .causal_lm import CausalLM
from .classification import Classification
from .dialogue import Dialogue
from .generation import Generation
from .masked_lm import MaskedLM
from .pretraining import PreTraining
from .question_answering import QuestionAnswering
from .retrieval import Retrieval

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MaskedLM(),
        Generation(),
        CausalLM(),
        Dialogue(),
        QuestionAnswering(),
        PreTraining(),
        Retrieval(),
    )
}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        RecipeError: there is none, with the nearest name.
    """
    check_choice("task", name, TASKS)
    return TASKS[name]


def find_class_task(class_name: str) -> Task | None:
    """The first task whose model is of this class, None for a class without one."""
    return next((task for task in TASKS.values() if task.model_class.__name__ == class_name), None)


__all__ = ["TASKS", "Task", "find_class_task", "find_task"]
