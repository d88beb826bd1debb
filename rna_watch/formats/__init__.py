"""One file a format: is it a checkpoint, is it complete, where are its tensors."""
