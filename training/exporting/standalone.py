"""The functions of `predict.py`, which `script.py` copies from here: they need numpy alone (and pillow or soundfile,
where one reads a file), and nothing of plait. `settings` are the constants at the top of the script.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, Any]


def run_graph(session: Any, feeds: Mapping[str, Any]) -> Feeds:
    """Returns the outputs of a graph by name, for those of the feeds that it reads."""
    given = {value.name: feeds[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def read_texts(tokenizer: Any, texts: Sequence[Any], pairs: Sequence[str] | None, settings: Mapping[str, Any]) -> Feeds:
    """Returns the ids and masks, (rows, length), of texts; a row without a text has a mask of zeros."""
    token, count = settings["image_token"], settings["num_image_tokens"]
    written = [settings["prompt"] + (text or "") for text in texts]
    if token is not None:  # each stands for all tokens of one image
        written = [text.replace(token, token * count) for text in written]
    given = (written,) if pairs is None else (written, list(pairs))
    found = dict(tokenizer(*given, padding=settings["padding"], truncation=True, return_tensors="np"))
    found = {name: np.asarray(value, dtype=np.int64) for name, value in found.items()}
    found = {"attention_mask": np.ones_like(ids := found["input_ids"]), "token_type_ids": np.zeros_like(ids), **found}
    found["attention_mask"] *= np.array([[text is not None] for text in texts])
    if not found["input_ids"].shape[1]:  # no text at all: a graph takes no axis of 0
        return {name: np.zeros((len(texts), 1), dtype=np.int64) for name in found}
    return found


def read_image_files(image_processor: Any, rows: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> Feeds:
    """Returns the pixels, (rows, images, channels, height, width), of each row's image files, and which are present."""
    from PIL import Image, ImageOps

    present = [[number < len(row) for number in range(max(1, *map(len, rows)))] for row in rows]
    pixels = np.zeros((len(rows), len(present[0]), *settings["image_shape"]), dtype=np.float32)
    for row, files in enumerate(rows):
        for number, file in enumerate(files):
            image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
            pixels[row, number] = image_processor([image], return_tensors="np")["pixel_values"][0]
    return {"pixel_values": pixels, "image_present": np.array(present)}


def read_audio_files(extractor: Any, rows: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> Feeds:
    """Returns the features, (rows, 1, ...), of every row's one audio file, and which are present."""
    import soundfile

    clips, rate = [], extractor.sampling_rate
    for row in rows:
        samples, found = soundfile.read(row[0], dtype="float32") if row else (np.zeros(rate, dtype=np.float32), rate)
        if found != rate:
            raise ValueError(f"{row[0]} has {found} samples per second, not {rate}: convert it first")
        clips.append(samples if samples.ndim == 1 else samples.mean(axis=1))
    features = extractor(clips, sampling_rate=rate, return_tensors="np", **settings["audio_options"])
    name = settings["audio_input"]
    return {name: np.asarray(features[name], np.float32)[:, None], "audio_present": np.array([[bool(r)] for r in rows])}


def read_rows(parts: Mapping[str, Any], options: Any, settings: Mapping[str, Any]) -> Feeds:
    """Returns the feeds of the rows that the command line names: one for each --text, --image or --audio."""
    given = {name: getattr(options, name) for name in parts}
    count = max(len(values) for values in given.values())
    wrong = [name for name, values in given.items() if values and len(values) != count]
    if not count or wrong:
        raise SystemExit(f"give {' or '.join(f'--{name}' for name in parts)}, each once for every row, or not at all")
    feeds: Feeds = {}
    for name, values in given.items():
        rows = values or [None] * count
        if name == "text":
            feeds.update(read_texts(parts[name], rows, getattr(options, "context", None) or None, settings))
        else:
            files = [[] if value is None else value.split(",") for value in rows]
            feeds.update((read_image_files if name == "image" else read_audio_files)(parts[name], files, settings))
    return feeds


def softmax(x: Any) -> Any:
    """Returns exp(x) / sum(exp(x)) over the last axis."""
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def start_cache(batch: int, settings: Mapping[str, Any]) -> Feeds:
    """Returns the empty cache of a decoder: (rows, heads, 0, head size) each."""
    return {
        name: np.zeros((batch, heads, 0, size), dtype=np.float32) for name, (heads, size) in settings["cache"].items()
    }


def generate_tokens(decoder: Any, ids: Any, mask: Any, fixed: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Returns the tokens, (rows, new tokens), that greedy decoding puts behind prompts: at most
    `settings["max_new_tokens"]`, with padding behind an end token.

    ids, mask: (rows, length), padded on the left; fixed: feeds that are the same at every step.
    """
    cache, new, found, done = start_cache(len(ids), settings), ids, [], np.zeros(len(ids), dtype=bool)
    for number in range(settings["max_new_tokens"]):
        feeds = {**fixed, **cache, "input_ids": new, settings["mask"]: mask}
        outputs = run_graph(decoder, feeds)
        scores = outputs["logits"][:, -1].copy()
        scores[:, settings["suppressed"] + (settings["suppressed_first"] if number == 0 else [])] = -np.inf
        token = np.where(done, settings["pad"], scores.argmax(axis=-1))
        found.append(token)
        done = done | np.isin(token, settings["ends"])
        if done.all():
            break
        cache = {name: outputs[name.replace("past_key_values", "present")] for name in cache}
        new, mask = token[:, None], np.concatenate((mask, np.ones_like(mask[:, :1])), axis=1)
    return np.stack(found, axis=1)


def generate_from_context(encoder: Any, decoder: Any, feeds: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Returns the tokens, (rows, new tokens), that a decoder generates from what the encoder reads."""
    context = run_graph(encoder, feeds)
    fixed = {name.replace("present", "past_key_values"): value for name, value in context.items()}
    ids = np.repeat(np.array([settings["start"]], dtype=np.int64), len(context["encoder_mask"]), axis=0)
    return generate_tokens(decoder, ids, np.ones_like(ids), fixed, settings)


def generate_with_images(vision: Any, decoder: Any, feeds: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Returns the tokens, (rows, new tokens), behind prompts whose image tokens stand for images."""
    features = run_graph(vision, feeds)
    return generate_tokens(decoder, feeds["input_ids"], feeds["attention_mask"], features, settings)


def find_span(start: Any, end: Any, offsets: Any, context: str, readable: Any) -> str:
    """Returns the part of a text from the likeliest start to the likeliest end behind it; start, end: (length,)."""
    scores = np.where(readable[:, None] & readable[None], start[:, None] + end[None], -np.inf)
    scores[np.tril_indices(len(start), -1)] = -np.inf
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    return context[offsets[first][0] : offsets[last][1]]


def print_classes(session: Any, parts: Mapping[str, Any], options: Any, settings: Mapping[str, Any]) -> None:
    """Prints each row's likeliest class with its probability; of several labels all above 0.5; or a number."""
    for logits in run_graph(session, read_rows(parts, options, settings))["logits"]:
        if settings["problem"] == "regression":
            print(" ".join(f"{number:.6g}" for number in logits))
            continue
        several = settings["problem"] == "multi_label_classification"
        scores = 1 / (1 + np.exp(-logits)) if several else softmax(logits)
        chosen = np.nonzero(scores > 0.5)[0] if several else [scores.argmax()]
        print(", ".join(f"{settings['labels'][number]} {scores[number]:.4f}" for number in chosen))


def print_features(session: Any, parts: Mapping[str, Any], options: Any, settings: Mapping[str, Any]) -> None:
    """Prints each row's vector: the pooled one, or the mean over its tokens."""
    found = run_graph(session, read_rows(parts, options, settings))
    mask = found["mask"][..., None]
    mean = (found["last_hidden_state"] * mask).sum(axis=1) / mask.sum(axis=1)
    for row in found.get("pooler_output", mean):
        print(" ".join(f"{number:.6g}" for number in row))


def print_similarities(sessions: Mapping[str, Any], parts: Mapping[str, Any], options: Any, settings: Any) -> None:
    """Prints the cosines of the vectors of the first two sides that are given, or of the only one with itself."""
    vectors = []
    for side, session in sessions.items():
        part = {settings["sides"][side]: parts[settings["sides"][side]]}
        if getattr(options, side):
            chosen = type(options)(**{settings["sides"][side]: getattr(options, side)})
            vectors.append(run_graph(session, read_rows(part, chosen, settings))[f"{side}_embeds"])
    if not vectors:
        raise SystemExit(f"give --{' or --'.join(sessions)}")
    for row in vectors[0] @ vectors[min(1, len(vectors) - 1)].T:
        print(" ".join(f"{number:.4f}" for number in row))


def print_masks(session: Any, parts: Mapping[str, Any], options: Any, settings: Mapping[str, Any]) -> None:
    """Prints each text with its mask tokens replaced by the likeliest ones."""
    feeds = read_rows(parts, options, settings)
    logits = run_graph(session, feeds)["logits"][:, : feeds["input_ids"].shape[1]]
    filled = np.where(feeds["input_ids"] == settings["mask_token"], logits.argmax(axis=-1), feeds["input_ids"])
    print("\n".join(parts["text"].batch_decode(filled, skip_special_tokens=True)))


def print_answers(session: Any, parts: Mapping[str, Any], options: Any, settings: Mapping[str, Any]) -> None:
    """Prints the answer to each question, --text, in its --context; --image as for every model."""
    feeds = read_rows(parts, options, settings)
    found = run_graph(session, feeds)
    for row, (question, context) in enumerate(zip(options.text, options.context, strict=True)):
        encoded = parts["text"](question, context, truncation=True, return_offsets_mapping=True)
        readable = np.array([number == 1 for number in encoded.sequence_ids(0)])
        real = feeds["attention_mask"][row] == 1
        start, end = (found[name][row][: len(real)][real] for name in ("start_logits", "end_logits"))
        print(find_span(start, end, encoded["offset_mapping"], context, readable))


def print_texts(tokens: Any, decoder_tokenizer: Any) -> None:
    """Prints the text of each row of generated tokens."""
    print("\n".join(decoder_tokenizer.batch_decode(tokens, skip_special_tokens=True)))


def open_graph(name: str) -> Any:
    """Opens a graph that lies beside the script, in ONNX Runtime."""
    import onnxruntime

    slow = ["SkipLayerNormFusion"]  # on a CPU the fused operation takes longer than its parts (ONNX Runtime 1.32)
    return onnxruntime.InferenceSession(str(Path(__file__).with_name(f"{name}.onnx")), disabled_optimizers=slow)
