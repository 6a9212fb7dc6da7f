"""Evaluation for `accelerate launch`: the same options as `multimodal-ai eval`, work shared by all processes.

accelerate launch --num_processes 4 scripts/eval.py --model runs/quickstart --data data/digits/test.parquet
"""

from __future__ import annotations

import sys

from multimodal_ai.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "eval")
    main()
