"""The page of retrieval: a search over pictures or texts, the comparison of a pair, and its explanation."""

from typing import Any

from .answer_panel import AnswerPanel
from .components import BUTTONS, add_endpoint, build_field, show_errors, take_uploads
from .limits import check_file_field, check_text_field
from .search_index import SearchHit, SearchIndex
from .served_model import ServedModel
from .style import Bar, render_bars

USUAL_HITS, MOST_HITS = 8, 100


class SearchPanel:
    """Searches pictures or texts for a text or a picture.

    Args:
        gradio: the module.
        served: a retrieval model.
    """

    def __init__(self, gradio: Any, served: ServedModel) -> None:
        self.gradio, self.served = gradio, served
        self.index = SearchIndex(served)
        if served.settings.index is not None:
            self.index.open(served.settings.index, served.settings.index_folder)
        self.pair = AnswerPanel(gradio, served)

    def build(self) -> None:
        """Builds two tabs: the search, and a pair with its explanation."""
        with self.gradio.Tabs():
            with self.gradio.Tab("Search"):
                self.build_search()
            with self.gradio.Tab("Compare a pair"):
                self.pair.build()

    def build_search(self) -> None:
        """Builds the query, what is searched, and the hits."""
        gradio, settings = self.gradio, self.served.settings
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5):
                inputs = {field.name: build_field(gradio, field) for field in self.index.query_fields}
                button = gradio.Button("Search", variant="primary")
                inputs |= self.build_candidates()
                inputs["top_k"] = gradio.Slider(1, MOST_HITS, USUAL_HITS, step=1, label="hits")
            with gradio.Column(scale=6):
                gallery = gradio.Gallery(
                    label="pictures", columns=4, object_fit="cover", height=430, format="jpeg", buttons=BUTTONS
                )
                texts = gradio.HTML()
        call = {"api_visibility": "private", "concurrency_limit": settings.batch_size}
        show = show_errors(gradio, self.show, list(inputs))
        button.click(show, inputs_kwargs=inputs, outputs=[gallery, texts], **call)
        for box in inputs.values():
            if isinstance(box, gradio.Textbox) and box.lines == 1:
                box.submit(show, inputs_kwargs=inputs, outputs=[gallery, texts], **call)
        if settings.api:
            about = "Searches the index and the given files and lines; returns the hits, the best first."
            add_endpoint(gradio, "search", self.search, inputs, about, settings.batch_size)

    def build_candidates(self) -> dict[str, Any]:
        """Builds what is searched: pictures to upload, and lines of text; says what the index holds."""
        gradio, found, size = self.gradio, {}, self.index.size
        if size:
            gradio.Markdown(f"Searches {self.index.describe()}.")
        with gradio.Accordion("More to search, this time alone" if size else "What to search", open=not size):
            if self.index.reads_pictures:
                files = gradio.File(label="pictures", file_count="multiple", file_types=["image"], height=140)
                found["pictures"] = take_uploads_of(gradio, files)
            if self.index.reads_texts:
                found["texts"] = gradio.Textbox(label="texts, one a line", lines=4, max_lines=12)
        return found

    def find(self, values: dict[str, Any]) -> list[SearchHit]:
        """Returns the hits of the filled-in fields, the best first."""
        pictures, texts = values.pop("pictures", None) or [], values.pop("texts", None) or ""
        count = int(values.pop("top_k", None) or USUAL_HITS)
        settings = self.served.settings
        for path in pictures:
            check_file_field("pictures", path, settings)
        check_text_field("texts", texts, settings)
        lines = [line.strip() for line in texts.splitlines() if line.strip()]
        if len(pictures) + len(lines) > settings.max_candidates:
            raise ValueError(
                f"{len(pictures) + len(lines)} pictures and texts are more than {settings.max_candidates}: give fewer"
            )
        return self.index.search(values, pictures, lines, min(max(count, 1), MOST_HITS))

    def search(self, **values: Any) -> dict[str, Any]:
        """Returns the hits of the fields as JSON."""
        return {"hits": [{hit.side: hit.name, "score": round(hit.score, 6)} for hit in self.find(values)]}

    def show(self, **values: Any) -> tuple[list[Any], str]:
        """Returns the pictures that were found, with their scores, and the texts as bars."""
        hits = self.find(values)
        pictures = [(hit.draw(), f"{hit.score:.3f}  {hit.name}") for hit in hits if hit.draw is not None]
        texts = [Bar(hit.name, hit.score, f"{hit.score:.3f}") for hit in hits if hit.draw is None]
        return pictures, render_bars(texts) if texts else ""


def take_uploads_of(gradio: Any, files: Any) -> Any:
    """Makes a component of several files hand on their paths; see `take_uploads`."""
    made = take_uploads(gradio, files)
    read = made.preprocess

    def read_paths(payload: Any) -> list[str]:
        listed = [] if payload is None else getattr(payload, "root", payload)
        return [read(one) for one in (listed if isinstance(listed, list) else [listed])]

    made.preprocess = read_paths
    return made
