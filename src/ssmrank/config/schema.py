"""The JSON schema of params.yaml, generated from the settings' classes."""

from __future__ import annotations

import json

from ssmrank.config.params import Params


def schema_text() -> str:
    """The schema as `workflow/schemas/params.schema.json` holds it."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"
