"""Union residuals: which channels an addition keeps on each side, and how its operands are aligned."""
