"""What holds for all tests."""

import os

os.environ.setdefault("PLAIT_REPORT", "0")  # hundreds of tiny runs need no figures: those of reports switch them on
