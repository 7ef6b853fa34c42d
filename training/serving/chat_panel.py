"""The page of a dialogue: a conversation, in which the model has the role of the assistant."""

from collections.abc import Sequence
from typing import Any

from .components import (
    add_endpoint,
    build_field,
    build_generation_options,
    read_generation_options,
    show_errors,
)
from .fields import MESSAGES
from .served_model import ServedModel


class ChatPanel:
    """A conversation with the model.

    Args:
        gradio: the module.
        served: the model.
    """

    def __init__(self, gradio: Any, served: ServedModel) -> None:
        self.gradio, self.served = gradio, served
        self.options: dict[str, Any] = {}

    def build(self) -> None:
        """Builds the conversation, its image if the model sees, the box to write in, and the settings of replies."""
        gradio, settings = self.gradio, self.served.settings
        others = [field for field in self.served.fields if field.modality != MESSAGES]
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=7):
                chat = gradio.Chatbot(
                    label="conversation", height=420, buttons=["copy_all"], placeholder="Write a message below."
                )
            media: dict[str, Any] = {}
            if others:
                with gradio.Column(scale=3):
                    media = {field.name: build_field(gradio, field) for field in others}
        with gradio.Row():
            box = gradio.Textbox(show_label=False, placeholder="your message", lines=1, scale=8, container=False)
            send = gradio.Button("Send", variant="primary", scale=1, min_width=90)
            clear = gradio.Button("New", scale=1, min_width=90)
        options = self.options = build_generation_options(gradio, self.served)
        call = {"api_visibility": "private", "concurrency_limit": settings.batch_size}
        given = {"chat": chat, "message": box, **media, **options}
        reply = show_errors(gradio, self.reply, list(given))
        for event in (send.click, box.submit):
            event(reply, inputs_kwargs=given, outputs=[chat, box], **call)
        clear.click(lambda: ([], ""), outputs=[chat, box], api_visibility="private")
        if settings.api:
            messages = gradio.JSON(visible=False, label=MESSAGES)
            about = 'Answers a conversation, [{"role": "user", "content": "..."}, ...].'
            add_endpoint(
                gradio, "predict", self.answer, {MESSAGES: messages, **media, **options}, about, settings.batch_size
            )

    def answer(self, **values: Any) -> dict[str, Any]:
        """Returns the reply to a conversation as JSON."""
        row = self.served.build_row(values)
        return self.served.predict(row, **read_generation_options(self.served, values))

    def reply(self, chat: Any = None, message: str | None = None, **values: Any) -> tuple[list[dict[str, str]], str]:
        """Returns the conversation with the message and its reply, and an empty box."""
        if not (message or "").strip():
            raise ValueError("the message is empty: write one")
        messages = [*read_messages(chat or []), {"role": "user", "content": message}]
        found = self.answer(**{**values, MESSAGES: messages})
        return [*messages, {"role": "assistant", "content": found["generated_text"]}], ""


def read_messages(chat: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns a conversation of the page as messages with texts alone."""
    return [{"role": message["role"], "content": read_content_text(message["content"])} for message in chat]


def read_content_text(content: Any) -> str:
    """Returns the text of a message, which gradio gives as a text or as a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
