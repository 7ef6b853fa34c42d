"""The options of `plait evaluate`."""

from .options import Commands, add_launch_options, add_output_options, add_overwrite


def add_evaluate(commands: Commands) -> None:
    """Adds the parser of `plait evaluate`."""
    parser = commands.add_parser("evaluate", help="measure a model on data", description="Measure a model on data.")
    parser.add_argument("model", help="a run folder, a model folder or a Hub id")
    parser.add_argument(
        "--data", help="a file, a folder, a Hub id or a registered source (default: the data of the run)"
    )
    parser.add_argument("--split", help="the split to measure on (default: test, else validation, else train)")
    parser.add_argument("--output", help="also write the metrics to this JSON file")
    add_overwrite(parser)
    parser.add_argument(
        "--intervals",
        action="store_true",
        help="also print 95 %% bootstrap intervals and differences from the baselines",
    )
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="MODEL",
        help="also evaluate MODEL on the same rows and print paired differences; may be repeated",
    )
    parser.add_argument(
        "--tune-thresholds",
        action="store_true",
        help="choose the thresholds of several labels on --split (default: validation) and save them in the run, "
        "for predict; nothing else is measured",
    )
    add_output_options(parser)
    add_launch_options(parser)
    parser.epilog = (
        "--key value overrides a value of the run's recipe: --data.columns.text question --metrics '[accuracy]'"
    )
