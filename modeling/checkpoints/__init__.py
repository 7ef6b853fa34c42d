"""Published checkpoints in and out: the components of a file, with the heads that came with them, and exactly back.

A component is a tower or a decoder. Most files hold one; an encoder-decoder holds both.
May import: modeling/heads and below; in this folder conversion, then families, then the files beside them.
"""

from .export import export
from .lookup import config_of, family_of
from .reading import read_strands, read_tower
from .writing import write_strands, write_tower

__all__ = ["config_of", "export", "family_of", "read_strands", "read_tower", "write_strands", "write_tower"]
