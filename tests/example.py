"""The description of the example system as tests use it. Nothing is run here."""

from typing import Any


def without_research(described: dict[str, Any]) -> None:
    """Takes the research-server out of it, whose SDK takes a second of every start, and what is asked of that."""
    del described["mcp"], described["components"]["research-server"]
    reporter = described["components"]["reporter"]
    reporter["needs"] = [need for need in reporter["needs"] if not need.startswith("research")]
    del reporter["env"]["RESEARCH_URL"], reporter["participant"]["disconnect"]
    described["verify"] = [check for check in described["verify"] if "mcp" not in check]
