"""Uploads a checkpoint folder to the Hugging Face hub in one commit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ssmrank.errors import UserError, reason_of
from ssmrank.models.card import CARD_FILE, published

_REPOSITORY = re.compile(r"([\w.-]+/)?[\w.-]+")


def upload(
    write: Callable[[Path], None],
    folder: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
) -> str:
    """Creates the repository if there is none, adds the files of a checkpoint, and returns the commit's address.

    write: writes the checkpoint and its card into `folder`. Nothing is sent before it has done so. Raises UserError,
    of one line, if there is no token, if the hub refuses it, or if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if not _REPOSITORY.fullmatch(repo_id):
        raise UserError(f"repository {repo_id}: is no name of the hub; give OWNER/NAME, or NAME for your own account")
    if (token or get_token()) is None:
        raise UserError(
            f"repository {repo_id}: no token of the hub is known; run `hf auth login`, set HF_TOKEN or give `token`"
        )
    write(folder)
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        card = folder / CARD_FILE
        card.write_text(published(card.read_text(encoding="utf-8"), name), encoding="utf-8")
        commit = api.upload_folder(
            folder_path=folder, repo_id=name, revision=revision, create_pr=create_pr, commit_message=message
        )
    except Exception as error:  # the hub's client raises exceptions of many types
        raise UserError(f"repository {repo_id}: {_reason(error)}") from error
    return commit.pr_url or commit.commit_url


def _reason(error: Exception) -> str:
    """What is wrong and what to do, on one line."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the hub is not asked; unset it"
    if not isinstance(error, HfHubHTTPError):
        return f"cannot be uploaded ({reason_of(error)}); check the network (HF_ENDPOINT, proxies)"
    status, said = error.response.status_code, " ".join((error.server_message or reason_of(error)).split())
    if status == 401:
        return f"the hub does not accept the token ({said}); make a new one and run `hf auth login`"
    if status == 403:
        return f"the token may not write there ({said}); give it the permission to write, or choose another owner"
    return f"the hub answers {status} ({said})"
