"""Normalisers: how many gold dates, times and numbers of real dialogues can be read out of what was said.

    python benchmarks/normalise.py [--from ../shared/data] [--split dev] [--json OUT]

Takes about 20 seconds for SGD's dev split (`--split train`: two minutes). A value counts as verbatim where it stands
in the conversation before its call as it is written, as derived where it does or a date, time or number there has
that value ("by user": in the user's turns alone). The last column is the share of another call's values, of the same
kind, that the conversation seems to state too: how little a reading proves.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import time
from collections import defaultdict
from pathlib import Path

from multimodal_ai.data.recipes import sgd
from multimodal_ai.data.recipes.common import read_jsonl_xz
from multimodal_ai.functions.normalise import facts_of, is_stated

KINDS = {"date": r"\d{4}-\d\d-\d\d", "time": r"\d\d:\d\d", "number": r"\d+(?:\.\d+)?"}
TODAY = datetime.date.fromisoformat(sgd.TODAY)


def cases(file: Path) -> dict[str, list[tuple[str, str, str]]]:
    """By kind, each gold value with what was said before its call, and what of this by the user."""
    found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for dialogue in read_jsonl_xz(file):
        said, asked = list[str](), list[str]()
        for turn in dialogue["turns"]:
            for call in turn.get("calls") or ():
                for value in map(str, call["arguments"].values()):
                    for kind, pattern in KINDS.items():
                        if re.fullmatch(pattern, value):
                            found[kind].append((value, "\n".join(said), "\n".join(asked)))
            said.append(turn["text"])
            if turn["role"] == "user":
                asked.append(turn["text"])
    return found


def _stands(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, default=Path("../shared/data"), help="folder with sgd_*.xz")
    parser.add_argument("--split", choices=("train", "dev"), default="dev")
    parser.add_argument("--json", type=Path, help="write {kind: {metric: value}} here")
    arguments = parser.parse_args()
    results = {}
    print(f"{'kind':8}{'values':>8}{'verbatim':>10}{'derived':>9}{'by user':>9}{'another call’s':>16}{'ms':>7}")
    for kind, found in sorted(cases(arguments.source / f"sgd_dialogues_{arguments.split}.jsonl.xz").items()):
        others = random.Random(0).sample(found, len(found))
        began = time.thread_time()
        facts = [facts_of.__wrapped__(said, TODAY) for _, said, _ in found]
        seconds = time.thread_time() - began
        words = [_stands(value, said) for value, said, _ in found]
        stated = [is_stated(value, known, TODAY) for (value, _, _), known in zip(found, facts, strict=True)]
        user = [_stands(value, said) or is_stated(value, facts_of(said, TODAY), TODAY) for value, _, said in found]
        wrong = [
            is_stated(other, known, TODAY)
            for (value, _, _), (other, _, _), known in zip(found, others, facts, strict=True)
            if other != value
        ]
        results[kind] = {
            "values": len(found),
            "verbatim": sum(words) / len(found),
            "derived": sum(map(max, words, stated)) / len(found),
            "derived_by_user": sum(user) / len(found),
            "derived_by_chance": sum(wrong) / len(wrong),
            "ms": 1000 * seconds / len(found),
        }
        line = results[kind]
        print(
            f"{kind:8}{len(found):8,}{line['verbatim']:10.1%}{line['derived']:9.1%}"
            f"{line['derived_by_user']:9.1%}{line['derived_by_chance']:16.1%}{line['ms']:7.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
