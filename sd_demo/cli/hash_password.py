"""`hash-password`: the line of a user for the file that --auth-file names; the password is typed or piped in."""

from __future__ import annotations

import getpass
import sys

from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser
from sd_demo.passwords import hash_password


def run(arguments: list[str]) -> int:
    """Print user:hash."""
    parser = Parser(prog="python -m sd_demo hash-password", description=__doc__)
    parser.add_argument("user", metavar="USER", help="The name to log in with.")
    user = parser.parse_args(arguments).user
    if not user or ":" in user or user != user.strip() or user.startswith("#"):
        raise InvalidRequest("A user's name has no colon, no # in front and no spaces around it.")
    if sys.stdin.isatty():
        try:
            password, again = getpass.getpass("Password: "), getpass.getpass("Once more: ")
        except EOFError:  # Ctrl+D
            sys.stderr.write("\n")  # the cursor is still behind the question
            raise InvalidRequest("No password was typed; try again.") from None
        if again != password:
            raise InvalidRequest("The two passwords differ; try again.")
    else:
        try:
            password = sys.stdin.readline().rstrip("\r\n")
        except UnicodeError:
            raise InvalidRequest("The password that was piped in is no UTF-8 text; type it instead.") from None
    print(f"{user}:{hash_password(password)}")
    return 0
