"""Every trap of a list is a test beside it, a test elsewhere that is named, or a reason why it is none of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path


ROOT = Path(__file__).parents[2]


def numbers_of_tests(module: Mapping[str, object], prefix: str) -> set[str]:
    """Numbers in the names of a module's tests: `test_e0_04_...` has 04."""
    found = (re.match(rf"{prefix}(\d\d[a-z]?)_", name, re.IGNORECASE) for name in module)
    return {match.group(1) for match in found if match}


def check_accounts(
    numbers: Iterable[str], here: set[str], elsewhere: Mapping[str, str], not_ours: Mapping[str, str]
) -> None:
    """Raise where a number is in none of the three, or in two, or where a test that is named is not there.

    Args:
        numbers: of the list.
        here: numbers of the tests beside the tables.
        elsewhere: `file::text`, where the text (a test's name, a table's row) stands in the file.
        not_ours: reasons.
    """
    accounts = [here, set(elsewhere), set(not_ours)]
    missing = set(numbers) - set.union(*accounts)
    assert not missing, f"traps without a test, a place or a reason: {sorted(missing)}"
    unknown = set.union(*accounts) - set(numbers)
    assert not unknown, f"no such traps: {sorted(unknown)}"
    twice = {n for n in numbers if sum(n in account for account in accounts) > 1}
    assert not twice, f"traps that are accounted for twice: {sorted(twice)}"
    for number, place in elsewhere.items():
        file, _, text = place.partition("::")
        assert text and text in (ROOT / file).read_text(), f"trap {number}: {text!r} is not in {file}"
