"""Links from a page to files of the repository outside docs, which hold on GitHub and on the site.

A page writes them relative to itself (`../params.yaml`). The site cannot show files outside docs, so each linked file
is copied to `files/` of the site and the link is pointed there. A file that is missing is a warning, and `--strict`
makes it an error. Folders have no page on the site; name them without a link.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()\.\./([^)#\s]+)(#[^)\s]*)?(\))")

log = logging.getLogger("mkdocs.hooks.repository_files")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points each link outside docs to a copy of its file."""
    root = Path(config.docs_dir).parent

    def copied(link: re.Match[str]) -> str:
        begin, path, _, end = link.groups()
        if not (root / path).is_file():
            log.warning(f"{page.file.src_uri}: no file {path} in the repository")
            return link[0]
        # Markdown would become a page, and a page's own links would not hold there.
        target = f"files/{path}" + (".txt" if path.endswith(".md") else "")
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, content=(root / path).read_bytes()))
        return f"{begin}{target}{end}"

    return LINK.sub(copied, markdown)
