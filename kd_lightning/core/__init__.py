"""What all other packages use: types, errors, batches, hashes, files and locks."""
