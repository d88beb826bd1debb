"""The common value of all formats: where tensors lie, which content a file holds, and plain acts on the disk."""
