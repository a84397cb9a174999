"""What a run prints, plots and records."""
