"""The script beside this file needs other people's code: no test collects it."""

collect_ignore = ["make.py"]
