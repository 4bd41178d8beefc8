"""What leaves the house: a trained genotype in forms that others can deploy, proven equal."""
