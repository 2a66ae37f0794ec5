"""Which shard a system belongs to, and what a token tells. Pure arithmetic that engine, broker and stores share."""

import zlib

EPOCH_BITS = 40
"""A token is `epoch << 40 | number`: a token of a later epoch is higher than every token of an earlier one."""


def shard_of(system: str, shards: int) -> int:
    """The shard of `system`, in [0, shards): the same on every machine and in every version (CRC-32 of its UTF-8)."""
    if shards < 1:
        raise ValueError(f"there must be at least one shard, not {shards}")
    return zlib.crc32(system.encode()) % shards


def token_of(epoch: int, number: int) -> int:
    """The token number `number` of `epoch`; both count from 1."""
    return epoch << EPOCH_BITS | number


def epoch_of(token: int) -> int:
    """The epoch in which `token` was given."""
    return token >> EPOCH_BITS
