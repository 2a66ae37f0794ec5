"""The rooms where libraries live: one library, one room, and none knows another. Nothing is decided here."""
