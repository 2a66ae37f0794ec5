"""The words that cross a border: events in, notifications and commands out, the system's file.

Ground floor: pydantic and the standard library only. No I/O, no clock, nothing of Relight above it.
"""
