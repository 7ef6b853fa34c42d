"""The options of `plait consolidate`."""

from .options import Commands


def add_consolidate(commands: Commands) -> None:
    """Adds the parser of `plait consolidate`."""
    parser = commands.add_parser(
        "consolidate",
        help="make a plain model folder of a sharded checkpoint",
        description="Read the weights of a checkpoint that processes wrote in shards (--launch fsdp2), and save "
        "the whole model with its processor as a folder that loads anywhere. One process does it.",
    )
    parser.add_argument("checkpoint", help="a checkpoint's folder, or a run folder, whose newest checkpoint is taken")
    parser.add_argument("output", help="the folder to write; it must not exist")
