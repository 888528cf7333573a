"""The JSON schema of params.yaml, generated from the classes of its sections."""

from __future__ import annotations

import json

from ssmrank.config.params import Params


def schema_text() -> str:
    """The schema as the text of `workflow/schemas/params.schema.json`."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
