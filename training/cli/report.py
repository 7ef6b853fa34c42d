"""The options of `plait report`."""

from .options import Commands, add_output_options, add_overwrite


def add_report(commands: Commands) -> None:
    """Adds the parser of `plait report`."""
    parser = commands.add_parser(
        "report",
        help="write the report of a run again, or compare two runs",
        description="Write report.html of a finished run again; or compare two runs on the same test rows, with paired "
        "95 %% intervals, as a table and a page.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="one run folder, or two that are compared")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="RUN",
        help="compare all RUN (trainings of one model with other seeds) with all of these, over rows and seeds; may be "
        "repeated",
    )
    parser.add_argument("--output", help="of a comparison: the page to write (default: FIRST-SECOND.html)")
    add_overwrite(parser)
    add_output_options(parser)
    parser.epilog = "plait report runs/a; plait report runs/a runs/b; plait report a1 a2 --beside b1 --beside b2"
