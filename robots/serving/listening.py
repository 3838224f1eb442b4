"""Where a server listens, and whom it serves."""

import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from fewstep.plans.errors import UserError

SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True)
class Listening:
    """The address of a server, the token that its clients must have, and the number of robots that it serves at
    once."""

    host: str
    port: int
    token: str | None = None
    robots: int = 1

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def address(self, port: int) -> str:
        """Return the host with a port, as clients write it."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def admits(self, token: str | None) -> bool:
        """Return whether a client with this token is served."""
        if self.token is None:
            return True
        sent = "" if token is None else token
        return hmac.compare_digest(sent.encode(errors="surrogatepass"), self.token.encode())


def read_token(path: Path) -> str:
    """Read the token of a file: its only line."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token file {path} cannot be read: {error}", "give a text file of one line") from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        fix = "write a line of 16 or more letters and digits, such as: openssl rand -hex 32 > FILE"
        raise UserError(f"the token file {path} has no usable token", fix)
    return token
