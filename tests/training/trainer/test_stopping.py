"""A signal stops a run wherever it strikes, also where Python ignores what is raised."""

import os
import signal
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from plait.training.recipes.errors import RunInterrupted
from plait.training.trainer.stopping import SIGNALS, StopSignals


class Item:
    """Something that can be referred to weakly."""


class Closing:
    """Sends a signal while it is deleted."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


def strike_in_a_callback(number: int) -> None:
    item = Item()
    reference = weakref.ref(item, lambda _: os.kill(os.getpid(), number))
    del item
    assert reference() is None


def strike_while_deleting(number: int) -> None:
    closing = Closing(number)
    del closing


def strike_and_wait(strike: Callable[[int], None], number: int) -> None:
    strike(number)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(0.001)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("strike", [strike_in_a_callback, strike_while_deleting])
def test_a_signal_where_errors_are_ignored_still_stops(
    strike: Callable[[int], None], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.unraisablehook, [signal.getsignal(each) for each in SIGNALS]
    started = time.monotonic()
    with pytest.raises(RunInterrupted) as caught, StopSignals():
        strike_and_wait(strike, number)
    assert caught.value.number == number and time.monotonic() - started < 5
    assert "Traceback" not in capsys.readouterr().err
    assert (sys.unraisablehook, [signal.getsignal(each) for each in SIGNALS]) == before


def test_a_deferred_signal_waits_for_the_end_of_the_context() -> None:
    signals, done = StopSignals(), []

    def train() -> None:
        with signals.defer():
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            done.append("the step")
        done.append("what follows")

    with signals, pytest.raises(RunInterrupted):
        train()
    assert done == ["the step"]


def test_other_ignored_errors_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: seen.append(ignored.exc_value))
    with StopSignals():
        item = Item()
        reference = weakref.ref(item, lambda _: 1 / 0)
        del item
    assert reference() is None and [type(each) for each in seen] == [ZeroDivisionError]
