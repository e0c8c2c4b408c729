#!/usr/bin/env python3
"""Train a program by a recipe; the same as `hf-reprogram train`, for launchers.

python scripts/train.py scripts/recipes/demo.yaml
accelerate launch --config_file scripts/accelerate/ddp.yaml scripts/train.py scripts/recipes/sst2.yaml
torchrun --nproc_per_node 2 scripts/train.py scripts/recipes/demo.yaml training.use_cpu=true
"""

from __future__ import annotations

import sys

from hf_reprogram.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
