"""Reports of the commands: the run folder, the pictures of the split, the metrics of routing."""
