"""Invalidates what a cache of larder holds, from Python.

    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price key:tea tag:tenant:7
    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price clear
    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price partitions:4 key:tea
    python3 invalidate.py redis://127.0.0.1:6379/0 shop:price prefix:svc: key:tea

With redis-py (`pip install redis`), or without it over a plain socket, which knows neither TLS nor passwords.
"""

import itertools
import socket
import sys
import uuid
from binascii import crc_hqx
from pathlib import Path
from urllib.parse import urlsplit

SCRIPT = Path(__file__).with_name("invalidate.lua").read_text()


def crc16(text):
    return crc_hqx(text.encode(), 0)


def hash_tag(namespace, number, partitions):
    """That of a partition, by its number from 0 on. Several partitions have equal parts of the slots of a cluster."""
    if partitions == 1:
        return f"{namespace}.0"
    tags = (f"{namespace}.{number}of{partitions}.{salt}" for salt in itertools.count(1))
    return next(tag for tag in tags if crc16(tag) % 16384 * partitions // 16384 == number)


class Cache:
    """The cache of one namespace, with as many partitions, and with the prefix of keys, that its builder was told."""

    def __init__(self, script, namespace, database=0, partitions=1, prefix=""):
        def start(number, of):
            return prefix + "{" + hash_tag(namespace, number, of) + "}"

        self.script, self.only = script, start(0, 1)
        self.partitions = [Partition(script, start(number, partitions), database) for number in range(partitions)]

    def invalidate(self, keys=(), tags=()):
        """Up to 256 keys, as Redis shows them after the hash tag and a colon, and up to 256 tags: a step for each partition."""
        if not keys and not tags:
            raise ValueError("there is nothing to invalidate: name keys or tags")
        self._check()
        for number, partition in enumerate(self.partitions):
            own = [key for key in keys if crc16(key) % len(self.partitions) == number]
            if own or tags:
                partition.invalidate(own, tags)

    def clear(self):
        self._check()
        for partition in self.partitions:
            partition.clear()

    def _check(self):
        """Fails if the cache has another number of partitions by now. Each step fails, too, if its partition is no longer used."""
        if len(self.partitions) > 1:
            names = [f"{self.only}!clock", f"{self.only}!log"]
            self.script(keys=names, args=["partitions", len(self.partitions)])


class Partition:
    """One partition, whose keys begin with `start`. `script` is what register_script(SCRIPT) of redis-py returns, or the like."""

    def __init__(self, script, start, database):
        self.script, self.start, self.database = script, start, database

    def invalidate(self, keys, tags):
        names = []
        for key in keys:
            names += [f"{self.start}:{key}", f"{self.start}!lease:{key}"]
        names += [f"{self.start}!tag:{tag}" for tag in tags]
        self._run(names, "invalidate")

    def clear(self):
        self._run([], "clear")

    def _run(self, names, what):
        names = [f"{self.start}!clock", f"{self.start}!log", *names]
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
    names = {"key": [], "tag": [], "partitions": [], "prefix": []}
    for text in what:
        if text == "clear":
            continue
        kind, _, name = text.partition(":")
        if kind not in names:
            sys.exit(f"{text}: begin it with key: or tag:, or say clear and nothing else")
        names[kind].append(name)
    partitions = int(names["partitions"].pop()) if names["partitions"] else 1
    prefix = names["prefix"].pop() if names["prefix"] else ""
    cache = Cache(script, namespace, int(urlsplit(url).path.strip("/") or 0), partitions, prefix)
    if "clear" not in what:
        cache.invalidate(keys=names["key"], tags=names["tag"])
    elif names["key"] or names["tag"]:
        sys.exit("clear takes neither keys nor tags")
    else:
        cache.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
