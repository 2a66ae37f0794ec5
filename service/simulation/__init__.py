"""The simulation: replicas of the real engine on adapters in memory, in virtual time, through faults drawn from a seed.

A composition root like `app.py`: it builds adapters, and nothing of the service imports it but the command line.
"""
