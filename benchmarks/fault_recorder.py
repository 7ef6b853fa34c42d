"""A plugin of pytest for `planted_faults.py map`: records the lines that each test enters, and its seconds.

It works in the worker processes of pytest-xdist, in the folder of the package; each writes record-WORKER.json into the
folder that PLAIT_RECORDS names.
"""

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

PARTS = ("configuration", "modeling", "processing", "training")
HERE = Path.cwd()
recorder = coverage.Coverage(data_file=None, include=[str(HERE / part / "*") for part in PARTS], config_file=False)
seconds: dict[str, float] = {}
passed: set[str] = set()


def find_worker(session: pytest.Session) -> str | None:
    return getattr(session.config, "workerinput", {}).get("workerid")


def pytest_sessionstart(session: pytest.Session) -> None:
    if find_worker(session):
        recorder.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    recorder.switch_context(item.nodeid)
    start = time.process_time()
    try:
        return (yield)
    finally:
        seconds[item.nodeid] = time.process_time() - start


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        passed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if worker := find_worker(session):
        recorder.stop()
        data = recorder.get_data()
        lines = {str(Path(file).relative_to(HERE)): data.contexts_by_lineno(file) for file in data.measured_files()}
        record = {"lines": lines, "seconds": seconds, "passed": sorted(passed)}
        (Path(os.environ["PLAIT_RECORDS"]) / f"record-{worker}.json").write_text(json.dumps(record))
