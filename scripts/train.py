"""Train one stage; for `accelerate launch scripts/train.py --config configs/...yaml` and `torchrun`.

The same as `multimodal-ai train`. Exit codes: 0 done, 1 a loss that is not finite, data that cannot be
read or a process that is gone, 2 bad input, 130 after Ctrl-C and 143 after SIGTERM, both with a checkpoint to
continue from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from multimodal_ai.evaluation.in_training import generated_examples
from multimodal_ai.training.interface import TrainingStopped
from multimodal_ai.training.run import run_training
from multimodal_ai.utils.logger import get_logger

logger = get_logger("train")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the stage")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, repeatable")
    arguments = parser.parse_args()
    try:
        return run_training(arguments.config, arguments.set, [generated_examples]).exit_code
    except ValueError as error:
        logger.error("%s", error)
        return 2
    except TrainingStopped as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
