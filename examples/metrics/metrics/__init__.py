"""A small Performance Metrics Framework: trades in a PostgreSQL of its own, running metrics in memory, a report.

It knows nothing of Relight's code. What it needs to take part stands in participant.py, in plain aio-pika.
"""
