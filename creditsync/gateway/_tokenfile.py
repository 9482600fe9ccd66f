"""
The file with the gateway's token for the platform.
"""

from pathlib import Path

from attrs import define


@define(eq=False)
class TokenFile:
    """
    The token for the platform, in a file that somebody renews.
    """

    _path: Path
    _token: str = ""

    def current(self) -> str:
        """
        The token that was read last.

        @raise OSError: The file can't be read.
        @raise ValueError: It has no token.
        """
        return self._token or self.read()

    def read(self) -> str:
        """
        Read the file again.

        @raise OSError: It can't be read.
        @raise ValueError: It has no token.
        """
        token = self._path.read_text("ascii").strip()
        if not token:
            raise ValueError(f"the token file {self._path} is empty")
        self._token = token
        return token
