"""Tells transformers of architectures that it does not have."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


def register_classes(config: Any, backbone: Any, language_model: Any) -> None:
    """Makes the classes known to transformers' Auto classes, unless another library did that with its own."""
    if config.model_type not in CONFIG_MAPPING:
        AutoConfig.register(config.model_type, config)
        AutoModel.register(config, backbone)
        AutoModelForCausalLM.register(config, language_model)
