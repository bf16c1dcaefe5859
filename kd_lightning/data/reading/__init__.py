"""Where rows and texts come from: files, folders, the Hugging Face hub."""
