"""Process components of this host: each under a small supervisor that outlives Relight. No engine and no step here.

The supervisor's own Python imports this package first: it stays empty, so that a start takes a tenth of a second.
"""
