"""What is measured, and what demo.py shares with it."""

from __future__ import annotations

from logging import ERROR, getLogger


getLogger("bitsandbytes").setLevel(ERROR)  # on some CPUs it misses a kernel, and says so when it is imported
