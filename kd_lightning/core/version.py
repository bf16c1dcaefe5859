"""The version of this package, written into every run's folder."""

VERSION = "0.2.0"


def is_readable(version: object) -> bool:
    """Tell whether this version reads the folders of runs of another: their first two numbers are the same.

    Example:
        >>> is_readable(VERSION), is_readable("0.1.0"), is_readable(None)
        (True, False, False)

    """
    return str(version).split(".")[:2] == VERSION.split(".")[:2]
