"""The level network: drawn spines, random contrast, real images, and its training."""
