"""oneclick."""
