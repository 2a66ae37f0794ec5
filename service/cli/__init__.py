"""Relight's command line: what people type and read. Nothing here decides; it asks store, broker and tables."""
