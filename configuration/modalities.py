"""The table of modalities, one row each: config field, inputs, processor and columns."""

from typing import NamedTuple


class ItemInput(NamedTuple):
    """An argument of a model's `forward` that holds the items of every row: (batch[, items], ...).

    dimensions: their number in one item, unless the tower's config says otherwise; shape: the shape as errors show it;
    tower_mask: the tower's name for the mask that `forward` takes as `{name}_mask`, None for items without a mask.
    """

    name: str
    dimensions: int
    shape: str
    tower_mask: str | None = None


class Modality(NamedTuple):
    """A row of the table of modalities.

    config_field: the field of the tower's config in `PlaitConfig` and in transformers' configs of several towers.
    main_input: the tower's main input, unless its config's `reads` names another. processor_argument: the argument of
    `PlaitProcessor`'s call; processor_part: the processor's attribute that reads it. columns: the columns that a data
    set may have for it. items: the inputs, one of which is passed, of items that may be absent (none for text, whose
    rows are the items); present_input: the input that says which items are present. wrapped_inputs: further inputs
    that a wrapped model of transformers accepts.
    """

    name: str
    config_field: str
    main_input: str
    processor_argument: str
    processor_part: str
    columns: tuple[str, ...]
    items: tuple[ItemInput, ...] = ()
    present_input: str = ""
    wrapped_inputs: tuple[str, ...] = ()


MODALITY_TABLE = {
    row.name: row
    for row in (
        Modality(
            name="text",
            config_field="text_config",
            main_input="input_ids",
            processor_argument="text",
            processor_part="tokenizer",
            columns=("text", "text_pair"),
            wrapped_inputs=("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "past_key_values"),
        ),
        Modality(
            name="image",
            config_field="vision_config",
            main_input="pixel_values",
            processor_argument="images",
            processor_part="image_processor",
            columns=("image", "image_id"),
            items=(ItemInput("pixel_values", 3, "(batch[, images], channels, height, width)"),),
            present_input="image_present",
        ),
        Modality(
            name="audio",
            config_field="audio_config",
            main_input="input_values",
            processor_argument="audio",
            processor_part="feature_extractor",
            columns=("audio", "audio_id", "sampling_rate"),
            items=(
                ItemInput("input_features", 2, "(batch[, clips], mel bins, frames)", "clip_mask"),
                ItemInput(
                    "input_values",
                    1,
                    "(batch[, clips], samples) or (batch[, clips], frames, mel bins), as the tower reads them",
                    "clip_mask",
                ),
            ),
            present_input="audio_present",
            wrapped_inputs=("attention_mask",),
        ),
        Modality(
            name="video",
            config_field="video_config",
            main_input="pixel_values_videos",
            processor_argument="videos",
            processor_part="frame_processor",
            columns=("video", "video_id"),
            items=(
                ItemInput("pixel_values_videos", 4, "(batch[, clips], frames, channels, height, width)", "frame_mask"),
            ),
            present_input="video_present",
        ),
    )
}
MODALITIES = tuple(MODALITY_TABLE)
MEDIA = tuple(name for name, row in MODALITY_TABLE.items() if row.items)  # all but text
CONFIG_FIELDS = {name: row.config_field for name, row in MODALITY_TABLE.items()}
