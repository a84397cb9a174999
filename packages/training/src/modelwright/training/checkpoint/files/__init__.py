"""The files of a checkpoint: the manifest and the tensors, their checksums, and writing that survives a power cut."""
