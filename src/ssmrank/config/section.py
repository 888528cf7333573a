"""What all sections of params.yaml have in common."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
"""A name that becomes part of file names: letters, digits, dots and dashes."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What every generator of random numbers takes: torch's, NumPy's, FAISS's."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Settings that reject keys they do not know and are not changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        # In YAML yes and on are true, which Python takes for 1.
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is not None and _holds_boolean(value) and _takes_numbers_alone(field.annotation):
                raise NoNumber(name)
        return values


class NoNumber(ValueError):
    """The field of this name holds a boolean."""


def _holds_boolean(value: Any) -> bool:
    return any(map(_holds_boolean, value)) if isinstance(value, list) else isinstance(value, bool)


def _takes_numbers_alone(annotation: Any) -> bool:
    """Whether a field takes numbers, or lists of them, and no boolean."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _takes_numbers_alone(parts[0])
    return annotation in (int, float) or (any(map(_takes_numbers_alone, parts)) and bool not in parts)


def suggest(name: str, known: Any) -> str:
    """What an error about an unknown name ends with: a near one, or all that are known."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
