"""The client that other services install, against a real broker and a real Relight."""
