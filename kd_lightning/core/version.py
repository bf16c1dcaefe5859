"""The version of this package, written into every run's folder."""

VERSION = "0.2.0"
