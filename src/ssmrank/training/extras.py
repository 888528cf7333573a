"""Packages that only some trainings need: those of the extra `finetune`."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from ssmrank.errors import UserError


def import_for(name: str, key: str) -> Any:
    """The module `name`, without what it logs while it is imported. Raises UserError if it is not installed.

    key: the key of a training that needs it.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # bitsandbytes warns of kernels that it does not find
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise UserError(
            f"trainings: {key} needs {package}, which is not installed; pip install 'ssmrank[finetune]'"
        ) from error
    finally:
        logging.disable(disabled)
