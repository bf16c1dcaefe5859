"""Kills the command at many moments, resumes it, and compares what it leaves with a run that was never killed."""
