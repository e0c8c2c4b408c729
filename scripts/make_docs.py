#!/usr/bin/env python3
"""Write the generated parts of the README: the table of methods, from the registry; numbers, from benchmark results.

python scripts/make_docs.py            # rewrite
python scripts/make_docs.py --check    # exit 1 where the README is not what would be written
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path

from hf_reprogram.registry import KINDS, method_class, names


ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "scripts" / "benchmarks" / "results"


def methods() -> str:
    """One row per registered method: its name, first sentence, options, paper."""
    rows = ["| kind | name | options | paper |", "|---|---|---|---|"]
    for kind in KINDS:
        for name in names(kind):
            cls = method_class(kind, name)
            options = [
                f.name
                for f in dataclasses.fields(cls.Options)
                if not f.metadata.get("help", "Filled").startswith("Filled")
            ]
            shown = ", ".join(f"`{o}`" for o in options) or "none"
            rows.append(f"| {kind} | `{name}` (`hr.{cls.Options.__name__}`) | {shown} | {cls.paper or 'control'} |")
    return "\n".join(rows)


def result(name: str) -> str:
    """The table that a benchmark wrote."""
    return (RESULTS / f"{name}.md").read_text().strip()


def fill(text: str, mark: str, content: str) -> str:
    """Put `content` between the marks `<!-- mark -->` and `<!-- /mark -->`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"make_docs: no <!-- {mark} --> in {README}")
    return pattern.sub(lambda m: f"{m.group(1)}{content}\n{m.group(2)}", text)


def render(text: str) -> str:
    """The README with its generated parts made anew."""
    for mark, content in (("methods", methods()), ("demo", result("demo")), ("speed", result("speed"))):
        text = fill(text, mark, content)
    return text


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the README is up to date")
    check = parser.parse_args().check
    old = README.read_text()
    new = render(old)
    if not check:
        README.write_text(new)
    elif new != old:
        print("make_docs: README.md is not up to date; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
