"""The commands of `plait` by name."""

from .check import run_check
from .compare import run_compare
from .evaluate import run_evaluate
from .explain import run_explain
from .predict import run_predict
from .train import run_train

COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "predict": run_predict,
    "explain": run_explain,
    "compare": run_compare,
    "check": run_check,
}
