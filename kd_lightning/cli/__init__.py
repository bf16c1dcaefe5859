"""The command: the only code, with `schema.py`, that knows Hydra."""
