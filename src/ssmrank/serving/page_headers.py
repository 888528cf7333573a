"""Headers of the server's own pages: a page runs the script and the style that it came with, and loads nothing."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

_BLOCK = r"<{0}>(.*?)</{0}>"


def page_headers(html: str) -> dict[str, str]:
    """The headers of a page. Its policy names each script and style of the page by digest, and allows no others.

    The page may send requests to this server alone, and no other page may show it in a frame.
    """
    policy = {
        "default-src": ["'none'"],
        "script-src": _digests("script", html),
        "style-src": _digests("style", html),
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {' '.join(allowed)}" for name, allowed in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _digests(tag: str, html: str) -> list[str]:
    """Digests of what is between <tag> and </tag>, as a policy has them; 'none' without any."""
    found = re.findall(_BLOCK.format(tag), html, re.DOTALL)
    return [f"'sha256-{b64encode(sha256(block.encode()).digest()).decode()}'" for block in found] or ["'none'"]
