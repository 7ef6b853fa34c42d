"""Joins requests that come at the same time into one forward of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Any

from ..data.media import READ_ERRORS, Row

Options = tuple[tuple[str, Any], ...]  # settings of a request, sorted by name: requests with equal ones share a batch
AnswerRows = Callable[[Sequence[Row], dict[str, Any]], list[Any]]


@dataclass(eq=False)
class Request:
    """A row that waits for its answer. options: its settings; outcome: the answer or the error, once there is one."""

    row: Row
    options: Options
    outcome: list[Any] = field(default_factory=list)


class RequestBatcher:
    """Answers rows of several threads in batches.

    While one batch is computed the rows of other threads gather, and whoever comes next computes all of them (those
    with the same options, at most `size`) at once. A row that cannot be read fails alone: the others of its batch are
    answered without it.

    Args:
        answer: computes one answer for each row, with the options.
        size: rows of a batch at most.

    Attributes:
        working: is held while the model computes; hold it for any other use of the model.
    """

    def __init__(self, answer: AnswerRows, size: int) -> None:
        self.answer, self.size = answer, size
        self.waiting: list[Request] = []
        self.queue, self.working = Lock(), RLock()

    def submit(self, row: Row, options: Options = ()) -> Any:
        """Returns the answer of a row, once its batch is computed; raises the row's error."""
        request = Request(row, options)
        with self.queue:
            self.waiting.append(request)
        while not request.outcome:
            with self.working:
                if not request.outcome:
                    self.answer_batch(self.take())
        (found,) = request.outcome
        if isinstance(found, Exception):
            raise found
        return found

    def take(self) -> list[Request]:
        """Takes the oldest waiting request and those after it that can be answered with it."""
        with self.queue:
            options = self.waiting[0].options
            batch = [request for request in self.waiting if request.options == options][: self.size]
            self.waiting = [request for request in self.waiting if request not in batch]
        return batch

    def answer_batch(self, batch: Sequence[Request]) -> None:
        """Gives each request its answer, or its error if it fails alone too."""
        try:
            found = self.answer([request.row for request in batch], dict(batch[0].options))
            for request, answer in zip(batch, found, strict=True):
                request.outcome.append(answer)
        except READ_ERRORS as error:
            if len(batch) == 1:
                batch[0].outcome.append(error)
                return
            for request in batch:
                self.answer_batch([request])
        except Exception as error:  # nobody else would wake the waiting threads
            for request in batch:
                request.outcome.append(error)
