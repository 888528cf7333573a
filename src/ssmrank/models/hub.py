"""Downloads checkpoints of the Hugging Face hub at one commit, which is recorded beside the files."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ssmrank.config.models import HubModel
from ssmrank.errors import UserError, reason_of
from ssmrank.io.model_files import COMMITS_FILE

log = logging.getLogger(__name__)

TRIES = 3
TIMEOUT_SECONDS = 7.0
"""Without a network, an error is raised after `TRIES` tries of this length."""


def download(source: HubModel, target: Path, wanted: Callable[[Iterable[str]], list[str]]) -> None:
    """Writes the wanted files of a repository, and their commit, into an existing folder.

    Without a `revision` the newest commit is taken, and logged so that it can be put into params.yaml.

    Raises UserError if the hub does not answer, or has no such repository or revision.
    """
    from huggingface_hub import snapshot_download

    try:
        commit, names = _newest(source)
        snapshot_download(
            source.id,
            revision=commit,
            local_dir=target,
            allow_patterns=wanted(names),
            etag_timeout=TIMEOUT_SECONDS,
        )
    except UserError:
        raise
    except Exception as error:  # the hub's client raises many kinds
        raise UserError(
            f"model {source.id}: cannot be downloaded from the hub ({reason_of(error)}); check the id and the network, "
            "or give a folder as source"
        ) from error
    if source.revision != commit:
        log.info("%s: commit %s; `revision: %s` in params.yaml keeps it", source.id, commit, commit)
    _record(target / COMMITS_FILE, source.id, commit)


def _newest(source: HubModel) -> tuple[str, list[str]]:
    """The commit of the source's revision and the names of its files; tried again if the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for number in range(1, TRIES + 1):
        try:
            found = HfApi().model_info(source.id, revision=source.revision, timeout=TIMEOUT_SECONDS)
            return str(found.sha), [file.rfilename for file in found.siblings or []]
        except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
            raise  # the hub answered, or must not be asked
        except Exception as error:  # from the client's HTTP library, which differs between its versions
            reason = str(error).strip() or type(error).__name__
            log.info("%s: the hub does not answer (%s), try %d of %d", source.id, reason, number, TRIES)
            if number == TRIES:
                raise UserError(
                    f"model {source.id}: the hub cannot be reached in {TRIES} tries ({reason}); check the network "
                    "(HF_ENDPOINT, proxies), or give a folder as source"
                ) from error
            time.sleep(1)
    raise AssertionError("unreachable")


def _record(path: Path, id: str, commit: str) -> None:
    commits = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(commits | {id: commit}, indent=2) + "\n", encoding="utf-8")
