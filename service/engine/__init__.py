"""The engine: takes events in, decides, commits, publishes, and has steps performed.

Imports ports, machines, schemas and errors; no adapter, no action, no library of the outside world.
"""
