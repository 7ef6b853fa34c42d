"""The captioner of `end_to_end.py` as transformers has it: a VisionEncoderDecoder trained by Seq2SeqTrainer.

    python benchmarks/captioning_peer.py --model VIT --decoder GPT2 --data FOLDER --output FOLDER

Each caption is a row with its image. Prints BLEU of the test images against all their captions last.
"""

import argparse
import json
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers as hf
from datasets import Features, Value
from end_to_end_peers import build_arguments, load_splits
from sacrebleu import corpus_bleu

Rows = dict[str, list[Any]]


def split_captions(rows: Rows) -> Rows:
    """Makes a row of each caption."""
    counts = [len(texts) for texts in rows["captions"]]
    images = [image for image, count in zip(rows["image"], counts, strict=True) for _ in range(count)]
    return {"image": images, "captions": [text for texts in rows["captions"] for text in texts]}


def prepare(rows: Rows, processor: Any, tokenizer: Any, length: int) -> Rows:
    """Makes pixels and labels, padded to a length; of several captions of a row the first."""
    pixels = processor([image.convert("RGB") for image in rows["image"]], return_tensors="pt").pixel_values
    texts = [text if isinstance(text, str) else text[0] for text in rows["captions"]]
    ended = [text + tokenizer.eos_token for text in texts]
    found = tokenizer(ended, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    labels = found.input_ids.masked_fill(found.attention_mask == 0, -100)
    return {"pixel_values": list(pixels), "labels": list(labels)}


def measure(prediction: Any, photos: Any, tokenizer: Any) -> dict[str, float]:
    """Computes BLEU of what was generated for each photo against all its captions."""
    tokens = np.where(prediction.predictions < 0, tokenizer.pad_token_id, prediction.predictions)
    texts = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    references = [list(column) for column in zip(*photos["captions"], strict=True)]
    return {"bleu": corpus_bleu(texts, references).score}


def build_model(options: argparse.Namespace, tokenizer: Any) -> Any:
    """Puts cross-attention to the image encoder, new, into the decoder."""
    # from_encoder_decoder_pretrained asks the config for is_decoder, which GPT-2's lacks in transformers 5.23
    encoder = hf.AutoModel.from_pretrained(options.model)
    decoder = hf.AutoModelForCausalLM.from_pretrained(options.decoder, add_cross_attention=True)
    model: Any = hf.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.encoder.requires_grad_(not options.frozen)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.bos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "decoder", "data", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rows", type=int, nargs=3, default=[10**9] * 3, help="photos by split")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--max_length", type=int, default=24, help="tokens of a caption")
    parser.add_argument("--frozen", action="store_true", help="the encoder is not trained")
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = load_splits(options)
    processor: Any = hf.AutoImageProcessor.from_pretrained(options.model)
    tokenizer: Any = hf.AutoTokenizer.from_pretrained(options.decoder, pad_token="<|endoftext|>")
    model = build_model(options, tokenizer)
    made = partial(prepare, processor=processor, tokenizer=tokenizer, length=options.max_length)
    features = Features({"image": photos["train"].features["image"], "captions": Value("string")})
    train = photos["train"].map(
        split_captions, batched=True, batch_size=50, remove_columns=photos["train"].column_names, features=features
    )
    trainer = hf.Seq2SeqTrainer(
        model,
        build_arguments(
            options,
            hf.Seq2SeqTrainingArguments,
            metric_for_best_model="bleu",
            remove_unused_columns=False,
            predict_with_generate=True,
            generation_max_length=options.max_length,
        ),
        train_dataset=train.with_transform(made),
        eval_dataset=photos["validation"].with_transform(made),
        processing_class=processor,
        compute_metrics=partial(measure, photos=photos["validation"], tokenizer=tokenizer),
    )
    trainer.train()
    trainer.save_model()
    trainer.compute_metrics = None
    test: Any = photos["test"].with_transform(made)
    found = measure(trainer.predict(test), photos["test"], tokenizer)
    print(json.dumps({"steps": trainer.state.global_step, "metric": found["bleu"]}))


if __name__ == "__main__":
    main()
