"""Where the taps are in each model family, and how ops and heads get there."""
