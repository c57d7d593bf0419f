"""A benchmark's flags from its options, with the standard library alone: a bare GPU machine need not have tyro.

In: a frozen dataclass. Out: an instance, from `--field value`; a tuple takes several values, a bool none.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Options = TypeVar("Options")


def options_of(kind: type[Options], description: str | None) -> Options:
    """Return the options of the command line; ends the program with what is wrong."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, **_settings(hints[field.name]))
    found = vars(parser.parse_args())
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def _settings(hint: Any) -> dict[str, Any]:
    """Return argparse's settings for a type: bool, str, int, float, Path or None, a choice, a tuple of any."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is tuple:
        return {"nargs": "*", "type": get_args(hint)[0]}
    if get_origin(hint) is not None and all(isinstance(one, str) for one in get_args(hint)):
        return {"choices": get_args(hint)}
    return {"type": Path if Path in get_args(hint) else hint}
