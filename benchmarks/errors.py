"""What may go wrong with a benchmark, in words for people."""

from service.errors import RelightError


class BenchError(RelightError):
    """A measurement could not be made, or what it left behind is not what it claims to have measured."""
