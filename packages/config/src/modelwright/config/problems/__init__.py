"""What is wrong with a config: problems, the rules that find them, and how they are worded."""
