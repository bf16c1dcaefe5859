"""One script per claim; never imported by the library."""
