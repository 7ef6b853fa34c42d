"""Written dialogues as conversations for `plait train dialogue`: `python examples/chats_from_dialogues.py DATA CHATS`.

DATA is a folder with parquet files whose column `dialogue` holds lines "#Person1#: hello", as in DialogSum. Each file
becomes one of the same name in CHATS, with a column `messages`: the second person to speak is the assistant, everybody
else the user; what one says in several lines is one message. `--rename validation=train` gives a file another name.
"""

import argparse
import json
import re
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as parquet

LINE = re.compile(r"#(?P<who>[^#]+)#:\s*(?P<text>.*)")


def messages(dialogue: str) -> list[dict[str, str]]:
    """The conversation in chat format; lines without a speaker go on with the line before."""
    said: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, dialogue.splitlines())):
        spoken = LINE.fullmatch(line)
        if spoken is not None:
            said.append((spoken["who"], spoken["text"]))
        elif said:
            said[-1] = (said[-1][0], f"{said[-1][1]} {line}")
    names = list(dict.fromkeys(who for who, _ in said))
    turns = groupby(said, key=lambda one: "assistant" if one[0] in names[1:2] else "user")
    return [{"role": role, "content": " ".join(text for _, text in lines)} for role, lines in turns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("chats", type=Path)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    options = parser.parse_args()
    names = dict(pair.split("=") for pair in options.rename)
    options.chats.mkdir(parents=True, exist_ok=True)
    for file in sorted(options.data.glob("*.parquet")):
        chats = [messages(text) for text in parquet.read_table(file, columns=["dialogue"])["dialogue"].to_pylist()]
        kept = [chat for chat in chats if any(message["role"] == "assistant" for message in chat)]
        output = options.chats / f"{names.get(file.stem, file.stem)}.jsonl"
        output.write_text("".join(json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in kept))
        print(f"{output}: {len(kept)} conversations of {len(chats)}")


if __name__ == "__main__":
    main()
