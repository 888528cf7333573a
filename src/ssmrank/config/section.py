"""What all sections of params.yaml have in common."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
"""A name that becomes part of file names: letters, digits, dots and dashes."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A seed that all random number generators accept: torch's, NumPy's and FAISS's."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """The base of all settings: unknown keys are errors, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        # YAML reads yes and on as true, which Python would accept as 1.
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is not None and _holds_boolean(value) and _takes_numbers_alone(field.annotation):
                raise NoNumber(name)
        return values


class NoNumber(ValueError):
    """A field for numbers has a boolean; the message is the field's name."""


def _holds_boolean(value: Any) -> bool:
    return any(map(_holds_boolean, value)) if isinstance(value, list) else isinstance(value, bool)


def _takes_numbers_alone(annotation: Any) -> bool:
    """Whether a field accepts numbers, or lists of numbers, but no booleans."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _takes_numbers_alone(parts[0])
    return annotation in (int, float) or (any(map(_takes_numbers_alone, parts)) and bool not in parts)


def suggest(name: str, known: Any) -> str:
    """The end of an error about an unknown name: a similar name, or all known ones."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
