"""What a trained program is worth: predictions, metrics with intervals, baselines, pictures and tables."""
