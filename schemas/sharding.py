"""Which shard a system belongs to: pure arithmetic that engine, broker and stores share. Nothing else lives here."""

import zlib


def shard_of(system: str, shards: int) -> int:
    """The shard of `system`, in [0, shards): the same on every machine and in every version (CRC-32 of its UTF-8)."""
    if shards < 1:
        raise ValueError(f"there must be at least one shard, not {shards}")
    return zlib.crc32(system.encode()) % shards
