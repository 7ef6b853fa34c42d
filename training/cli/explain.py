"""The options of `plait explain`."""

from .options import Commands


def add_explain(commands: Commands) -> None:
    """Adds the parser of `plait explain`."""
    parser = commands.add_parser(
        "explain",
        help="explain the answers of a model",
        description="Explain a model's answers for the rows of a data set: which words, pixels, moments and frames add "
        "to their scores, and write a page to look at. Orange adds to a score, purple takes from it.",
    )
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--data", help="a file, a folder, a Hub id or a registered source (default: the data of the run)"
    )
    parser.add_argument("--output", required=True, help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--rows", type=int, default=20, help="explain at most this many rows (default: 20)")
    parser.add_argument("--target", help="what to explain, such as a class (default: what the model predicts)")
    parser.add_argument("--method", help="see plait.explain (default: its default; with --check the best believed)")
    parser.add_argument(
        "--check", action="store_true", help="also check which methods can be believed for this model and these rows"
    )
    parser.add_argument("--modalities", action="store_true", help="also compute what each modality adds")
    parser.add_argument(
        "--absence",
        choices=("shuffled", "blank", "absent"),
        default="shuffled",
        help="what stands for an absent modality: its value in other rows (default), an input without content, or none",
    )
    parser.epilog = "--key value overrides a value of the run's recipe: --data.columns.text question"
