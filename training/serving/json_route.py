"""A route that answers a request with one reply: texts as JSON in, the answer as JSON out, without gradio's queue."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ...configuration.messages import suggest, to_one_line
from ..data.media import READ_ERRORS
from .fields import MESSAGES
from .served_model import ServedModel

ROUTE = "/predict"


class JsonRoute:
    """`POST /predict` for the texts of a model: the body is {"INPUT": "...", ...}, with the arguments of the endpoint
    /predict. A file cannot be named: its path would be one of this machine.

    The reply has status 200 and the answer; 422 and {"error": one line} for an input that cannot be read, 413 for a
    body above the limit of files, 415 for one that is not declared as JSON: a page of another site can send only that.

    Args:
        served: the model.
        answer: computes the JSON of an answer from values by name.
        options: further arguments of `answer`, with their defaults.
    """

    def __init__(self, served: ServedModel, answer: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.answer, self.largest = answer, served.settings.file_bytes
        self.defaults = {field.name: None for field in served.fields} | dict(options)
        self.texts = [field.name for field in served.fields if field.modality in ("text", MESSAGES)]
        self.names = [*self.texts, *options]

    def build(self) -> Any:
        """Builds the route of starlette, which gradio brings along."""
        return import_module("starlette.routing").Route(ROUTE, self.reply, methods=["POST"])

    def describe(self) -> str:
        """Returns an example of a body."""
        known = {MESSAGES: [{"role": "user", "content": "..."}]}
        return json.dumps({name: known.get(name, "...") for name in self.texts})

    async def reply(self, request: Any) -> Any:
        """Returns the reply to a request of starlette."""
        found, status = await self.compute_reply(request)
        return import_module("starlette.responses").JSONResponse(found, status)

    async def compute_reply(self, request: Any) -> tuple[Any, int]:
        """Returns the content and the status of a reply."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return {"error": f"the body is declared as {kind or 'nothing'}: send Content-Type: application/json"}, 415
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.largest:
                return {"error": f"the body has more than {self.largest:,} bytes: send a shorter one"}, 413
        try:
            return await import_module("starlette.concurrency").run_in_threadpool(self.compute, bytes(body)), 200
        except READ_ERRORS as error:
            return {"error": to_one_line(error)}, 422

    def compute(self, body: bytes) -> Any:
        """Returns the answer to a body."""
        return self.answer(**{**self.defaults, **read_values(body, self.names)})


def read_values(body: bytes, names: list[str]) -> dict[str, Any]:
    """Returns the values of a body by name. Raises ValueError for anything but an object with some of these names."""
    try:
        values = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the body is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object with {', '.join(names)}, not {str(values)[:80]}")
    for name in values:
        if name not in names:
            raise ValueError(f"{name!r} is no text of this model{suggest(name, names)} (files go to gradio's endpoint)")
    return values
