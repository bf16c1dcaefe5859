"""What everything else stands on: types, errors, batches, hashes, files and locks."""
