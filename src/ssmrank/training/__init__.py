"""Fine-tuning: groups of a positive and its negatives, loss, schedule, loop, resumable state."""
