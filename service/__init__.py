"""The running service: the engine, its adapters, its steps, its commands. `app.py` puts them together."""
