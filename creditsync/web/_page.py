"""
The console's page: files of this package, read once at the start.
"""

from hashlib import blake2b
from importlib.resources import files
from typing import Final

from twisted.web import http
from twisted.web.http import Request

from creditsync.web._responses import SiteResource

_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
}


class File(SiteResource):
    """
    One file.
    """

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__()
        self._content = content
        self._type = _TYPES[name.rpartition(".")[2]]
        self._tag = b'"%s"' % blake2b(content, digest_size=12).hexdigest().encode()

    def render_GET(self, request: Request) -> bytes:
        """
        The file, unless the browser has this version of it.
        """
        request.setHeader(b"Cache-Control", b"no-cache")
        if request.setETag(self._tag) is http.CACHED:
            return b""
        request.setHeader(b"Content-Type", self._type)
        return self._content


class Folder(SiteResource):
    """
    C{static}: the page's scripts and styles.
    """

    def __init__(self) -> None:
        super().__init__()
        for each in files(__package__).joinpath("static").iterdir():
            if each.name.rpartition(".")[2] in _TYPES:
                self.putChild(each.name.encode(), File(each.name, each.read_bytes()))
