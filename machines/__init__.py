"""The machines: definitions that decide, and nothing that acts. Pure: no async, no clock, no I/O.

`MACHINES` in `machines/registry.py` is the one list of them.
"""
