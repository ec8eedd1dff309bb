"""Invalidates what a cache of larder holds, from Python.

    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price key:tea tag:tenant:7
    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price clear

With redis-py (`pip install redis`), or without it over a plain socket, which knows neither TLS nor passwords.
"""

import socket
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

SCRIPT = Path(__file__).with_name("invalidate.lua").read_text()


class Lane:
    """The cache of one namespace. `script` is what register_script(SCRIPT) of redis-py returns, or the like."""

    def __init__(self, script, namespace, database=0):
        self.script, self.prefix, self.database = script, "{" + namespace + ".0}", database

    def invalidate(self, keys=(), tags=()):
        """Up to 256 keys, as Redis shows them after `{namespace.0}:`, and up to 256 tags, in one step."""
        names = []
        for key in keys:
            names += [f"{self.prefix}:{key}", f"{self.prefix}!lease:{key}"]
        names += [f"{self.prefix}!tag:{tag}" for tag in tags]
        self._run(names, "invalidate")

    def clear(self):
        self._run([], "clear")

    def _run(self, names, what):
        names = [f"{self.prefix}!clock", f"{self.prefix}!log", *names]
        self.script(keys=names, args=[what, self.database, uuid.uuid4().hex])


def plain_script(url):
    """As register_script of redis-py, with the standard library."""

    def run(keys, args):
        with socket.create_connection((url.hostname, url.port or 6379), timeout=5) as server:
            answers = server.makefile("rb")
            for words in (["SELECT", url.path.strip("/") or 0], ["EVAL", SCRIPT, len(keys), *keys, *args]):
                words = [str(word).encode() for word in words]
                parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
                server.sendall(b"*%d\r\n" % len(parts) + b"".join(parts))
                answer = answers.readline().strip().decode()
                if answer != "+OK":
                    raise RuntimeError(answer.lstrip("-") or "Redis has closed the connection")

    return run


def main(url, namespace, *what):
    try:
        import redis

        script = redis.Redis.from_url(url).register_script(SCRIPT)
    except ImportError:
        script = plain_script(urlsplit(url))
    lane = Lane(script, namespace, int(urlsplit(url).path.strip("/") or 0))
    if what == ("clear",):
        return lane.clear()
    names = {"key": [], "tag": []}
    for text in what:
        kind, _, name = text.partition(":")
        if kind not in names:
            sys.exit(f"{text}: begin it with key: or tag:, or say clear and nothing else")
        names[kind].append(name)
    lane.invalidate(keys=names["key"], tags=names["tag"])


if __name__ == "__main__":
    main(*sys.argv[1:])
