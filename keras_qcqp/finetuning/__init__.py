"""Recovery with training: fine-tuning that resumes after a kill, alone or between the steps of tightening a budget."""
